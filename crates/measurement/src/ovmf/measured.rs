//! What a firmware measures into RTMR0, as far as its drivers tell.
//!
//! edk2 measures more from release to release, and no metadata says what. The drivers do.

use super::accept::TDX;
use super::volume::{Section, has, sections};
use crate::Guid;

/// The text of the events by which edk2's AcpiPlatformDxe measures QEMU's ACPI tables, `EV_POSTCODE_INFO_ACPI_DATA` (TCG PC
/// Client Platform Firmware Profile, 10.4.1): edk2 pull request 3997, in OVMF since edk2-stable202302.
const ACPI_EVENT: &[u8] = b"ACPI DATA";

/// edk2's SmbiosMeasurementDxe (`MdeModulePkg/Universal/SmbiosMeasurementDxe`), in OVMF since edk2-stable202505.
const SMBIOS_MEASUREMENT: Guid =
    Guid::new(0xd27f_ed59, 0xabb4, 0x4fed, [0xbe, 0xad, 0x2a, 0x87, 0x8c, 0x7e, 0x4a, 0x7e]);

/// Which of the machine's tables a firmware measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MeasuredTables {
    /// The image does not tell: it has no driver of edk2's for TDX that could be seen, or something that cannot be unpacked.
    Unknown,
    /// None, as edk2 before edk2-stable202302.
    None,
    /// ACPI's.
    Acpi,
    /// ACPI's and SMBIOS's, as edk2-stable202505 and newer.
    AcpiAndSmbios,
}

impl MeasuredTables {
    /// Reads the drivers in `image`.
    pub(super) fn of(image: &[u8]) -> Self {
        let (mut sealed, mut tdx, mut acpi, mut smbios) = (false, false, false, false);
        for section in sections(image) {
            let Section::Volume(volume) = section else {
                sealed = true;
                continue;
            };
            tdx |= has(&volume, TDX.file.as_bytes());
            acpi |= has(&volume, ACPI_EVENT);
            smbios |= has(&volume, SMBIOS_MEASUREMENT.as_bytes());
        }
        match (tdx, smbios, sealed, acpi) {
            (false, ..) => Self::Unknown,
            (true, true, ..) => Self::AcpiAndSmbios,
            (true, false, true, _) => Self::Unknown,
            (true, false, false, true) => Self::Acpi,
            (true, false, false, false) => Self::None,
        }
    }
}
