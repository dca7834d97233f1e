//! What the hardware's report says of the pod: the field that the digest of its initdata is in.
//!
//! It is read once, here, and of the report that the processor gives this guest: SNP's from the security processor over its
//! encrypted channel, TDX's from the module. Never of a quote, which passes through the host's hands.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::private::{Device, Kind, Private};
use crate::sys;
use crate::tee::{self, Tee};

/// The field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// There is no confidential VM, so nothing is claimed.
    None,
    /// SNP's `HOST_DATA`.
    Snp([u8; 32]),
    /// TDX's `MRCONFIGID`.
    Tdx([u8; 48]),
}

impl Claim {
    /// Whether the field holds something.
    pub fn is_set(&self) -> bool {
        match self {
            Claim::None => false,
            Claim::Snp(field) => field.iter().any(|byte| *byte != 0),
            Claim::Tdx(field) => field.iter().any(|byte| *byte != 0),
        }
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Two kinds of confidential VM.
    #[error(transparent)]
    Both(#[from] tee::Both),
    /// The kernel has no device for it.
    #[error(
        "this is a confidential VM ({tee:?}), and the kernel has no {} to read its report from: {}",
        tee.device(),
        path.display()
    )]
    Device {
        tee: Tee,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The device gives none.
    #[error("the hardware's report ({tee:?}) cannot be read")]
    Read {
        tee: Tee,
        #[source]
        source: io::Error,
    },
    /// It is no report.
    #[error("what {} gave is no report: {what}", tee.device())]
    Malformed { tee: Tee, what: &'static str },
}

/// Length of the message with an SNP report (AMD, "SEV Secure Nested Paging Firmware ABI", `MSG_REPORT_RSP`), as the kernel's
/// request has it, and where in it the report begins.
pub const SNP_MESSAGE: usize = 4000;
const SNP_REPORT: usize = 0x20;
/// The report's length, and where it has its version and its `HOST_DATA`.
const SNP_LENGTH: u32 = 1184;
const SNP_HOST_DATA: usize = 0xc0;
/// Versions of the report whose layout is known up to `HOST_DATA`.
const SNP_VERSIONS: std::ops::RangeInclusive<u32> = 2..=5;

/// Length of a TDREPORT (Intel, "TDX Module ABI", `TDREPORT_STRUCT`), where it has `MRCONFIGID`, and its first byte: the type of
/// a TD.
pub const TDX_REPORT: usize = 1024;
const TDX_CONFIG: usize = 576;
const TDX_TYPE: u8 = 0x81;
/// The kernel's own file of the field (Linux, `drivers/virt/coco/tdx-guest/tdx-guest.c`).
const TDX_FILE: &str = "devices/virtual/misc/tdx_guest/measurements/mrconfigid";

/// Reads the claim of this VM; `sys` is /sys.
///
/// # Errors
///
/// [`ReportError`].
pub fn read(private: &Private, sys: &Path) -> Result<Claim, ReportError> {
    match tee::detect(sys)? {
        None => Ok(Claim::None),
        Some(tee) => of(tee, sys, |device| match tee {
            Tee::Snp => sys::snp_report(private.open(Kind::Char, device, true)?).map(Vec::from),
            Tee::Tdx => sys::tdx_report(private.open(Kind::Char, device, true)?).map(Vec::from),
        }),
    }
}

/// The claim of a VM of this kind; `ask` asks the device.
fn of(tee: Tee, sys: &Path, ask: impl FnOnce(Device) -> io::Result<Vec<u8>>) -> Result<Claim, ReportError> {
    let path = sys.join("class/misc").join(tee.device()).join("dev");
    let numbers = fs::read_to_string(&path);
    let numbers = numbers.map_err(|source| ReportError::Device { tee, path: path.clone(), source })?;
    let device = Device::parse(&numbers).ok_or(ReportError::Malformed { tee, what: "its number" })?;
    let file = sys.join(TDX_FILE);
    if tee == Tee::Tdx && file.exists() {
        let field = fs::read(&file).map_err(|source| ReportError::Read { tee, source })?;
        let field = field.try_into();
        return field.map(Claim::Tdx).map_err(|_| ReportError::Malformed { tee, what: "another length" });
    }
    let answer = ask(device).map_err(|source| ReportError::Read { tee, source })?;
    match tee {
        Tee::Snp => snp(&answer).map(Claim::Snp),
        Tee::Tdx => tdx(&answer).map(Claim::Tdx),
    }
    .map_err(|what| ReportError::Malformed { tee, what })
}

/// `HOST_DATA` of the security processor's answer.
fn snp(message: &[u8]) -> Result<[u8; 32], &'static str> {
    let word = |at: usize| message.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    if word(0) != Some(0) {
        return Err("its status is not success");
    }
    if word(4) != Some(SNP_LENGTH) {
        return Err("its length is another");
    }
    if !word(SNP_REPORT).is_some_and(|version| SNP_VERSIONS.contains(&version)) {
        return Err("its version is not known");
    }
    let field = message.get(SNP_REPORT + SNP_HOST_DATA..).and_then(|rest| rest.first_chunk());
    field.copied().ok_or("it is cut off")
}

/// `MRCONFIGID` of a TDREPORT.
fn tdx(report: &[u8]) -> Result<[u8; 48], &'static str> {
    if report.len() != TDX_REPORT {
        return Err("its length is another");
    }
    if report[0] != TDX_TYPE {
        return Err("it is not a TD's");
    }
    report[TDX_CONFIG..].first_chunk().copied().ok_or("it is cut off")
}

#[cfg(test)]
mod tests;
