//! The line to the guest's agent: vhost-vsock where the kernel has it, else the vhost-user program.

mod gate;
mod kernel;
mod user;

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jail::{Jail, UserId};
use serde::{Deserialize, Serialize};

pub use gate::GateListener;
pub use kernel::KernelVsock;
pub use user::{UserVsock, find_program};

use crate::process::{self, Identity};

/// The program that stands in for vhost-vsock.
pub const PROGRAM: &str = "vhost-device-vsock";
/// Its socket for QEMU, in its own directory.
pub const VHOST_USER_SOCKET: &str = "vhost.sock";
/// Its socket for us: hybrid vsock, `CONNECT <port>\n`. In its own directory, too.
pub const HYBRID_SOCKET: &str = "vsock.sock";
/// Where it connects to for the guest's PID 1, on the port that is the guest's context id. In its own
/// directory, too.
pub(crate) const GATE_SOCKET: &str = "vsock.sock_1073741824";

const END: Duration = Duration::from_secs(5);

/// What can go wrong with vsock.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `/dev/vhost-vsock` is there and refuses.
    #[error("cannot use {path}")]
    Device {
        /// The device node.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nobody can listen to the guest's PID 1.
    #[error("cannot listen on {path}")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Every context id that we tried was taken.
    #[error("no free vsock context id found in {tries} tries; are there as many VMs on this host?")]
    NoCid {
        /// How often.
        tries: u32,
    },
    /// Neither the device nor the program is there.
    #[error(
        "neither /dev/vhost-vsock (modprobe vhost_vsock) nor the program {program:?} in {searched:?} was found"
    )]
    NoProgram {
        /// Its name.
        program: String,
        /// Directories.
        searched: Vec<PathBuf>,
    },
    /// The program cannot be started.
    #[error("cannot start {program}")]
    Spawn {
        /// Its path.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program ended instead of serving.
    #[error("{program} ended ({status}) before it served; it said: {stderr}")]
    Ended {
        /// Its path.
        program: PathBuf,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The last of what it wrote there.
        stderr: String,
    },
    /// The program makes no socket.
    #[error("{program} made no socket {socket} within {timeout:?}; it said: {stderr}")]
    NotReady {
        /// Its path.
        program: PathBuf,
        /// The socket we waited for.
        socket: PathBuf,
        /// How long.
        timeout: Duration,
        /// The last of what it wrote there.
        stderr: String,
    },
    /// QEMU cannot be given its socket.
    #[error("cannot give {} to QEMU", path.display())]
    GiveSocket {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A socket of it cannot be removed.
    #[error("cannot remove socket {path}")]
    Remove {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program cannot be ended.
    #[error("cannot end {PROGRAM:?}")]
    End(#[source] process::Error),
}

/// What is needed to give the line back without the shim that had it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VsockRecord {
    /// The descriptor was all there was.
    Kernel,
    /// Written twice: before the program is started (it dies with the shim), and with its identity.
    User {
        /// Where its sockets are.
        state_dir: PathBuf,
        /// Which process, once it runs.
        process: Option<Identity>,
    },
}

impl VsockRecord {
    /// Ends the program and removes its sockets; repeats do no harm.
    ///
    /// # Errors
    /// [`Error::End`], [`Error::Remove`].
    pub async fn release(&self) -> Result<(), Error> {
        let Self::User { state_dir, process } = self else { return Ok(()) };
        if let Some(identity) = process {
            process::end_recorded(*identity, END).await.map_err(Error::End)?;
        }
        remove_sockets(state_dir)
    }
}

fn remove_sockets(state_dir: &Path) -> Result<(), Error> {
    for name in [VHOST_USER_SOCKET, HYBRID_SOCKET, GATE_SOCKET] {
        let path = state_dir.join(name);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Error::Remove { path, source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Where the program is kept.
#[derive(Debug, Clone, Copy)]
pub struct Kept<'a> {
    /// Its jail, whose user is not QEMU's.
    pub jail: &'a Jail,
    /// The program that builds the jail.
    pub jailer: &'a Path,
    /// QEMU's user, who gets [`VHOST_USER_SOCKET`].
    pub qemu: UserId,
}

/// Which way the line will go.
#[derive(Debug)]
pub enum VsockPlan {
    /// The kernel's vhost-vsock.
    Kernel(std::fs::File),
    /// The program, by its path, with its sockets in the state directory.
    User {
        /// Its path.
        program: PathBuf,
        /// The sandbox's state directory.
        state_dir: PathBuf,
    },
}

impl VsockPlan {
    /// Opens the device, or finds the program, usually [`PROGRAM`], in one of `search`.
    ///
    /// # Errors
    /// [`Error::Device`] for a device that is there and unusable, [`Error::NoProgram`].
    pub fn new(state_dir: &Path, program: &str, search: &[PathBuf]) -> Result<Self, Error> {
        if let Some(device) = kernel::open(Path::new("/dev/vhost-vsock"))? {
            return Ok(Self::Kernel(device));
        }
        let program = find_program(program, search)?;
        Ok(Self::User { program, state_dir: state_dir.to_owned() })
    }

    /// What to write down before [`Self::claim`].
    #[must_use]
    pub fn record(&self) -> VsockRecord {
        match self {
            Self::Kernel(_) => VsockRecord::Kernel,
            Self::User { state_dir, .. } => VsockRecord::User { state_dir: state_dir.clone(), process: None },
        }
    }

    /// Claims a context id, or starts the program and waits for its sockets. Only a test's program is not `kept` anywhere.
    ///
    /// # Errors
    /// [`Error::NoCid`], [`Error::Device`]; [`Error::Spawn`], [`Error::Ended`], [`Error::NotReady`], [`Error::GiveSocket`].
    pub async fn claim(self, kept: Option<Kept<'_>>) -> Result<Vsock, Error> {
        match self {
            Self::Kernel(device) => Ok(Vsock::Kernel(KernelVsock::claim(device)?)),
            Self::User { program, state_dir } => {
                Ok(Vsock::User(Box::new(UserVsock::start(program, state_dir, kept).await?)))
            }
        }
    }
}

/// The line, in our hands.
#[derive(Debug)]
pub enum Vsock {
    /// A claimed context id.
    Kernel(KernelVsock),
    /// A running program.
    User(Box<UserVsock>),
}

impl Vsock {
    /// What to write down now that the claim is made.
    #[must_use]
    pub fn record(&self) -> VsockRecord {
        match self {
            Self::Kernel(_) => VsockRecord::Kernel,
            Self::User(user) => user.record(),
        }
    }

    /// What hears the guest's PID 1; once.
    pub fn take_gate(&mut self) -> Option<GateListener> {
        match self {
            Self::Kernel(kernel) => kernel.gate.take(),
            Self::User(user) => user.gate.take(),
        }
    }

    /// The descriptor for QEMU's `vhostfd`; a program has none.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Kernel(kernel) => Some(kernel.fd()),
            Self::User(_) => None,
        }
    }

    /// Gives it back.
    ///
    /// # Errors
    /// As [`VsockRecord::release`].
    pub async fn release(self) -> Result<(), Error> {
        match self {
            Self::Kernel(_) => Ok(()),
            Self::User(user) => user.release().await,
        }
    }
}
