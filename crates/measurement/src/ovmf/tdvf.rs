//! The TDVF metadata: which pages a TD is built from.
//!
//! Format: Intel, "TDX Virtual Firmware Design Guide" (344991), chapter 11; QEMU, `hw/i386/tdvf.c`. A header of
//! signature `TDVF`, length, version and count, then 32 bytes a section: offset and size of its data in the
//! image, address and size in memory, type, attributes.

use super::MAX_COVERED;
use super::error::{FirmwareError, Metadata, MetadataProblem};
use super::list::List;
use super::range::PageRange;
use super::table::Table;
use crate::Guid;
use crate::bytes::{range_at, u16_at, u32_at, u64_at};

/// Entry of the table: offset of the metadata from the image's end.
const METADATA: Guid =
    Guid::new(0xe47a_6535, 0x984a, 0x4798, [0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf, 0x8e, 0xc2]);

const LIST: List = List { signature: b"TDVF", section: 32 };

/// The content goes into MRTD.
const MR_EXTEND: u32 = 1 << 0;
/// The pages are added while the TD runs, not before.
const PAGE_AUG: u32 = 1 << 1;

/// The pages that a TD is built from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TdvfMetadata<'a> {
    sections: Vec<TdvfSection<'a>>,
}

/// A range of memory and what goes there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TdvfSection<'a> {
    /// What it is for.
    pub kind: TdvfSectionKind,
    /// Where it goes.
    pub range: PageRange,
    /// What is put there from the image; empty for memory that starts as zeros or is filled by QEMU.
    pub data: &'a [u8],
    /// Whether the content is measured into MRTD. If so, `data` fills `range` exactly.
    pub measured: bool,
    /// Whether the pages are added before the TD runs, which MRTD covers as well.
    pub added: bool,
}

/// What a section is for. QEMU knows these four.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TdvfSectionKind {
    /// The firmware's code.
    BootVolume,
    /// The firmware's variables.
    ConfigurationVolume,
    /// The hand-off block, a description of the memory that QEMU writes.
    HandOffBlock,
    /// Memory that the firmware uses before it can accept any.
    TemporaryMemory,
}

impl TdvfSectionKind {
    fn from_raw(kind: u32) -> Option<Self> {
        Some(match kind {
            0 => Self::BootVolume,
            1 => Self::ConfigurationVolume,
            2 => Self::HandOffBlock,
            3 => Self::TemporaryMemory,
            _ => return None,
        })
    }

    /// Whether sections of this kind come from the image.
    const fn has_data(self) -> bool {
        matches!(self, Self::BootVolume | Self::ConfigurationVolume)
    }
}

impl<'a> TdvfMetadata<'a> {
    /// The sections, in the order in which they are added and measured.
    pub fn sections(&self) -> &[TdvfSection<'a>] {
        &self.sections
    }

    /// Whether a variable store comes with variables.
    pub(crate) fn has_variables(&self) -> bool {
        let mut stores = self.sections.iter().filter(|s| s.kind == TdvfSectionKind::ConfigurationVolume);
        stores.any(|store| !is_empty(store.data))
    }

    pub(super) fn parse(image: &'a [u8], table: &Table<'_>) -> Result<Option<Self>, FirmwareError> {
        let Some(offset) = table.number(METADATA)? else { return Ok(None) };
        let wrong = |problem| FirmwareError::Metadata { metadata: Metadata::Tdvf, problem };
        let sections = LIST.sections(image, offset).map_err(wrong)?;
        let sections = sections.map(|(i, raw)| section(image, i, raw)).collect::<Result<Vec<_>, _>>();
        let sections = sections.map_err(wrong)?;
        check(&sections).map_err(wrong)?;
        Ok(Some(Self { sections }))
    }
}

/// Whether a variable store holds no variable: where the first would start (edk2,
/// `MdeModulePkg/Include/Guid/VariableFormat.h`) there is erased flash.
fn is_empty(volume: &[u8]) -> bool {
    // The volume's header gives its own length; the store's header of 28 bytes follows.
    let first = u16_at(volume, 48).map(|length| usize::from(length) + 28);
    first.and_then(|at| u32_at(volume, at)) == Some(u32::MAX)
}

fn section<'a>(image: &'a [u8], section: usize, raw: &[u8]) -> Result<TdvfSection<'a>, MetadataProblem> {
    let short = |at| u32_at(raw, at).unwrap_or_default();
    let long = |at| u64_at(raw, at).unwrap_or_default();
    let (offset, size, kind, attributes) = (short(0), short(4), short(24), short(28));
    let (start, memory) = (long(8), long(16));

    let range =
        PageRange::new(start, memory).ok_or(MetadataProblem::Pages { section, start, size: memory })?;
    let kind = TdvfSectionKind::from_raw(kind).ok_or(MetadataProblem::Kind { section, kind })?;
    if kind.has_data() != (size > 0) || u64::from(size) > memory {
        return Err(MetadataProblem::DataSize { section, data: size, memory });
    }
    // Sections without data may leave any offset behind.
    let data = match size {
        0 => &[],
        _ => range_at(image, offset, size).ok_or(MetadataProblem::Data { section, offset, size })?,
    };
    let (measured, added) = (attributes & MR_EXTEND != 0, attributes & PAGE_AUG == 0);
    if attributes & !(MR_EXTEND | PAGE_AUG) != 0 || (measured && !added) {
        return Err(MetadataProblem::Attributes { section, attributes });
    }
    // QEMU would measure what it finds behind the data, or what it has written itself.
    if measured && u64::from(size) != memory {
        return Err(MetadataProblem::DataSize { section, data: size, memory });
    }
    Ok(TdvfSection { kind, range, data, measured, added })
}

/// Checks the sections against each other.
fn check(sections: &[TdvfSection<'_>]) -> Result<(), MetadataProblem> {
    let covered = sections.iter().map(|s| s.range.size()).fold(0, u64::saturating_add);
    if covered > MAX_COVERED {
        return Err(MetadataProblem::Covered(covered));
    }
    for (second, b) in sections.iter().enumerate() {
        for (first, a) in sections[..second].iter().enumerate() {
            if a.range.overlaps(&b.range) {
                return Err(MetadataProblem::Overlap { first, second });
            }
            if a.kind == b.kind && a.kind == TdvfSectionKind::HandOffBlock {
                return Err(MetadataProblem::Twice { first, second });
            }
        }
    }
    if !sections.iter().any(|s| s.measured) {
        return Err(MetadataProblem::NothingMeasured);
    }
    Ok(())
}
