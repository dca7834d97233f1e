//! Where an agent listens.

use std::fmt;
use std::path::PathBuf;

/// Port of the agent's service on vsock.
pub const AGENT_PORT: u32 = 1024;

/// Address of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// The host kernel's vsock.
    Vsock {
        /// Context id of the VM.
        cid: u32,
        /// Port the agent listens on.
        port: u32,
    },
    /// A vsock device in user space that offers the guest's ports behind one unix socket.
    Hybrid {
        /// The device's socket. `/proc/self/fd/N/name` keeps it below the 108 bytes of a socket address.
        socket: PathBuf,
        /// Port the agent listens on.
        port: u32,
    },
    /// A plain unix socket: an agent that runs as a host process.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vsock { cid, port } => write!(f, "vsock {cid}:{port}"),
            Self::Hybrid { socket, port } => write!(f, "vsock port {port} behind {}", socket.display()),
            Self::Unix(path) => write!(f, "unix socket {}", path.display()),
        }
    }
}
