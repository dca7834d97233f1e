//! Who accepts a confidential guest's memory: the firmware, all of it before the kernel starts, or the kernel, a piece
//! when it is first used.
//!
//! No metadata tells. The code does: an OVMF that leaves the memory above 4 GiB to the guest's kernel has a driver with
//! a protocol for it. For TDX that is `EDKII_MEMORY_ACCEPT_PROTOCOL` in TdxDxe, for SNP
//! `OVMF_SEV_MEMORY_ACCEPTANCE_PROTOCOL` in AmdSevDxe, by which the kernel says that it accepts memory itself. Both came
//! in one series of commits with the change itself: edk2-stable202211 for TDX
//! (`OvmfPkg/Library/PlatformInitLib/IntelTdx.c`), edk2-stable202302 for SNP (`OvmfPkg/PlatformPei/AmdSev.c`). edk2 has no
//! build switch for either.

use super::volume::{Section, has, sections};
use crate::Guid;

pub(super) const TDX: Driver = Driver {
    file: Guid::new(0xe750_224e, 0x7bce, 0x40af, [0xb5, 0xbb, 0x47, 0xe3, 0x61, 0x1e, 0xb5, 0xc2]),
    protocol: Guid::new(0x38c7_4800, 0x5590, 0x4db4, [0xa0, 0xf3, 0x67, 0x5d, 0x9b, 0x8e, 0x80, 0x26]),
};

pub(super) const SNP: Driver = Driver {
    file: Guid::new(0x2ec9_da37, 0xee35, 0x4de9, [0x86, 0xc5, 0x6d, 0x9a, 0x81, 0xdc, 0x38, 0xa7]),
    protocol: Guid::new(0xc5a0_10fe, 0x38a7, 0x4531, [0x8a, 0x4a, 0x05, 0x00, 0xd2, 0xfd, 0x16, 0x49]),
};

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
    pub(super) file: Guid,
    /// What it offers if it leaves memory to the kernel.
    protocol: Guid,
}

impl Driver {
    pub(super) fn acceptance(&self, image: &[u8]) -> Acceptance {
        let mut found = Acceptance::Unknown;
        for section in sections(image) {
            let Section::Volume(volume) = section else { continue };
            if has(&volume, self.file.as_bytes()) {
                if has(&volume, self.protocol.as_bytes()) {
                    return Acceptance::Lazy;
                }
                found = Acceptance::Eager;
            }
        }
        found
    }
}
