//! Whether this host can run each class of pod VM, and what to do where it cannot.
//!
//! The checks form a tree. A check is asked only when the one above it holds, so that what is reported as
//! failed is a cause and not a consequence; the rest is skipped. Everything that is a file is read below a
//! [`Root`]; everything else is asked of a [`Probe`]. So a whole host can be a directory in a test.
//!
//! [`examine`] asks everything, for `coffer doctor`. [`preflight`] asks, before a confidential VM starts,
//! what can be known from files and the CPU alone.

mod check;
mod checks;
mod connect;
mod containerd;
mod host;
mod preflight;
mod probe;
mod qemu;
mod report;
mod root;
mod sys;
mod tee;

pub use check::{Check, Class, Fault, Outcome};
pub use connect::Service;
pub use host::{Host, has_erofs};
pub use preflight::{Failed, Warned, preflight, preflight_with};
pub use probe::{Now, Probe, Quick, Real, SnpState, SnpStatus};
pub use qemu::{Qemu, QemuError, SevCapabilities, Version};
pub use report::{ClassVerdict, Gpus, Report, Verdict, examine};
pub use root::{Root, Unreadable};
pub use tee::{Offer, tee, tee_with};
