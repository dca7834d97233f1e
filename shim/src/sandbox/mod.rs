//! One sandbox: the pod VM, its containers and their processes.

pub mod api;
mod error;
mod handle;
pub mod state;

pub use error::{Error, one_line};
pub use handle::{Context, Handle};

/// Result of an operation on a sandbox.
pub type Result<T> = std::result::Result<T, Error>;
