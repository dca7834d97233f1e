//! Evidence: of the processor, and of every GPU that was declared.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Value, json};

use deadline::Deadline;

use crate::aael::EventError;
use crate::protocol::{ReportData, RuntimeData, Tee, gpu_nonce};

pub mod deadline;
pub mod nvml;
pub mod sample;
pub mod snp;
pub mod tsm;

/// How long GPUs may take to sign, all together.
const GPUS_ANSWER: Duration = Duration::from_secs(20);

/// Why there is no evidence.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "Display says it")]
pub enum EvidenceError {
    /// The kernel's interface for reports failed.
    #[error("the processor's report cannot be had: {}", path.display())]
    Report {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// What it gave is no report.
    #[error("the processor's report is not usable: {0}")]
    Malformed(String),
    /// Another provider than the processor's.
    #[error("the kernel's reports are by {found:?}, and this machine's are by {wanted:?}")]
    Provider { found: String, wanted: &'static str },
    /// Somebody else asked for a report in between.
    #[error("another report was asked for at the same time")]
    Raced,
    /// The driver's library failed.
    #[error("GPU {gpu}: {what}")]
    Gpu { gpu: String, what: String },
    /// There is no library.
    #[error("GPUs cannot be asked for evidence: {0}")]
    Library(String),
    /// Nobody answered in time.
    #[error("the GPUs gave no evidence within {} s", .0.as_secs())]
    Late(Duration),
    /// Others than declared.
    #[error("{found} GPUs gave evidence, and the pod's initdata declares {declared}")]
    Count { found: usize, declared: u16 },
    /// One that counts twice.
    #[error("GPU {0} gave evidence twice")]
    Twice(String),
    /// Switches.
    #[error(
        "the pod's initdata declares {0} NVSwitches (a whole Hopper board, in protected PCIe mode), and their evidence (LS10) is had \
         by NVIDIA's library NSCQ only, which this guest does not have: take GPUs without switches"
    )]
    Switches(u16),
    /// The log of runtime events.
    #[error("the log of runtime events cannot be shown")]
    Events(#[from] EventError),
}

/// The processor.
pub trait Cpu: Send + Sync {
    /// Its kind.
    fn tee(&self) -> Tee;

    /// Evidence over `data`, as the broker's verifier for this kind reads it.
    ///
    /// # Errors
    ///
    /// [`EvidenceError`].
    fn evidence(&self, data: &[u8; 64]) -> Result<Value, EvidenceError>;
}

/// One GPU's evidence, as Trustee's verifier for NVIDIA reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Device {
    /// `HOPPER` or `BLACKWELL`.
    pub arch: String,
    /// The driver's name of it.
    pub uuid: String,
    /// The report, in base64: request and response of SPDM's GET_MEASUREMENTS.
    pub evidence: String,
    /// The chain of certificates, PEM in base64.
    pub certificate: String,
}

/// The GPUs.
pub trait Gpus: Send + Sync {
    /// Evidence of every GPU that is there, over `nonce`. One that fails fails all.
    ///
    /// # Errors
    ///
    /// [`EvidenceError`].
    fn evidence(&self, nonce: [u8; 32]) -> Result<Vec<Device>, EvidenceError>;

    /// Lets the GPUs take work, all of them: somebody believed their evidence.
    ///
    /// # Errors
    ///
    /// [`EvidenceError`].
    fn accept_work(&self) -> Result<(), EvidenceError>;
}

/// What the pod's owner declared of its devices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Declared {
    /// GPUs.
    pub gpus: u16,
    /// NVSwitches.
    pub switches: u16,
}

/// Where the GPUs' evidence comes from.
#[derive(Clone)]
pub enum Source {
    /// Their driver.
    Driver(Arc<dyn Gpus>),
    /// Nowhere: this is no confidential VM, and its evidence proves nothing.
    Sample,
}

/// The VM: its processor and its GPUs.
pub struct Attester {
    cpu: Box<dyn Cpu>,
    gpus: Source,
    declared: Declared,
    deadline: Deadline,
    /// How long the GPUs' driver may take for an answer.
    patience: Duration,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Driver(_) => "Driver",
            Self::Sample => "Sample",
        })
    }
}

impl std::fmt::Debug for Attester {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attester")
            .field("tee", &self.tee())
            .field("declared", &self.declared)
            .finish_non_exhaustive()
    }
}

