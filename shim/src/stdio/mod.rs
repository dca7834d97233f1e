//! The standard streams of a process: between the engine's fifos and the guest.

mod sink;
mod streams;

pub use streams::{CHUNK, Stdio};
