//! Why a call was refused or failed, and which ttrpc status says so.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use ttrpc::Code;

/// Result of the stand-in's own functions.
pub type Result<T> = std::result::Result<T, Error>;

/// One refused or failed step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request breaks a rule of the contract.
    #[error("refused: {0}")]
    Refused(String),
    /// The request came at a time at which it means nothing.
    #[error("out of order: {0}")]
    Order(&'static str),
    /// The policy says no.
    #[error("{0}")]
    Denied(String),
    /// The policy says nothing that makes sense.
    #[error("{0}")]
    Policy(String),
    /// A part of the contract which the stand-in does not play.
    #[error("the stand-in agent does not play {0}")]
    Unsupported(&'static str),
    /// No such container.
    #[error("no container {0}")]
    NoContainer(String),
    /// The container has no such process, or it was already waited for.
    #[error("container {container} has no process {exec:?}, or it was already waited for")]
    NoProcess {
        /// The container's id.
        container: String,
        /// The exec id that was asked for; empty for the init process.
        exec: String,
    },
    /// A system call or file operation on `path` failed.
    #[error("{what} {path}: {source}")]
    Path {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system answered.
        source: io::Error,
    },
    /// Network configuration failed.
    #[error("{what}: {source}")]
    Network {
        /// What was tried, on which link or address.
        what: String,
        /// What the kernel answered.
        source: rtnetlink::Error,
    },
    /// The container library refused or failed.
    #[error("container {container}: {message}")]
    Runtime {
        /// The container's id.
        container: String,
        /// The library's message.
        message: String,
    },
    /// Something did not happen in time.
    #[error("{what} did not come within {limit:?}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
    },
}

impl Error {
    /// The ttrpc status code; the same as kata-agent's where that gives a particular one.
    pub fn code(&self) -> Code {
        match self {
            Self::Refused(_) => Code::INVALID_ARGUMENT,
            Self::Order(_) => Code::FAILED_PRECONDITION,
            Self::Unsupported(_) => Code::UNIMPLEMENTED,
            Self::NoContainer(_) => Code::INVALID_ARGUMENT,
            Self::NoProcess { .. } => Code::NOT_FOUND,
            Self::Denied(_) => Code::PERMISSION_DENIED,
            Self::Policy(_)
            | Self::Path { .. }
            | Self::System { .. }
            | Self::Network { .. }
            | Self::Runtime { .. }
            | Self::Timeout { .. } => Code::INTERNAL,
        }
    }

    /// Wraps the failure of `what` on `path`.
    pub fn path(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Path { what, path, source }
    }

    /// Wraps the failure of a system call on `path`.
    pub fn errno(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(nix::Error) -> Self {
        let path = path.into();
        move |errno| Self::Path { what, path, source: errno.into() }
    }

    /// Wraps the failure of a system call that has no path.
    pub fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { what, source: source.into() }
    }

    /// Shorthand for a refused request.
    pub fn refused(rule: impl Into<String>) -> Self {
        Self::Refused(rule.into())
    }
}

impl From<Error> for ttrpc::Error {
    fn from(error: Error) -> Self {
        Self::RpcStatus(ttrpc::get_status(error.code(), error.to_string()))
    }
}
