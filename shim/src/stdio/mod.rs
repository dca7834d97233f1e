//! The standard streams of a process: between the engine's fifos and the guest.

mod logger;
mod sink;
mod streams;

pub use streams::Stdio;
