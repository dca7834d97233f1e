//! RTMR0 of a TD whose firmware is edk2's IntelTdxX64 without Secure Boot, as `guest-image/build firmware` makes it.
//!
//! Source: edk2 2025.02. `OvmfPkg/IntelTdx/Sec` measures the hand-off block and the variable store; `OvmfPkg/Tcg/TdTcg2Dxe`
//! the Secure Boot variables, a separator and, when it starts the kernel, the boot variables; in between comes ACPI.

use super::acpi::{self, FwCfgFiles};
use super::hob;
use super::log::{Event, EventLog};
use super::mrtd::TdxError;
use crate::Guid;
use crate::ovmf::{Firmware, FirmwareError, MeasuredTables, PageRange, TdvfSectionKind};

/// EFI_GLOBAL_VARIABLE (UEFI specification, 3.3).
const GLOBAL: Guid = Guid::new(0x8be4_df61, 0x93ca, 0x11d2, [0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c]);
/// EFI_IMAGE_SECURITY_DATABASE_GUID (UEFI specification, 32.4.1).
const SECURITY_DATABASE: Guid =
    Guid::new(0xd719_b2cb, 0x3d3a, 0x4596, [0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f]);
/// The firmware volume of the boot manager's menu (`IntelTdxX64.fdf`, DXEFV) and the menu's file (UiApp) in it.
const VOLUME: Guid = Guid::new(0x7cb8_bdc9, 0xf8eb, 0x4f34, [0xaa, 0xea, 0x3e, 0xe4, 0xaf, 0x65, 0x16, 0xa1]);
const MENU: Guid = Guid::new(0x462c_aa21, 0x7614, 0x4503, [0x83, 0x6e, 0x8a, 0xb6, 0xf4, 0x66, 0x23, 0x31]);

/// Why there is no RTMR0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rtmr0Error {
    /// The firmware cannot be read, or is not for TDX.
    #[error(transparent)]
    Tdx(#[from] TdxError),
    /// The firmware has no place for the memory map.
    #[error("the firmware's TDVF metadata has no section for the hand-off block")]
    NoHandOffBlock,
    /// The memory map does not fit.
    #[error("the hand-off block needs {needed} bytes, and the firmware has {room} for it")]
    HandOffBlockSize {
        /// What the memory map needs.
        needed: u64,
        /// The section's size.
        room: u64,
    },
    /// The firmware has no, or more than one, variable store.
    #[error("the firmware's TDVF metadata has {0} sections for the variable store, and not one")]
    VariableStores(usize),
    /// The firmware comes with variables.
    #[error(
        "the firmware comes with variables, as builds with Secure Boot do; what it measures of them is not \
         predicted. `guest-image/build firmware` makes one without"
    )]
    Variables,
    /// What it measures is not seen in it.
    #[error(
        "the firmware does not tell what it measures: no driver of edk2's for TDX is in it, or something that cannot be \
         unpacked. `guest-image/build firmware` makes one that tells"
    )]
    Untold,
    /// An older edk2.
    #[error(
        "the firmware does not measure the machine's ACPI tables, as edk2 before edk2-stable202302: a host could choose them \
         unseen. `guest-image/build firmware` makes one that does"
    )]
    MeasuresLess,
    /// A newer edk2.
    #[error(
        "the firmware measures the machine's SMBIOS tables, too, as edk2-stable202505 and newer do; what it measures of \
         them is not predicted. `guest-image/build firmware` makes one that does not"
    )]
    MeasuresMore,
    /// No size that a machine has.
    #[error("{0} bytes of memory are not whole pages, or none, or more than addresses reach")]
    Memory(u64),
    /// The firmware wants memory where the machine has none.
    #[error("the firmware's section {0} is not in the memory; is it too small?")]
    OutsideMemory(PageRange),
    /// The script is cut.
    #[error("etc/table-loader has {0} bytes, which are not whole commands of 128")]
    ScriptSize(usize),
    /// A file name in the script is none.
    #[error("command {0} of etc/table-loader names no file")]
    ScriptName(usize),
    /// The script reads nothing.
    #[error("etc/table-loader reads no file")]
    NoAllocation,
    /// A file is missing.
    #[error("the ACPI file {0} is missing")]
    NoFile(String),
}

