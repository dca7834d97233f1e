//! Crate `gpu` against emulated GPUs, over vfio-user.

#![allow(clippy::unwrap_used, reason = "all of it is tests")]

mod board;
mod faults;
mod interruption;
mod modes;
mod replies;
mod rig;
mod server;
mod slow;
mod time;
