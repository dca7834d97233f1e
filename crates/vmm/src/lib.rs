//! One QEMU: spawned, booted in typed stages, watched, and ended with nothing left behind.
//!
//! The way through a boot is [`boot`]; what a running VM can be asked is [`vm`].

pub mod boot;
mod claims;
pub mod devices;
mod diagnose;
pub mod disks;
pub mod ended;
pub mod gate;
pub mod lines;
pub mod lost;
mod luns;
pub mod progress;
pub mod qemu;
pub mod qmp;
mod secrets;
pub mod state;
mod vm;

pub use claims::Claims;
pub use disks::Layer;
pub use secrets::{AwaitedSecrets, Expected};
pub use vm::{Gone, Vm};
