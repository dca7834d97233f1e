//! The runtime event log (AAEL): what containers add to the VM's measurement while it runs.
//!
//! Of the kinds of VM only TDX has a register for it, RTMR3: the kernel extends it by a write (Linux 6.16,
//! `Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest`). An entry is a TCG event whose data is tagged `AAEL`, and
//! its digest goes into the register; the log goes with the evidence, behind the firmware's own, since a register without its log
//! tells nobody anything (guest-components, `attestation-agent/attestation-agent/src/eventlog`).

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use sha2::{Digest, Sha384};

use crate::protocol::Tee;

/// Where the kernel has the registers.
pub const MEASUREMENTS: &str = "/sys/devices/virtual/misc/tdx_guest/measurements";
/// The firmware's log, as the ACPI table CCEL names it.
pub const FIRMWARE: &str = "/sys/firmware/acpi/tables/data/CCEL";
/// The register: RTMR3 is CC measurement register 4.
const REGISTER: &str = "rtmr3:sha384";
const REGISTER_INDEX: u32 = 4;
/// TCG's `EV_EVENT_TAG`, its SHA-384, and the tag.
const EVENT_TAG: u32 = 6;
const SHA384: u16 = 0xc;
const AAEL: u32 = 0x4141_454c;
/// Most bytes of an event, events of a VM, and bytes of the firmware's log.
pub const LONGEST: usize = 1024;
const EVENTS: usize = 256;
const FIRMWARE_LOG: usize = 256 << 10;
/// Most digests of an event: the algorithms that TCG has.
const DIGESTS: usize = 8;

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    domain: String,
    operation: String,
    content: String,
}

/// Why an event is not logged.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// It is none.
    #[error("the event is not usable: {0}")]
    Form(String),
    /// The log is full.
    #[error("the log has {EVENTS} events, which is the most")]
    Full,
    /// The firmware has none, or it cannot be read.
    #[error("the firmware's event log cannot be read: {}", path.display())]
    Firmware {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The register is not extended.
    #[error("the register cannot be extended: {}", path.display())]
    Register {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Event {
    /// Reads one, in JSON.
    ///
    /// # Errors
    ///
    /// [`EventError::Form`].
    pub fn parse(json: &[u8]) -> Result<Self, EventError> {
        let form = |what: &str| EventError::Form(what.to_owned());
        let event: Self =
            serde_json::from_slice(json).map_err(|error| EventError::Form(error.to_string()))?;
        let word = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !word(&event.domain) || !word(&event.operation) {
            return Err(form("domain and operation are words of printable ASCII"));
        }
        if event.content.chars().any(char::is_control) {
            return Err(form("the content has a control character, such as the end of a line"));
        }
        if event.line().len() > LONGEST { Err(form("it is above 1024 bytes")) } else { Ok(event) }
    }

    fn line(&self) -> String {
        format!("{} {} {}", self.domain, self.operation, self.content)
    }

    /// The event's data, its digest, and the log's entry.
    fn entry(&self) -> ([u8; 48], Vec<u8>) {
        let line = self.line();
        let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes();
        let data = [&AAEL.to_le_bytes()[..], &size(line.len()), line.as_bytes()].concat();
        let digest: [u8; 48] = Sha384::digest(&data).into();
        let head = [REGISTER_INDEX, EVENT_TAG, 1].map(u32::to_le_bytes).concat();
        let entry = [&head[..], &SHA384.to_le_bytes(), &digest, &size(data.len()), &data].concat();
        (digest, entry)
    }
}

/// The log of this VM; clones share it.
#[derive(Debug, Clone)]
pub struct EventLog {
    measurements: PathBuf,
    firmware: PathBuf,
    /// Number of events, and their entries.
    logged: Arc<Mutex<(usize, Vec<u8>)>>,
}

impl EventLog {
    /// With registers in the directory `measurements`, which is [`MEASUREMENTS`], behind the log `firmware`, [`FIRMWARE`].
    pub fn new(measurements: &Path, firmware: &Path) -> Self {
        Self { measurements: measurements.to_owned(), firmware: firmware.to_owned(), logged: Arc::default() }
    }

    /// Logs an event.
    ///
    /// # Errors
    ///
    /// [`EventError`]; nothing is logged then, and the register is as it was.
    pub fn add(&self, event: &Event) -> Result<(), EventError> {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.0 >= EVENTS {
            return Err(EventError::Full);
        }
        // Without the firmware's log no verifier could tell what ours is of.
        self.firmware()?;
        let (digest, entry) = event.entry();
        let path = self.measurements.join(REGISTER);
        fs::write(&path, digest).map_err(|source| EventError::Register { path, source })?;
        logged.0 += 1;
        logged.1.extend(entry);
        Ok(())
    }

    /// A quote, and the log that it is of: the firmware's and this one, to which nothing is added meanwhile. There is no log
    /// before the first event, since a quote needs none.
    ///
    /// # Errors
    ///
    /// Those of `quote`, and [`EventError::Firmware`].
    pub fn around<T, E: From<EventError>>(
        &self,
        quote: impl FnOnce() -> Result<T, E>,
    ) -> Result<(T, Option<Vec<u8>>), E> {
        let logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let quote = quote()?;
        let log = if logged.0 == 0 { None } else { Some([self.firmware()?, logged.1.clone()].concat()) };
        Ok((quote, log))
    }

    /// The firmware's log, without the room behind it.
    fn firmware(&self) -> Result<Vec<u8>, EventError> {
        let failed = |source| EventError::Firmware { path: self.firmware.clone(), source };
        let mut log = Vec::new();
        // The table that names it is the host's: one byte above the limit is enough to refuse it.
        let file = File::open(&self.firmware).map_err(failed)?;
        file.take(FIRMWARE_LOG as u64 + 1).read_to_end(&mut log).map_err(failed)?;
        let written =
            written(&log).ok_or_else(|| failed(io::Error::other("it is no log of TCG's events")))?;
        log.truncate(written);
        Ok(log)
    }
}

/// How many bytes of a firmware's log are events; the room behind them is all ones (TCG PC Client Platform Firmware Profile,
/// section 10). Nothing where it is no such log.
pub fn written(log: &[u8]) -> Option<usize> {
    let number = |at: usize| -> Option<usize> {
        let bytes = log.get(at..at.checked_add(4)?)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    if log.len() > FIRMWARE_LOG {
        return None;
    }
    // The first event has the form of TCG 1.2: register, type, 20 bytes, size, data.
    let mut at = 32_usize.checked_add(number(28)?)?;
    log.get(..at)?;
    while log.get(at..).is_some_and(|rest| !rest.iter().take(8).all(|byte| *byte == 0xff)) {
        let digests = number(at + 8).filter(|digests| *digests <= DIGESTS)?;
        at += 12;
        for _ in 0..digests {
            let algorithm = u16::from_le_bytes(log.get(at..at + 2)?.try_into().ok()?);
            at += 2 + match algorithm {
                0x4 => 20,
                0xb | 0x12 => 32,
                0xc => 48,
                0xd => 64,
                _ => return None,
            };
        }
        at = at.checked_add(4)?.checked_add(number(at)?)?;
        log.get(..at)?;
    }
    Some(at)
}

/// Why a VM of this kind has no log; nothing where it has one.
pub const fn refusal(tee: Tee) -> Option<&'static str> {
    match tee {
        Tee::Tdx => None,
        Tee::Snp => Some(
            "SEV-SNP has no register that a running VM extends: its report has what the VM was started from, and nothing else",
        ),
        Tee::Sample => Some("this is no confidential VM, and has no register that a running VM extends"),
    }
}

#[cfg(test)]
mod tests;
