//! Stand-in for NVIDIA GPUs and NVSwitches, where there are none: a vfio-user server that behaves as the
//! hardware is documented to, as far as confidential-computing mode, boot and reset go.
//!
//! It shares no code and no constants with crate `gpu`, which is tested against it: an error would have to be
//! made twice. Register addresses and behaviour follow NVIDIA's open GPU kernel modules (595.45.04) and
//! gpu-admin-tools (2025.11.21), run unmodified against a model like this one.
//!
//! It is strict where hardware is forgiving: what a well-behaved driver does not do is a [`Violation`],
//! reported over the control socket and on standard error. It can be made to fail in each of the ways that
//! hardware does ([`Faults`]).
//!
//! No claim is made that silicon behaves so in all that is not documented; each such choice says so.

mod config_space;
pub mod control;
mod device;
mod fault;
mod firmware;
mod guest;
mod knobs;
mod mailbox;
mod product;
mod queues;
mod server;
pub mod sysfs;
mod violation;

pub use device::{Device, State, Timing};
pub use fault::{BootFault, Faults, IdentityFault, MailboxFault, ReplyFault};
pub use product::Product;
pub use server::{Emulator, Error, Options};
pub use violation::Violation;
