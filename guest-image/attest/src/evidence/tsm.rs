//! Reports of SNP and TDX through the kernel's configfs (Linux, `Documentation/ABI/testing/configfs-tsm-report`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Cpu, EvidenceError, snp};
use crate::aael::EventLog;
use crate::protocol::Tee;

/// Where a report is asked for; the kernel makes the directory when it has a provider.
pub const REPORTS: &str = "/sys/kernel/config/tsm/report";
/// Longest report that is read, in bytes; the kernel's own bound of a quote is 128 KiB.
const LONGEST: usize = 256 << 10;

/// A processor that the kernel asks for reports.
#[derive(Debug)]
pub struct Tsm {
    reports: PathBuf,
    kind: Kind,
    /// What TDX's register was extended by.
    events: Option<EventLog>,
    /// One at a time: an entry's answer is that of the last question.
    turn: Mutex<()>,
}

/// The kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// AMD SEV-SNP.
    Snp,
    /// Intel TDX.
    Tdx,
}

impl Kind {
    /// The kernel's driver of it.
    const fn provider(self) -> &'static str {
        match self {
            Self::Snp => "sev_guest",
            Self::Tdx => "tdx_guest",
        }
    }
}

impl Tsm {
    /// Asks below `reports`, which is [`REPORTS`].
    pub fn new(reports: &Path, kind: Kind) -> Self {
        Self { reports: reports.to_owned(), kind, events: None, turn: Mutex::new(()) }
    }

    /// The same with a log that goes with the quote.
    #[must_use]
    pub fn with_events(self, events: EventLog) -> Self {
        Self { events: Some(events), ..self }
    }

    /// The report over `data`: SNP's own, or TDX's quote.
    fn report(&self, data: &[u8; 64]) -> Result<Vec<u8>, EvidenceError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = Entry::make(self.reports.join("coffer"))?;
        entry.write("inblob", data)?;
        let provider = entry.text("provider")?;
        if provider != self.kind.provider() {
            return Err(EvidenceError::Provider { found: provider, wanted: self.kind.provider() });
        }
        // It counts questions; the answer is to ours if there was no other one.
        let before = entry.text("generation")?;
        let report = entry.read("outblob")?;
        if entry.text("generation")? != before {
            return Err(EvidenceError::Raced);
        }
        Ok(report)
    }
}

impl Cpu for Tsm {
    fn tee(&self) -> Tee {
        match self.kind {
            Kind::Snp => Tee::Snp,
            Kind::Tdx => Tee::Tdx,
        }
    }

    fn evidence(&self, data: &[u8; 64]) -> Result<Value, EvidenceError> {
        match self.kind {
            Kind::Snp => snp::evidence(&self.report(data)?, data),
            Kind::Tdx => {
                let ask = || self.report(data);
                let (quote, events) = match &self.events {
                    Some(log) => log.around(ask)?,
                    None => (ask()?, None),
                };
                let events = events.map(|log| STANDARD.encode(log));
                Ok(json!({ "cc_eventlog": events, "quote": STANDARD.encode(quote) }))
            }
        }
    }
}

/// A directory of configfs, gone when this is dropped.
struct Entry(PathBuf);

impl Entry {
    fn make(path: PathBuf) -> Result<Self, EvidenceError> {
        let made = fs::create_dir(&path).or_else(|error| match error.kind() {
            // Of an earlier run of this program.
            io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(error),
        });
        made.map_err(|source| EvidenceError::Report { path: path.clone(), source })?;
        Ok(Self(path))
    }

    fn failed(&self, name: &str) -> impl Fn(io::Error) -> EvidenceError {
        let path = self.0.join(name);
        move |source| EvidenceError::Report { path: path.clone(), source }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), EvidenceError> {
        fs::write(self.0.join(name), bytes).map_err(self.failed(name))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, EvidenceError> {
        let bytes = fs::read(self.0.join(name)).map_err(self.failed(name))?;
        if bytes.is_empty() || bytes.len() > LONGEST {
            return Err(EvidenceError::Malformed(format!("it has {} bytes", bytes.len())));
        }
        Ok(bytes)
    }

    fn text(&self, name: &str) -> Result<String, EvidenceError> {
        let bytes = self.read(name)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[cfg(test)]
mod tests;