impl From<FirmwareError> for Rtmr0Error {
    fn from(error: FirmwareError) -> Self {
        Self::Tdx(error.into())
    }
}

/// The events of RTMR0 for a q35 machine with `memory` bytes and these ACPI files, which must be what QEMU serves
/// **after** the firmware has set up the PCI devices: QEMU writes their addresses into the tables.
///
/// # Errors
/// [`Rtmr0Error`] for firmware of another kind or one that does not tell what it measures, a memory size that cannot be, and ACPI files that are incomplete.
pub fn rtmr0(firmware: &Firmware<'_>, memory: u64, files: &FwCfgFiles) -> Result<EventLog, Rtmr0Error> {
    let metadata = firmware.tdvf()?.ok_or(TdxError::NotForTdx)?;
    let stores: Vec<_> =
        metadata.sections().iter().filter(|s| s.kind == TdvfSectionKind::ConfigurationVolume).collect();
    let [store] = stores[..] else { return Err(Rtmr0Error::VariableStores(stores.len())) };
    if metadata.has_variables() {
        return Err(Rtmr0Error::Variables);
    }
    // Only what the image itself says is predicted.
    match firmware.measured_tables() {
        MeasuredTables::Acpi => {}
        MeasuredTables::Unknown => return Err(Rtmr0Error::Untold),
        MeasuredTables::None => return Err(Rtmr0Error::MeasuresLess),
        MeasuredTables::AcpiAndSmbios => return Err(Rtmr0Error::MeasuresMore),
    }
    let mut events = vec![
        Event::of("hand-off block (memory map)", &hob::hand_off_block(&metadata, memory)?),
        Event::of("variable store (CFV)", store.data),
        Event::of("variable SecureBoot", &missing_variable(GLOBAL, "SecureBoot")),
        Event::of("variable PK", &missing_variable(GLOBAL, "PK")),
        Event::of("variable KEK", &missing_variable(GLOBAL, "KEK")),
        Event::of("variable db", &missing_variable(SECURITY_DATABASE, "db")),
        Event::of("variable dbx", &missing_variable(SECURITY_DATABASE, "dbx")),
        Event::of("separator", &[0; 4]),
    ];
    events.extend(acpi::events(files)?);
    events.push(Event::of("variable BootOrder", &[0, 0]));
    events.push(Event::of("variable Boot0000", &boot_manager_menu()));
    Ok(EventLog::new(events))
}

/// UEFI_VARIABLE_DATA (TCG PC Client Platform Firmware Profile, 10.2.6) of a variable that does not exist.
fn missing_variable(vendor: Guid, name: &str) -> Vec<u8> {
    let units: Vec<u16> = name.encode_utf16().collect();
    let mut data = vendor.as_bytes().to_vec();
    data.extend((units.len() as u64).to_le_bytes());
    data.extend(0_u64.to_le_bytes());
    data.extend(units.into_iter().flat_map(u16::to_le_bytes));
    data
}

/// The only boot option at that time, an EFI_LOAD_OPTION (UEFI specification, 3.1.3) for the boot manager's menu.
fn boot_manager_menu() -> Vec<u8> {
    // Media device paths (UEFI specification, 10.3.5.6 and .7): type 4, subtypes 7 (volume) and 6 (file), 20 bytes.
    let mut path = vec![4, 7, 20, 0];
    path.extend(VOLUME.as_bytes());
    path.extend([4, 6, 20, 0]);
    path.extend(MENU.as_bytes());
    path.extend([0x7f, 0xff, 4, 0]);
    // Active, hidden, an application; the path has 44 bytes.
    let mut option = vec![0x09, 0x01, 0, 0, 44, 0];
    option.extend("UiApp\0".encode_utf16().flat_map(u16::to_le_bytes));
    option.extend(path);
    option
}
