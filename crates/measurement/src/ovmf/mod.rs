//! What a firmware image says about itself: the GUIDed table at its end and the metadata it leads to.
//!
//! OVMF ends with a table of entries that QEMU walks backwards from a footer 48 bytes before the end (edk2,
//! `OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm`; QEMU, `hw/i386/pc_sysfw_ovmf.c`). Two entries lead to lists
//! of memory ranges: one for SEV-SNP ([`SevMetadata`]), one for TDX ([`TdvfMetadata`]). One image may have
//! both. Whatever in them cannot be true is a [`FirmwareError`].

mod accept;
mod error;
mod list;
mod measured;
mod range;
mod sev;
mod table;
mod tdvf;
mod volume;

use std::fmt;

pub use self::accept::Acceptance;
pub use self::error::{FirmwareError, Metadata, MetadataProblem};
pub use self::measured::MeasuredTables;
pub use self::range::PageRange;
pub use self::sev::{HashTable, SevMetadata, SevSection, SevSectionKind};
use self::table::Table;
pub use self::tdvf::{TdvfMetadata, TdvfSection, TdvfSectionKind};

/// Size of a page in bytes, the unit of every measurement here.
pub const PAGE: usize = 4096;

/// Largest firmware that is looked at, in bytes; edk2's are 2 to 16 MiB.
pub const MAX_FIRMWARE: usize = 64 << 20;

/// The firmware ends here in the guest's memory.
const TOP: u64 = 1 << 32;

/// Most sections that a metadata list may have; edk2's have up to 8.
const MAX_SECTIONS: usize = 64;

/// Most memory that the sections of a list may cover, in bytes; edk2's cover less than 16 MiB.
const MAX_COVERED: u64 = 256 << 20;

/// A firmware image with a readable table.
#[derive(Debug, Clone)]
pub struct Firmware<'a> {
    image: &'a [u8],
    table: Table<'a>,
}

/// Which confidential VMs a firmware is for, as far as its metadata tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Neither: no metadata, as in builds without confidential computing.
    Plain,
    /// SEV-SNP.
    Snp(KernelHashSupport),
    /// TDX.
    Tdx,
    /// Both.
    SnpAndTdx(KernelHashSupport),
    /// TDX, with variables of its own, as builds with Secure Boot have them: a kernel that no key in them has signed is
    /// not started. It is for nothing else.
    TdxSecureBoot,
}

/// Whether the firmware has a page for the hashes of kernel, initrd and command line.
///
/// The page alone does not make the firmware check them: in edk2 only the AmdSev build does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelHashSupport {
    /// There is no such page; a kernel given to QEMU is not measured.
    Absent,
    /// There is one.
    Present,
}

impl<'a> Firmware<'a> {
    /// Reads the table of `image`. An image without one is fine, and [`Kind::Plain`].
    ///
    /// # Errors
    /// An image that is not whole pages, larger than [`MAX_FIRMWARE`], or whose table is malformed.
    pub fn parse(image: &'a [u8]) -> Result<Self, FirmwareError> {
        if image.is_empty() || image.len() > MAX_FIRMWARE || !image.len().is_multiple_of(PAGE) {
            return Err(FirmwareError::Size(image.len()));
        }
        Ok(Self { image, table: Table::parse(image)? })
    }

    /// The whole image.
    pub const fn image(&self) -> &'a [u8] {
        self.image
    }

    /// Guest physical address of the image's first byte.
    pub const fn base(&self) -> u64 {
        TOP - self.image.len() as u64
    }

    /// The SEV metadata, or `None` in a firmware that has none.
    ///
    /// # Errors
    /// Metadata that cannot be true.
    pub fn sev(&self) -> Result<Option<SevMetadata>, FirmwareError> {
        SevMetadata::parse(self.image, &self.table)
    }

    /// The TDVF metadata, or `None` in a firmware that has none.
    ///
    /// # Errors
    /// Metadata that cannot be true.
    pub fn tdvf(&self) -> Result<Option<TdvfMetadata<'a>>, FirmwareError> {
        TdvfMetadata::parse(self.image, &self.table)
    }

    /// What the firmware is for.
    ///
    /// # Errors
    /// Metadata of either kind that cannot be true.
    pub fn kind(&self) -> Result<Kind, FirmwareError> {
        let hashes = |sev: SevMetadata| match sev.kernel_hashes() {
            Some(_) => KernelHashSupport::Present,
            None => KernelHashSupport::Absent,
        };
        Ok(match (self.sev()?.map(hashes), self.tdvf()?) {
            (sev, Some(tdvf)) if tdvf.has_variables() => match sev {
                Some(KernelHashSupport::Present) => Kind::Snp(KernelHashSupport::Present),
                _ => Kind::TdxSecureBoot,
            },
            (None, None) => Kind::Plain,
            (Some(hashes), None) => Kind::Snp(hashes),
            (None, Some(_)) => Kind::Tdx,
            (Some(hashes), Some(_)) => Kind::SnpAndTdx(hashes),
        })
    }

    /// Which of the machine's tables it measures when a trust domain starts. Unpacks the firmware, which takes a while.
    pub fn measured_tables(&self) -> MeasuredTables {
        MeasuredTables::of(self.image)
    }

    /// Who accepts an SNP guest's memory. Unpacks the firmware, which takes a while.
    pub fn snp_acceptance(&self) -> Acceptance {
        accept::SNP.acceptance(self.image)
    }

    /// Who accepts a trust domain's memory. Unpacks the firmware, which takes a while.
    pub fn tdx_acceptance(&self) -> Acceptance {
        accept::TDX.acceptance(self.image)
    }
}

impl Kind {
    /// Whether a trust domain starts with it.
    pub const fn starts_tdx(self) -> bool {
        matches!(self, Self::Tdx | Self::SnpAndTdx(_))
    }

    /// Whether an SNP guest starts with it, and its kernel is part of the launch digest.
    pub const fn measures_snp_kernel(self) -> bool {
        matches!(self, Self::Snp(KernelHashSupport::Present) | Self::SnpAndTdx(KernelHashSupport::Present))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "neither SNP nor TDX",
            Self::Snp(KernelHashSupport::Present) => "SNP with kernel hashes",
            Self::Snp(KernelHashSupport::Absent) => "SNP without kernel hashes",
            Self::Tdx => "TDX",
            Self::SnpAndTdx(KernelHashSupport::Present) => "SNP with kernel hashes, and TDX",
            Self::SnpAndTdx(KernelHashSupport::Absent) => "SNP without kernel hashes, and TDX",
            Self::TdxSecureBoot => "TDX with Secure Boot, which refuses the guest's kernel",
        })
    }
}
