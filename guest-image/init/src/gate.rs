//! The gate channel: PID 1's lines to the host, over vsock, so that they are heard without a console.
//!
//! The host listens on the port that is the VM's own CID. Nothing is ever read from it, and nothing waits for it:
//! the connection is made while the boot goes on, and a host that does not listen or does not read loses lines.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::SocketError;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, VsockAddr, connect, getsockopt, send, socket,
};

use crate::private::{Device, Kind, Private};
use crate::sys;

/// The host's CID (vsock(7), `VMADDR_CID_HOST`).
const HOST: u32 = 2;
/// Longest line in bytes, its newline included.
const LONGEST_LINE: usize = 1024;
/// Bytes that wait for a host that does not read; what comes then is lost.
const MOST_WAITING: usize = 64 << 10;
/// Where the kernel says the numbers of the vsock device.
const VSOCK_DEVICE: &str = "sys/class/misc/vsock/dev";

/// The channel, from before it is connected until it is lost.
#[derive(Debug)]
pub struct Gate {
    state: State,
    /// Whole lines that are not sent, the first one perhaps in part.
    waiting: Vec<u8>,
}

#[derive(Debug)]
enum State {
    /// Not tried yet.
    Early,
    /// The host has not answered yet.
    Connecting(OwnedFd),
    Open(OwnedFd),
    /// No such device, no such host, or it went away.
    Closed,
}

impl Gate {
    /// A channel that only keeps lines.
    pub const fn new() -> Self {
        Self { state: State::Early, waiting: Vec::new() }
    }

    /// Begins to connect. Without a vsock device, or when the host refuses, the lines go to the console alone.
    pub fn connect(&mut self, private: &Private, root: &Path) {
        self.state = begin(private, root).map_or(State::Closed, State::Connecting);
        self.progress();
    }

    /// Takes a line: one line, printable ASCII, at most [`LONGEST_LINE`] bytes.
    pub fn line(&mut self, text: &str) {
        if !matches!(self.state, State::Closed) {
            let line = printable(text);
            if self.waiting.len() + line.len() <= MOST_WAITING {
                self.waiting.extend(line);
            }
            self.progress();
        }
    }

    /// Sends what the host takes now.
    pub fn progress(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Closed) {
            State::Connecting(fd) => connected(fd),
            other => other,
        };
        let State::Open(fd) = &self.state else { return };
        while !self.waiting.is_empty() {
            match send(fd.as_raw_fd(), &self.waiting, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
                Ok(sent) => drop(self.waiting.drain(..sent)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => {
                    self.state = State::Closed;
                    self.waiting.clear();
                    return;
                }
            }
        }
    }

    /// What to wait for, where there is something to wait for.
    pub fn wanted(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match &self.state {
            State::Connecting(fd) => Some((fd.as_fd(), PollFlags::POLLOUT)),
            State::Open(fd) if !self.waiting.is_empty() => Some((fd.as_fd(), PollFlags::POLLOUT)),
            _ => None,
        }
    }

    /// Waits until the host has every line, or `limit` is over.
    pub fn drain(&mut self, limit: Duration) {
        let end = Instant::now() + limit;
        loop {
            self.progress();
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let Some((fd, flags)) = self.wanted() else { break };
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            let _ = poll(&mut [PollFd::new(fd, flags)], left);
        }
        // Sent is not yet received: powering off takes away what the device has not fetched.
        if let State::Open(fd) = &self.state {
            while sys::unsent(fd).is_ok_and(|bytes| bytes > 0) && Instant::now() < end {
                let _ = poll(&mut [], PollTimeout::from(5u8));
            }
        }
    }
}

/// The socket on its way to the host.
fn begin(private: &Private, root: &Path) -> io::Result<OwnedFd> {
    let device = Device::read(&root.join(VSOCK_DEVICE))?;
    let cid = sys::local_cid(private.open(Kind::Char, device, false)?)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
    match connect(fd.as_raw_fd(), &VsockAddr::new(HOST, cid)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(fd),
        Err(errno) => Err(errno.into()),
    }
}

/// What became of a connection, as far as it is known now.
fn connected(fd: OwnedFd) -> State {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
    match poll(&mut fds, PollTimeout::ZERO) {
        Ok(0) | Err(Errno::EINTR) => State::Connecting(fd),
        Ok(_) if getsockopt(&fd, SocketError) == Ok(0) => State::Open(fd),
        _ => State::Closed,
    }
}

/// A line as the channel carries it.
fn printable(text: &str) -> Vec<u8> {
    let keep = |byte: u8| if byte == b' ' || byte.is_ascii_graphic() { byte } else { b'?' };
    let mut line: Vec<u8> = text.bytes().take(LONGEST_LINE - 1).map(keep).collect();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (Gate, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        (Gate { state: State::Connecting(ours.into()), waiting: Vec::new() }, theirs)
    }

    #[test]
    fn lines_said_before_the_connection_are_sent_first() {
        let mut early = Gate::new();
        early.line("one");
        let (connected, mut host) = pair();
        early.state = connected.state;
        early.line("two");
        let mut text = [0; 64];
        let read = host.read(&mut text).unwrap();
        assert_eq!(&text[..read], b"one\ntwo\n");
    }

    #[test]
    fn a_line_is_one_line_of_bounded_length() {
        assert_eq!(printable("a\nb\x1b[0mü"), b"a?b?[0m??\n");
        assert_eq!(printable(&"x".repeat(5000)).len(), LONGEST_LINE);
    }

    #[test]
    fn a_host_that_does_not_read_costs_lines_and_nothing_else() {
        let (mut gate, mut host) = pair();
        for _ in 0..4096 {
            gate.line(&"x".repeat(200));
        }
        assert!(gate.wanted().is_some());
        assert!(gate.waiting.len() <= MOST_WAITING);
        let mut rest = Vec::new();
        while host.read_to_end(&mut rest).is_err() && gate.wanted().is_some() {
            gate.progress();
        }
        assert!(rest.split(|byte| *byte == b'\n').all(|line| line.len() == 200 || line.is_empty()));
    }

    #[test]
    fn a_host_that_goes_away_is_forgotten() {
        let (mut gate, host) = pair();
        drop(host);
        gate.line("one");
        gate.line("two");
        assert!(matches!(gate.state, State::Closed));
        assert!(gate.waiting.is_empty());
        gate.drain(Duration::from_secs(5));
    }
}
