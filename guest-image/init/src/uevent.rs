//! What the kernel says about devices that come, change and go (netlink(7), `NETLINK_KOBJECT_UEVENT`).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt, socket,
};

/// The group that the kernel itself sends to; others are udev's.
const KERNEL_GROUP: u32 = 1;
/// Bytes that may wait: a pod's layers arrive together, with several messages each.
const BUFFER: usize = 8 << 20;
/// Longest message: the kernel's own limit for variables, and its first line.
const LONGEST: usize = 8 << 10;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uevent(BTreeMap<String, String>);

impl Uevent {
    /// Reads a message: a line `ACTION@PATH`, then variables `KEY=VALUE`, each with a NUL behind it.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let mut parts = message.split(|byte| *byte == 0);
        parts.next().filter(|line| line.contains(&b'@'))?;
        let variables = parts.filter_map(|part| str::from_utf8(part).ok()?.split_once('='));
        Some(Self(variables.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()))
    }

    /// A variable, or nothing.
    pub fn get(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }
}

/// The kernel's messages, read without waiting.
#[derive(Debug)]
pub struct Uevents(OwnedFd);

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// A message of the kernel.
    Message(Uevent),
    /// Messages were lost: what is there must be looked at.
    Lost,
    /// Nothing, for now.
    Nothing,
}

impl Uevents {
    /// Begins to listen.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn listen() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkKObjectUEvent;
        let fd = socket(AddressFamily::Netlink, SockType::Datagram, flags, protocol)?;
        setsockopt(&fd, RcvBufForce, &BUFFER)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
        Ok(Self(fd))
    }

    /// The next message.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn next(&self) -> io::Result<Next> {
        let mut message = [0; LONGEST];
        loop {
            match recvfrom::<NetlinkAddr>(self.0.as_raw_fd(), &mut message) {
                // A process may send to the group as well; only the kernel's own port is 0.
                Ok((length, Some(from))) if from.pid() == 0 => {
                    if let Some(uevent) = message.get(..length).and_then(Uevent::parse) {
                        return Ok(Next::Message(uevent));
                    }
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(Next::Nothing),
                Err(Errno::ENOBUFS) => return Ok(Next::Lost),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for Uevents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_its_variables() {
        let message =
            b"add@/devices/x/block/sda\0ACTION=add\0DEVPATH=/devices/x/block/sda\0SUBSYSTEM=block\0";
        let uevent = Uevent::parse(message).unwrap();
        assert_eq!(uevent.get("ACTION"), "add");
        assert_eq!(uevent.get("DEVPATH"), "/devices/x/block/sda");
        assert_eq!(uevent.get("MAJOR"), "");
    }

    #[test]
    fn other_bytes_are_no_message() {
        for message in [&b""[..], b"libudev\0\xfe\xed\xca\xfe", b"\0\0", b"ACTION=add\0"] {
            assert_eq!(Uevent::parse(message), None);
        }
        assert_eq!(Uevent::parse(b"add@/x\0\xff=1\0novalue\0").unwrap(), Uevent(BTreeMap::new()));
    }
}
