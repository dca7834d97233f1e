//! The volumes of drivers that are packed into an image.
//!
//! edk2 packs them into one LZMA section (UEFI PI, volume 3, "GUIDed sections"; edk2,
//! `MdeModulePkg/Include/Guid/LzmaDecompress.h`). A section is found by its GUID, not by a walk over volumes and files:
//! what is around it differs between builds, the GUID does not.

use std::io::Read;

use lzma_rust2::LzmaReader;
use memchr::memmem;

use super::MAX_FIRMWARE;
use crate::Guid;
use crate::bytes::u16_at;

/// Names a section that LZMA has packed.
const LZMA: Guid = Guid::new(0xee4e_5898, 0x3914, 0x4259, [0x9d, 0x6e, 0xdc, 0x7b, 0xd7, 0x94, 0x03, 0xcf]);
/// `EFI_SECTION_GUID_DEFINED`.
const GUIDED: u8 = 2;
/// Bytes of a section's header before its GUID: 3 of size, 1 of type.
const BEFORE_GUID: usize = 4;
/// Bytes of a whole header: those, the GUID, offset of the data, attributes.
const HEADER: usize = BEFORE_GUID + 16 + 4;

/// Most places of the GUID that are looked at; edk2's images have up to three.
const MAX_SECTIONS: usize = 16;
/// Most memory that unpacking may take, in KiB: a dictionary as large as the largest firmware.
const MAX_MEMORY_KIB: u32 = 80 << 10;

/// A packed section.
#[derive(Debug)]
pub(super) enum Section {
    /// What was in it.
    Volume(Vec<u8>),
    /// It cannot be unpacked, or is one of too many: nobody can say what is in it.
    Sealed,
}

/// The packed sections of `image`; altogether not more than [`MAX_FIRMWARE`] is unpacked.
pub(super) fn sections(image: &[u8]) -> impl Iterator<Item = Section> {
    let mut room = MAX_FIRMWARE;
    let places = memmem::find_iter(image, LZMA.as_bytes()).enumerate().take(MAX_SECTIONS + 1);
    places.filter_map(move |(index, guid)| {
        if index == MAX_SECTIONS {
            return Some(Section::Sealed);
        }
        let Some(volume) = unpack(packed(image, guid)?, room) else { return Some(Section::Sealed) };
        room -= volume.len();
        Some(Section::Volume(volume))
    })
}

/// Whether a volume has these bytes.
pub(super) fn has(volume: &[u8], bytes: &[u8]) -> bool {
    memmem::find(volume, bytes).is_some()
}

/// The data of the section whose GUID is at `guid`; `None` where that is no section.
fn packed(image: &[u8], guid: usize) -> Option<&[u8]> {
    let section = image.get(guid.checked_sub(BEFORE_GUID)?..)?;
    let &[a, b, c, GUIDED] = section.first_chunk::<BEFORE_GUID>()? else { return None };
    let size = usize::try_from(u32::from_le_bytes([a, b, c, 0])).ok()?;
    let data = usize::from(u16_at(section, BEFORE_GUID + 16)?);
    if data < HEADER { None } else { section.get(data..size) }
}

/// Unpacks an LZMA stream with its header; `None` where it is broken, or larger than `room` bytes.
fn unpack(packed: &[u8], room: usize) -> Option<Vec<u8>> {
    let reader = LzmaReader::new_mem_limit(packed, MAX_MEMORY_KIB, None).ok()?;
    let mut volume = Vec::new();
    reader.take(room as u64 + 1).read_to_end(&mut volume).ok()?;
    (volume.len() <= room).then_some(volume)
}
