//! A report that the host makes up, for tests of a release image's checks without a confidential VM.
//!
//! An image with this is built for tests alone; its manifest says so, and with a TEE it does not start.

use std::io::{self, Read};

use crate::private::{Device, Kind, Private};
use crate::report::Claim;
use crate::tee;

/// Longest text: a word, a space, a field, a newline.
const LONGEST: u64 = 5 + 96;

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum FakeReportError {
    /// In a confidential VM nothing may be made up.
    #[error("this image takes its report from the host, for tests, and does not run in a confidential VM")]
    Confidential,
    /// The disk cannot be read.
    #[error("the disk with the made-up report cannot be read")]
    Read(#[source] io::Error),
    /// It says something else.
    #[error("the made-up report is not `snp` or `tdx` and its field in hexadecimal digits")]
    Malformed,
}

/// The claim that the disk makes; without the disk, none.
///
/// # Errors
///
/// [`FakeReportError`].
pub fn read(private: &Private, disk: Option<Device>) -> Result<Claim, FakeReportError> {
    if !matches!(tee::detect(std::path::Path::new("/sys")), Ok(None)) {
        return Err(FakeReportError::Confidential);
    }
    let Some(disk) = disk else { return Ok(Claim::None) };
    let mut text = Vec::new();
    let file = private.open(Kind::Block, disk, false).map_err(FakeReportError::Read)?;
    file.take(LONGEST).read_to_end(&mut text).map_err(FakeReportError::Read)?;
    let line = text.split(|byte| *byte == b'\n').next().and_then(|line| str::from_utf8(line).ok());
    parse(line.unwrap_or_default()).ok_or(FakeReportError::Malformed)
}

fn parse(line: &str) -> Option<Claim> {
    match line.split_once(' ')? {
        ("snp", field) => bytes(field).map(Claim::Snp),
        ("tdx", field) => bytes(field).map(Claim::Tdx),
        _ => None,
    }
}

fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut field = [0; N];
    for (byte, at) in field.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_read_whole_or_not_at_all() {
        assert_eq!(parse(&format!("snp {}", "07".repeat(32))), Some(Claim::Snp([7; 32])));
        assert_eq!(parse(&format!("tdx {}", "fF".repeat(48))), Some(Claim::Tdx([255; 48])));
        for line in [
            "",
            "snp",
            "snp ",
            "tee 00",
            &format!("snp {}", "07".repeat(48)),
            &format!("tdx {}", "+7".repeat(48)),
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
