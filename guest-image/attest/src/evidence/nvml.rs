//! GPUs by NVIDIA's driver: its library NVML, from the measured image.
//!
//! [`Library`] is the seam: what is asked of the driver, one call each. [`Installed`] asks the library that the image has.

use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nvml_wrapper::Nvml as Loaded;
use nvml_wrapper::enums::device::DeviceArchitecture;
use nvml_wrapper::error::NvmlError;
use shared_types::GpuMode;

use super::{Device, EvidenceError, Gpus};

/// What the driver says of a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The driver's name of this one.
    pub uuid: String,
    /// Its place on the bus.
    pub slot: String,
    /// The number of its device node.
    pub minor: u32,
    /// What it is, in NVIDIA's words.
    pub product: String,
    /// `HOPPER` or `BLACKWELL`; others sign no reports.
    pub arch: Option<&'static str>,
}

/// What is asked of the driver. An error is the driver's own word.
#[expect(clippy::missing_errors_doc, reason = "the driver's own, each time")]
pub trait Library: Sync {
    /// How many GPUs it has.
    fn count(&self) -> Result<u32, String>;
    /// What one is.
    fn facts(&self, index: u32) -> Result<Facts, String>;
    /// Which mode it runs one in.
    fn mode(&self, index: u32) -> Result<GpuMode, String>;
    /// One's report over a nonce: request and response of SPDM's GET_MEASUREMENTS.
    fn report(&self, index: u32, nonce: [u8; 32]) -> Result<Vec<u8>, String>;
    /// The chain of certificates of the key that signs reports, PEM.
    fn chain(&self, index: u32) -> Result<Vec<u8>, String>;
    /// Lets the GPUs take work.
    fn accept_work(&self) -> Result<(), String>;
}

/// GPUs by a library that is opened for each question: questions are rare, and the library keeps memory.
pub struct Nvml<O>(O);

impl<O> std::fmt::Debug for Nvml<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nvml")
    }
}

impl<L: Library, O: Fn() -> Result<L, String>> Nvml<O> {
    /// By a library that `open` opens.
    pub const fn new(open: O) -> Self {
        Self(open)
    }

    /// A line for each GPU, for PID 1: place on the bus, number, mode, name, product, with tabs between.
    ///
    /// # Errors
    ///
    /// [`EvidenceError`] for the first GPU that does not answer.
    pub fn list(&self) -> Result<Vec<String>, EvidenceError> {
        let library = (self.0)().map_err(EvidenceError::Library)?;
        let line = |index: u32| {
            let failed = |what| EvidenceError::Gpu { gpu: index.to_string(), what };
            let Facts { slot, minor, uuid, product, .. } = library.facts(index).map_err(failed)?;
            let mode = library.mode(index).map_err(failed)?.name();
            Ok([&slot, minor.to_string().as_str(), mode, &uuid, &product].join("\t"))
        };
        (0..library.count().map_err(EvidenceError::Library)?).map(line).collect()
    }
}

impl<L: Library, O: Fn() -> Result<L, String> + Send + Sync> Gpus for Nvml<O> {
    fn evidence(&self, nonce: [u8; 32]) -> Result<Vec<Device>, EvidenceError> {
        let library = (self.0)().map_err(EvidenceError::Library)?;
        let count = library.count().map_err(EvidenceError::Library)?;
        // Each GPU signs by itself, all at once.
        thread::scope(|scope| {
            let ask = |index| {
                let library = &library;
                scope.spawn(move || device(library, index, nonce))
            };
            let asked: Vec<_> = (0..count).map(ask).collect();
            let answer = |(index, thread): (usize, thread::ScopedJoinHandle<'_, _>)| {
                let panicked =
                    |_| EvidenceError::Gpu { gpu: index.to_string(), what: "asking it failed".to_owned() };
                thread.join().map_err(panicked)?
            };
            asked.into_iter().enumerate().map(answer).collect()
        })
    }

    fn accept_work(&self) -> Result<(), EvidenceError> {
        (self.0)().and_then(|library| library.accept_work()).map_err(EvidenceError::Library)
    }
}

fn device(library: &impl Library, index: u32, nonce: [u8; 32]) -> Result<Device, EvidenceError> {
    let by_index = |what| EvidenceError::Gpu { gpu: index.to_string(), what };
    let Facts { uuid, arch, product, .. } = library.facts(index).map_err(by_index)?;
    let named = |what: String| EvidenceError::Gpu { gpu: uuid.clone(), what };
    let arch = arch.ok_or_else(|| named(format!("{product} signs no reports")))?.to_owned();
    let report = library.report(index, nonce).map_err(named)?;
    let chain = library.chain(index).map_err(named)?;
    if report.is_empty() || chain.is_empty() {
        return Err(named("its report or its chain of certificates is empty".to_owned()));
    }
    let (evidence, certificate) = (STANDARD.encode(report), STANDARD.encode(chain));
    Ok(Device { arch, uuid, evidence, certificate })
}

/// The library in the image.
#[derive(Debug)]
pub struct Installed(Loaded);

impl Installed {
    /// Loads it.
    ///
    /// # Errors
    ///
    /// Its own, also where there is none.
    pub fn open() -> Result<Self, String> {
        Loaded::init().map(Self).map_err(said)
    }
}

fn said(error: NvmlError) -> String {
    error.to_string()
}

impl Library for Installed {
    fn count(&self) -> Result<u32, String> {
        self.0.device_count().map_err(said)
    }

    fn facts(&self, index: u32) -> Result<Facts, String> {
        let device = self.0.device_by_index(index).map_err(said)?;
        let arch = match device.architecture().map_err(said)? {
            DeviceArchitecture::Hopper => Some("HOPPER"),
            DeviceArchitecture::Blackwell => Some("BLACKWELL"),
            _ => None,
        };
        Ok(Facts {
            uuid: device.uuid().map_err(said)?,
            slot: device.pci_info().map_err(said)?.bus_id,
            minor: device.minor_number().map_err(said)?,
            product: device.name().map_err(said)?,
            arch,
        })
    }

    fn mode(&self, index: u32) -> Result<GpuMode, String> {
        let device = self.0.device_by_index(index).map_err(said)?;
        if device.is_cc_dev_mode_enabled().map_err(said)? {
            return Ok(GpuMode::Devtools);
        }
        if device.is_multi_gpu_protected_pcie_enabled().map_err(said)? {
            return Ok(GpuMode::Ppcie);
        }
        Ok(if device.is_cc_enabled().map_err(said)? { GpuMode::On } else { GpuMode::Off })
    }

    fn report(&self, index: u32, nonce: [u8; 32]) -> Result<Vec<u8>, String> {
        let device = self.0.device_by_index(index).map_err(said)?;
        let report = device.confidential_compute_gpu_attestation_report(nonce).map_err(said)?;
        Ok(report.attestation_report)
    }

    fn chain(&self, index: u32) -> Result<Vec<u8>, String> {
        let device = self.0.device_by_index(index).map_err(said)?;
        Ok(device.confidential_compute_gpu_certificate().map_err(said)?.attestation_cert_chain)
    }

    fn accept_work(&self) -> Result<(), String> {
        // The library sets all GPUs at once, by any of them (NVML, `nvmlSystemSetConfComputeGpusReadyState`).
        let device = self.0.device_by_index(0).map_err(said)?;
        device.set_confidential_compute_state(true).map_err(said)
    }
}
