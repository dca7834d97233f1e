//! Who accepts a confidential guest's memory: the firmware, all of it before the kernel starts, or the kernel, a piece
//! when it is first used.
//!
//! No metadata tells. The code does: an OVMF that leaves the memory above 4 GiB to the guest's kernel has a driver with
//! a protocol for it. For TDX that is `EDKII_MEMORY_ACCEPT_PROTOCOL` in TdxDxe, for SNP
//! `OVMF_SEV_MEMORY_ACCEPTANCE_PROTOCOL` in AmdSevDxe, by which the kernel says that it accepts memory itself. Both came
//! in one series of commits with the change itself: edk2-stable202211 for TDX
//! (`OvmfPkg/Library/PlatformInitLib/IntelTdx.c`), edk2-stable202302 for SNP (`OvmfPkg/PlatformPei/AmdSev.c`). edk2 has no
//! build switch for either.
//!
//! The drivers are in a volume that is one LZMA section of the image (UEFI PI, volume 3, "GUIDed sections"; edk2,
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

pub(super) const TDX: Driver = Driver {
    file: Guid::new(0xe750_224e, 0x7bce, 0x40af, [0xb5, 0xbb, 0x47, 0xe3, 0x61, 0x1e, 0xb5, 0xc2]),
    protocol: Guid::new(0x38c7_4800, 0x5590, 0x4db4, [0xa0, 0xf3, 0x67, 0x5d, 0x9b, 0x8e, 0x80, 0x26]),
};

pub(super) const SNP: Driver = Driver {
    file: Guid::new(0x2ec9_da37, 0xee35, 0x4de9, [0x86, 0xc5, 0x6d, 0x9a, 0x81, 0xdc, 0x38, 0xa7]),
    protocol: Guid::new(0xc5a0_10fe, 0x38a7, 0x4531, [0x8a, 0x4a, 0x05, 0x00, 0xd2, 0xfd, 0x16, 0x49]),
};

/// edk2's SmbiosMeasurementDxe (`MdeModulePkg/Universal/SmbiosMeasurementDxe`), in OVMF since edk2-stable202505.
const SMBIOS_MEASUREMENT: Guid =
    Guid::new(0xd27f_ed59, 0xabb4, 0x4fed, [0xbe, 0xad, 0x2a, 0x87, 0x8c, 0x7e, 0x4a, 0x7e]);

/// Whether the image has the driver that measures SMBIOS tables.
pub(super) fn measures_smbios(image: &[u8]) -> bool {
    volumes(image).any(|volume| memmem::find(&volume, SMBIOS_MEASUREMENT.as_bytes()).is_some())
}

/// Who accepts the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Acceptance {
    /// The guest's kernel, but for the first 4 GiB.
    Lazy,
    /// The firmware, all of it, before the kernel starts: minutes in a large guest, in which nothing is said.
    Eager,
    /// The image does not tell: it has no driver of edk2's that this could be seen by, or one that cannot be unpacked.
    #[default]
    Unknown,
}

/// A driver that handles the TEE's memory.
#[derive(Debug)]
pub(super) struct Driver {
    /// Names it in its volume.
    file: Guid,
    /// What it offers if it leaves memory to the kernel.
    protocol: Guid,
}

impl Driver {
    pub(super) fn acceptance(&self, image: &[u8]) -> Acceptance {
        let mut found = Acceptance::Unknown;
        for volume in volumes(image) {
            let has = |guid: &Guid| memmem::find(&volume, guid.as_bytes()).is_some();
            if has(&self.file) {
                if has(&self.protocol) {
                    return Acceptance::Lazy;
                }
                found = Acceptance::Eager;
            }
        }
        found
    }
}

/// What can be unpacked of `image`; altogether not more than [`MAX_FIRMWARE`].
fn volumes(image: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let mut room = MAX_FIRMWARE;
    memmem::find_iter(image, LZMA.as_bytes()).take(MAX_SECTIONS).filter_map(move |guid| {
        let volume = unpack(packed(image, guid)?, room)?;
        room -= volume.len();
        Some(volume)
    })
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
