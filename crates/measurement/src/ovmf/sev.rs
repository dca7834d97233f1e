//! The SEV metadata: which pages an SNP guest is launched with besides the firmware itself.
//!
//! Format: edk2, `OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm`. A header of signature `ASEV`, length, version
//! and count, then 12 bytes a section: address, size, type.

use super::error::{FirmwareError, Metadata, MetadataProblem};
use super::list::List;
use super::range::PageRange;
use super::table::Table;
use super::{MAX_COVERED, PAGE, TOP};
use crate::Guid;
use crate::bytes::u32_at;

/// Entry of the table: offset of the metadata from the image's end.
const METADATA: Guid =
    Guid::new(0xdc88_6566, 0x984a, 0x4798, [0xa7, 0x5e, 0x55, 0x85, 0xa7, 0xbf, 0x67, 0xcc]);
/// Entry of the table: address and size of the kernel hash table.
const HASH_TABLE: Guid =
    Guid::new(0x7255_371f, 0x3a3b, 0x4b04, [0x92, 0x7b, 0x1d, 0xa6, 0xef, 0xa8, 0xd4, 0x54]);
/// Entry of the table: where vCPUs other than the first start.
const RESET: Guid = Guid::new(0x00f7_71de, 0x1a7e, 0x4fcb, [0x89, 0x0e, 0x68, 0xc7, 0x7e, 0x2f, 0xb4, 0x4e]);

const LIST: List = List { signature: b"ASEV", section: 12 };

/// Least size of the kernel hash table in bytes: three hashes with their headers, padded (`snp::KernelHashes`).
const HASHES: u32 = 176;

/// What an SNP guest is launched with besides the firmware.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SevMetadata {
    sections: Vec<SevSection>,
    hash_table: Option<HashTable>,
    reset_eip: Option<u32>,
}

/// A range of memory and what goes there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SevSection {
    /// What goes there.
    pub kind: SevSectionKind,
    /// Where.
    pub range: PageRange,
}

/// What goes into a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SevSectionKind {
    /// Memory that the firmware uses before it can accept any; zeros.
    Memory,
    /// The secrets page, filled by the security processor.
    Secrets,
    /// The CPUID page, filtered by the security processor.
    Cpuid,
    /// The calling area of a service module; zeros without one.
    CallingArea,
    /// Hashes of kernel, initrd and command line; zeros without a kernel.
    KernelHashes,
}

/// Where the firmware looks for the kernel hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashTable {
    /// Address of their page.
    pub page: u64,
    /// Offset of the table in the page, in bytes.
    pub offset: usize,
}

impl SevSectionKind {
    fn from_raw(kind: u32) -> Option<Self> {
        Some(match kind {
            1 => Self::Memory,
            2 => Self::Secrets,
            3 => Self::Cpuid,
            4 => Self::CallingArea,
            0x10 => Self::KernelHashes,
            _ => return None,
        })
    }

    /// Whether a section of this kind is one page, there at most once.
    const fn is_one_page(self) -> bool {
        matches!(self, Self::Secrets | Self::Cpuid | Self::KernelHashes)
    }
}

impl SevMetadata {
    /// The sections, in the order in which they are measured.
    pub fn sections(&self) -> &[SevSection] {
        &self.sections
    }

    /// Where the kernel hashes go; `None` in a firmware that takes none.
    pub const fn kernel_hashes(&self) -> Option<HashTable> {
        self.hash_table
    }

    /// Where vCPUs other than the first start: the IP in the low, the CS base in the high 16 bits.
    pub const fn reset_eip(&self) -> Option<u32> {
        self.reset_eip
    }

    pub(super) fn parse(image: &[u8], table: &Table<'_>) -> Result<Option<Self>, FirmwareError> {
        let Some(offset) = table.number(METADATA)? else { return Ok(None) };
        let hash_table = table.sized(HASH_TABLE, 8)?;
        let reset_eip = table.number(RESET)?;
        let wrong = |problem| FirmwareError::Metadata { metadata: Metadata::Sev, problem };
        let sections = LIST.sections(image, offset).map_err(wrong)?;
        let sections: Vec<_> = sections.map(section).collect::<Result<_, _>>().map_err(wrong)?;
        let firmware = PageRange::new(TOP - image.len() as u64, image.len() as u64);
        check(&sections, firmware).map_err(wrong)?;
        let hash_table = place_hashes(&sections, hash_table).map_err(wrong)?;
        Ok(Some(Self { sections, hash_table, reset_eip }))
    }
}

fn section((section, raw): (usize, &[u8])) -> Result<SevSection, MetadataProblem> {
    let field = |at| u32_at(raw, at).unwrap_or_default();
    let (start, size, kind) = (u64::from(field(0)), u64::from(field(4)), field(8));
    let range = PageRange::new(start, size)
        .filter(|range| range.end() <= TOP)
        .ok_or(MetadataProblem::Pages { section, start, size })?;
    let kind = SevSectionKind::from_raw(kind).ok_or(MetadataProblem::Kind { section, kind })?;
    if kind.is_one_page() && range.size() != PAGE as u64 {
        return Err(MetadataProblem::OnePage { section, range });
    }
    Ok(SevSection { kind, range })
}

/// Checks the sections against each other and the firmware.
fn check(sections: &[SevSection], firmware: Option<PageRange>) -> Result<(), MetadataProblem> {
    let covered = sections.iter().map(|s| s.range.size()).sum();
    if covered > MAX_COVERED {
        return Err(MetadataProblem::Covered(covered));
    }
    for (second, b) in sections.iter().enumerate() {
        if firmware.is_some_and(|f| f.overlaps(&b.range)) {
            return Err(MetadataProblem::OverFirmware { section: second, range: b.range });
        }
        for (first, a) in sections[..second].iter().enumerate() {
            if a.range.overlaps(&b.range) {
                return Err(MetadataProblem::Overlap { first, second });
            }
            if a.kind == b.kind && a.kind.is_one_page() {
                return Err(MetadataProblem::Twice { first, second });
            }
        }
    }
    Ok(())
}

/// Finds the table's place in its page. Firmware without the section does not look at the table either.
fn place_hashes(sections: &[SevSection], entry: Option<&[u8]>) -> Result<Option<HashTable>, MetadataProblem> {
    let Some(page) = sections.iter().find(|s| s.kind == SevSectionKind::KernelHashes).map(|s| s.range) else {
        return Ok(None);
    };
    let (base, size) =
        entry.and_then(|e| Some((u32_at(e, 0)?, u32_at(e, 4)?))).ok_or(MetadataProblem::NoHashTable)?;
    let outside = MetadataProblem::HashTable { base, size, page };
    if size < HASHES || u64::from(base) + u64::from(size) > page.end() {
        return Err(outside);
    }
    let offset = u64::from(base).checked_sub(page.start()).and_then(|o| usize::try_from(o).ok());
    Ok(Some(HashTable { page: page.start(), offset: offset.ok_or(outside)? }))
}
