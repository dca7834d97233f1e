//! One QEMU: spawned, booted in typed stages, watched, and ended with nothing left behind.
//!
//! The way through a boot is [`boot`]; what a running VM can be asked is [`vm`].

pub mod diagnose;
pub mod ended;
pub mod lines;
pub mod progress;
pub mod qemu;
pub mod qmp;