/// Evidence of the whole VM.
#[derive(Debug, Clone, PartialEq)]
pub struct Composite {
    /// The processor's, which covers the other one.
    pub primary: Value,
    /// The GPUs', as the text that is hashed; empty without GPUs.
    pub additional: String,
}

impl Attester {
    /// A VM with these devices.
    pub fn new(cpu: Box<dyn Cpu>, gpus: Source, declared: Declared) -> Self {
        Self { cpu, gpus, declared, deadline: Deadline::default(), patience: GPUS_ANSWER }
    }

    /// The same with another limit for the GPUs' driver.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The processor's kind.
    pub fn tee(&self) -> Tee {
        self.cpu.tee()
    }

    /// The kinds of the other evidence, by the names that the protocol has for them.
    pub fn additional_tees(&self) -> Vec<&'static str> {
        match &self.gpus {
            _ if self.declared.gpus == 0 => Vec::new(),
            Source::Driver(_) => vec!["nvidia"],
            Source::Sample => vec!["sampledevice"],
        }
    }

    /// Evidence of everything, bound to a session.
    ///
    /// # Errors
    ///
    /// [`EvidenceError`], also for a GPU that is declared and gave none.
    pub fn composite(&self, runtime: &RuntimeData) -> Result<Composite, EvidenceError> {
        let additional = self.additional(&runtime.device_data())?;
        let primary = self.cpu.evidence(&runtime.report_data(&additional).field())?;
        Ok(Composite { primary, additional })
    }

    /// Lets the GPUs take work, where there are some: to be called when a verifier believed the evidence. A driver that hangs
    /// is left.
    ///
    /// # Errors
    ///
    /// [`EvidenceError`].
    pub fn believed(&self) -> Result<(), EvidenceError> {
        match &self.gpus {
            Source::Driver(driver) if self.declared.gpus > 0 => {
                let driver = driver.clone();
                let done = self.deadline.within(self.patience, move || driver.accept_work());
                done.ok_or(EvidenceError::Late(self.patience))?
            }
            _ => Ok(()),
        }
    }

    /// Whether there are GPUs that wait for somebody to believe their evidence.
    pub fn has_driver(&self) -> bool {
        matches!(self.gpus, Source::Driver(_)) && self.declared.gpus > 0
    }

    /// The processor's evidence over any data.
    ///
    /// # Errors
    ///
    /// [`EvidenceError`].
    pub fn primary(&self, data: &[u8; 64]) -> Result<Value, EvidenceError> {
        self.cpu.evidence(data)
    }

    /// The GPUs' evidence over any data, as text; empty without GPUs.
    ///
    /// # Errors
    ///
    /// [`EvidenceError`], also for a GPU that is declared and gave none.
    pub fn additional(&self, data: &ReportData) -> Result<String, EvidenceError> {
        let Declared { gpus, switches } = self.declared;
        if switches > 0 {
            return Err(EvidenceError::Switches(switches));
        }
        let evidence = match &self.gpus {
            _ if gpus == 0 => return Ok(String::new()),
            Source::Driver(driver) => {
                let (driver, nonce) = (driver.clone(), gpu_nonce(data));
                let devices = self
                    .deadline
                    .within(self.patience, move || driver.evidence(nonce))
                    .ok_or(EvidenceError::Late(self.patience))??;
                all(&devices, gpus)?;
                json!({ "nvidia": { "device_evidence_list": devices } })
            }
            // There is no more than one device in this kind of evidence.
            Source::Sample if gpus > 1 => return Err(EvidenceError::Count { found: 1, declared: gpus }),
            Source::Sample => {
                json!({ "sampledevice": { "svn": "2", "report_data": STANDARD.encode(data.hash()) } })
            }
        };
        Ok(evidence.to_string())
    }
}

/// Each declared GPU once, and no other.
fn all(devices: &[Device], declared: u16) -> Result<(), EvidenceError> {
    if devices.len() != usize::from(declared) {
        return Err(EvidenceError::Count { found: devices.len(), declared });
    }
    let (mut names, mut keys) = (BTreeSet::new(), BTreeSet::new());
    let twice = devices.iter().find(|device| {
        // Two that sign with one key are one, whatever they are called.
        !names.insert(device.uuid.as_str()) || !keys.insert(device.certificate.as_str())
    });
    twice.map_or(Ok(()), |device| Err(EvidenceError::Twice(device.uuid.clone())))
}

#[cfg(test)]
mod tests;
