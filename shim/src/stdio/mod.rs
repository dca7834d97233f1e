//! The standard streams of a process: between the engine's fifos and the guest.

mod sink;
mod streams;

pub use streams::Stdio;

/// Where an engine wants a process's streams; empty means nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StdioPaths {
    /// Fifo that is read.
    pub stdin: String,
    /// Fifo or URI that is written.
    pub stdout: String,
    /// Fifo or URI that is written; empty with a terminal.
    pub stderr: String,
    /// Whether the process has a terminal.
    pub terminal: bool,
}
