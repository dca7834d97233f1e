//! A netlink connection that lives in a network namespace.

use std::io;

use nix::errno::Errno;
use tokio::task::JoinHandle;

use super::Error;
use super::netns::Netns;

/// The connection; closed when dropped.
#[derive(Debug)]
pub(super) struct Link {
    pub handle: rtnetlink::Handle,
    netns: Netns,
    driver: Driver,
}

#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Link {
    /// Opens the socket inside `netns` and serves it from the current runtime.
    pub fn connect(netns: Netns) -> Result<Self, Error> {
        let runtime = tokio::runtime::Handle::current();
        let (connection, handle, _events) = netns.enter("open a netlink socket", || {
            let _registers_there = runtime.enter();
            rtnetlink::new_connection()
        })?;
        Ok(Self { handle, netns, driver: Driver(tokio::spawn(connection)) })
    }

    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    pub(crate) fn into_netns(self) -> Netns {
        drop(self.driver);
        self.netns
    }

    /// For `map_err`: names what was tried and where.
    pub fn failed(&self, action: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Error {
        let netns = self.netns.path().to_owned();
        move |error| Error::Netlink { action: action.into(), netns, source: plain(error) }
    }

    /// The link cannot be given to the guest.
    pub fn unsupported(&self, link: &str, reason: impl Into<String>) -> Error {
        let netns = self.netns.path().to_owned();
        Error::Unsupported { link: link.to_owned(), netns, reason: reason.into() }
    }
}

/// Without the messages that the library's error may hold: what prints those is a tenth of a megabyte of code.
fn plain(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(answer) => {
            io::Error::from_raw_os_error(answer.raw_code().saturating_neg())
        }
        rtnetlink::Error::RequestFailed => io::ErrorKind::BrokenPipe.into(),
        rtnetlink::Error::UnexpectedMessage(_) => io::Error::other("the kernel's answer is of another kind"),
        _ => io::ErrorKind::InvalidInput.into(),
    }
}

/// Whether the kernel's answer to a request was this errno.
pub(super) fn is_errno(error: &rtnetlink::Error, errno: Errno) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(answer) if answer.raw_code().checked_neg() == Some(errno as i32))
}
