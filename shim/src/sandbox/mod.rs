//! One sandbox: the pod VM, its containers and their processes.
//!
//! ```text
//! Handle ── Pod ── Machine (absent, up, down)         vmm::Vm
//!            └──── Container ── Process (init, execs)  lifecycle, stdio
//! ```
//!
//! `launch` boots the VM, `create` makes and removes containers, `process` follows them to their exits.

pub mod api;
mod bundle;
mod container;
mod create;
mod error;
mod gpus;
mod guest;
mod handle;
mod launch;
mod layers;
mod lifecycle;
mod pinned;
mod pod;
mod process;
pub mod state;
mod volumes;

pub use error::{Error, one_line};
pub use handle::{Context, Handle};

/// Result of an operation on a sandbox.
pub type Result<T> = std::result::Result<T, Error>;
