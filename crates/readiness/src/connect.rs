//! Asks whether a service answers, without waiting for one that does not.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, SockaddrLike, UnixAddr, VsockAddr, getsockopt, sockopt,
};

/// How long a connection may take to come, in milliseconds. On one host it comes at once.
const PATIENCE: u16 = 500;

/// Where a service of this host listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service<'a> {
    /// On a unix socket; where the file is, below a [`Root`](crate::Root) or not.
    Unix(&'a Path),
    /// On a vsock port.
    Vsock {
        /// Context id; 2 is the host.
        cid: u32,
        /// Port.
        port: u32,
    },
}

/// Connects to a service, and hangs up.
///
/// # Errors
/// Nobody answers, or nobody takes the connection soon.
pub(crate) fn connect(service: Service<'_>) -> io::Result<()> {
    match service {
        Service::Unix(path) => to(AddressFamily::Unix, &UnixAddr::new(path)?),
        Service::Vsock { cid, port } => to(AddressFamily::Vsock, &VsockAddr::new(cid, port)),
    }
}

fn to(family: AddressFamily, address: &dyn SockaddrLike) -> io::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(family, SockType::Stream, flags, None)?;
    match socket::connect(socket.as_raw_fd(), address) {
        Ok(()) => Ok(()),
        Err(Errno::EINPROGRESS) => {
            let mut wanted = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
            if poll(&mut wanted, PollTimeout::from(PATIENCE))? == 0 {
                return Err(Errno::ETIMEDOUT.into());
            }
            match getsockopt(&socket, sockopt::SocketError)? {
                0 => Ok(()),
                error => Err(io::Error::from_raw_os_error(error)),
            }
        }
        // A unix socket with a listener whose queue is full.
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_unix_socket_answers_while_somebody_listens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qgs.socket");
        let error = |()| connect(Service::Unix(&path)).unwrap_err().kind();
        assert_eq!(error(()), io::ErrorKind::NotFound);
        let listener = UnixListener::bind(&path).unwrap();
        connect(Service::Unix(&path)).unwrap();
        drop(listener);
        assert_eq!(error(()), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_listener_that_takes_no_more_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qgs.socket");
        let _listener = UnixListener::bind(&path).unwrap();
        let fill = || connect(Service::Unix(&path));
        // Connections that hung up stay in the queue until they are taken.
        let error = (0..1 << 16).find_map(|_| fill().err()).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_vsock_port_that_nobody_has_is_an_error() {
        assert!(connect(Service::Vsock { cid: 2, port: 0xffff_fff0 }).is_err());
    }
}
