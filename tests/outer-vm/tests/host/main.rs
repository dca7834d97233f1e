//! `coffer gpu` over the kernel's own sysfs and VFIO.

#![allow(clippy::unwrap_used, reason = "all of it is tests")]

mod command;
mod gpus;
