//! NVIDIA GPUs and NVSwitches, as the host sees them: what they are, in which confidential-computing mode
//! they run, how that mode is set, and how a GPU is given back clean.
//!
//! A GPU is found ([`sysfs`]) and claimed ([`claim`]): locked ([`lock`]), kept awake ([`power`]) and opened, over one
//! of the ways in [`registers`]. From then on types carry what is known about it: there is no [`Gpu`] without its lock, only
//! reading the active mode turns a `Gpu<Unverified>` into a `Gpu<Verified>`, and every reset turns it back. A GPU that does
//! not come back is written down in [`quarantine`].
//!
//! What the host reads here serves operation: it keeps a pod from starting with the wrong GPU. The guest
//! must not trust it; trust comes from the GPU's attestation report, checked inside the guest.
//!
//! Everything that waits is async and reports its progress. Register accesses are made in place: they take
//! microseconds. Resets block in the kernel and run on threads of their own.

pub mod boot;
pub mod chip;
pub mod claim;
mod error;
pub mod fabric;
pub mod fsp;
mod gpu;
pub mod knob;
pub mod lock;
pub mod look;
pub mod mode;
pub mod open;
pub mod owner;
pub mod power;
pub mod progress;
pub mod quarantine;
pub mod registers;
pub mod release;
pub mod set;
mod switch;
mod sys;
pub mod sysfs;
mod thread;
mod wait;

pub use chip::{Chip, DeviceId};
pub use error::{Cause, Failure, PendingMode};
pub use gpu::{Assignable, Attached, Gpu, Unverified, Verified, look as look_at};
pub use mode::InvalidMode;
pub use progress::{Phase, Progress};
pub use shared_types::{BadPciAddress, GpuMode as Mode, ModePolicy, NvidiaKind as Kind, PciAddress};
pub use switch::Plan;
