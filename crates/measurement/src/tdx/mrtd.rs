//! MRTD: the pages that a TD is built from.

use sha2::{Digest as _, Sha384};

use crate::ovmf::{Firmware, FirmwareError, PAGE, TdvfSection};
use crate::{Sha384Digest, digest};

digest::register! {
    /// The build-time measurement of a TD, MRTD of its report.
    Mrtd
}

/// Bytes that one TDH.MR.EXTEND covers.
const CHUNK: usize = 256;

/// In which order a section's pages are added and measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PageOrder {
    /// Each page is added and then measured: KVM's KVM_TDX_INIT_MEM_REGION, with QEMU 9 and later.
    #[default]
    SinglePass,
    /// All pages of a section are added, then all are measured: the patched QEMU 8 of some distributions.
    TwoPass,
}

/// Why there is no MRTD.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TdxError {
    /// The firmware cannot be read.
    #[error(transparent)]
    Firmware(#[from] FirmwareError),
    /// The firmware is not for TDX.
    #[error(
        "the firmware has no TDVF metadata; TDX needs a build for it, such as Debian's OVMF.inteltdx.ms.fd"
    )]
    NotForTdx,
}

/// MRTD of a TD that is built from `firmware`.
///
/// # Errors
/// [`TdxError`] for a firmware that is malformed or not for TDX.
pub fn mrtd(firmware: &Firmware<'_>, order: PageOrder) -> Result<Mrtd, TdxError> {
    let metadata = firmware.tdvf()?.ok_or(TdxError::NotForTdx)?;
    let mut hash = Sha384::new();
    for section in metadata.sections() {
        match order {
            PageOrder::SinglePass => {
                for (at, page) in pages(section) {
                    add(&mut hash, section, at);
                    extend(&mut hash, at, page);
                }
            }
            PageOrder::TwoPass => {
                pages(section).for_each(|(at, _)| add(&mut hash, section, at));
                pages(section).for_each(|(at, page)| extend(&mut hash, at, page));
            }
        }
    }
    Ok(Mrtd(Sha384Digest::finish(hash)))
}

/// A section's pages: address, and the content as far as it is measured.
fn pages<'a>(section: &TdvfSection<'a>) -> impl Iterator<Item = (u64, &'a [u8])> + use<'a> {
    let mut content = if section.measured { section.data } else { &[] };
    section.range.pages().map(move |at| {
        let (page, rest) = content.split_at(content.len().min(PAGE));
        content = rest;
        (at, page)
    })
}

/// TDH.MEM.PAGE.ADD.
fn add(hash: &mut Sha384, section: &TdvfSection<'_>, at: u64) {
    if section.added {
        hash.update(block(b"MEM.PAGE.ADD", at));
    }
}

/// TDH.MR.EXTEND over a page, chunk by chunk.
fn extend(hash: &mut Sha384, at: u64, page: &[u8]) {
    for (at, chunk) in (at..).step_by(CHUNK).zip(page.chunks(CHUNK)) {
        hash.update(block(b"MR.EXTEND", at));
        hash.update(chunk);
    }
}

/// The 128 bytes that each of them measures: its name, and the address at byte 16 (Intel, 348549).
fn block(name: &[u8], at: u64) -> [u8; 128] {
    let mut block = [0; 128];
    block[..name.len()].copy_from_slice(name);
    block[16..24].copy_from_slice(&at.to_le_bytes());
    block
}
