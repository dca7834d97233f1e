//! TDX: MRTD, and the run-time registers RTMR1 and RTMR2 of a kernel that QEMU boots directly.
//!
//! RTMR0 is left out: it covers the hand-off block (memory size), the secure boot variables and the ACPI tables
//! (vCPUs, devices), and so differs from one VM's shape to the next.

mod log;
mod mrtd;
mod pe;
mod rtmr;

pub use self::log::{Event, EventLog, Rtmr};
pub use self::mrtd::{Mrtd, PageOrder, TdxError, mrtd};
pub use self::pe::PeError;
pub use self::rtmr::{InitrdOption, rtmr1, rtmr2};
