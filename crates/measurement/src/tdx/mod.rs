//! TDX: MRTD, and the run-time registers RTMR0, RTMR1 and RTMR2 of a kernel that QEMU boots directly.
//!
//! RTMR0 differs from one VM's shape to the next: it covers the hand-off block (memory size) and the ACPI tables
//! (vCPUs, devices, the addresses that the firmware gave them). RTMR3 is the guest's own.

mod acpi;
mod hob;
mod log;
mod mrtd;
mod pe;
mod rtmr;
mod rtmr0;

pub use self::acpi::{FwCfgFiles, TABLE_LOADER, acpi_files};
pub use self::log::{Event, EventLog, Rtmr};
pub use self::mrtd::{Mrtd, PageOrder, TdxError, mrtd};
pub use self::pe::PeError;
pub use self::rtmr::{InitrdOption, rtmr1, rtmr2};
pub use self::rtmr0::{Rtmr0Error, rtmr0};
