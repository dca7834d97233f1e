//! Where the guest's PID 1 says what it does: a port of the host that only one VM can reach, and only it is heard.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;

use nix::errno::Errno;
use nix::libc::VMADDR_CID_ANY;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept4, bind, getpeername, listen, socket,
};
use shared_types::Cid;
use tokio::io::unix::AsyncFd;
use tokio::net::{UnixListener, UnixStream};

use crate::sys;

/// A port that is listened on, before the VM that will connect to it starts.
#[derive(Debug)]
pub struct GateListener(Kind);

#[derive(Debug)]
enum Kind {
    /// Of the kernel: every VM of the host can reach it, so the caller's context id counts.
    Vsock { socket: AsyncFd<OwnedFd>, cid: Cid },
    /// vhost-device-vsock connects to a socket of its own VM.
    Unix(UnixListener),
}

impl GateListener {
    /// Listens on the port that has the VM's context id for its number.
    pub(super) fn vsock(cid: Cid) -> nix::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
        bind(socket.as_raw_fd(), &VsockAddr::new(VMADDR_CID_ANY, cid.get()))?;
        listen(&socket, Backlog::new(1)?)?;
        let socket = sys::watch(socket).map_err(|error| errno(&error))?;
        Ok(Self(Kind::Vsock { socket, cid }))
    }

    /// Listens on the socket `name` in a directory, whose path may be longer than a socket's address can be.
    pub(super) fn unix(dir: &Path, name: &str) -> io::Result<Self> {
        let opened = File::open(dir)?;
        let short = Path::new("/proc/self/fd").join(opened.as_raw_fd().to_string()).join(name);
        Ok(Self(Kind::Unix(UnixListener::bind(short)?)))
    }

    /// Waits for the VM's first connection, which PID 1 makes before anything else runs in the guest. Nobody is listened
    /// to any more after that.
    ///
    /// # Errors
    /// The socket is broken.
    pub async fn accept(self) -> io::Result<UnixStream> {
        match self.0 {
            Kind::Unix(listener) => Ok(listener.accept().await?.0),
            Kind::Vsock { socket, cid } => loop {
                let mut ready = socket.readable().await?;
                let accepted = ready.try_io(|socket| {
                    accept4(socket.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)
                        .map_err(Into::into)
                });
                let Ok(accepted) = accepted else { continue };
                let stream = StdUnixStream::from(sys::owned(accepted?));
                // Another VM, or a process of this host.
                // Who has left again already has no name, and is none that ends the listening.
                let peer = getpeername::<VsockAddr>(stream.as_raw_fd());
                if peer.is_ok_and(|peer| peer.cid() == cid.get()) {
                    return UnixStream::from_std(stream);
                }
            },
        }
    }
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_the_vms_program_connects_to_is_heard_whatever_the_directorys_path() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("d".repeat(120));
        std::fs::create_dir(&dir).unwrap();
        let listener = GateListener::unix(&dir, "vsock.sock_3").unwrap();
        let opened = File::open(&dir).unwrap();
        let short = format!("/proc/self/fd/{}/vsock.sock_3", opened.as_raw_fd());
        let mut guest = UnixStream::connect(&short).await.unwrap();
        let mut heard = listener.accept().await.unwrap();
        guest.write_all(b"hello\n").await.unwrap();
        drop(guest);
        let mut text = String::new();
        heard.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello\n");
        // Nobody else is.
        assert!(UnixStream::connect(&short).await.is_err());
    }

    #[tokio::test]
    async fn a_port_is_listened_on_once() {
        let cid = Cid::from_random(4_000_000_000);
        let first = match GateListener::vsock(cid) {
            Err(Errno::EAFNOSUPPORT) => return, // a kernel without vsock
            first => first.unwrap(),
        };
        assert_eq!(GateListener::vsock(cid).unwrap_err(), Errno::EADDRINUSE);
        drop(first);
        GateListener::vsock(cid).unwrap();
    }
}
