//! The crate's only unsafe code.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::sys::inotify::Inotify;
use tokio::io::unix::AsyncFd;

/// An inotify instance in the form `AsyncFd` takes, which owns its descriptor.
#[derive(Debug)]
pub(crate) struct Descriptor(pub(crate) Inotify);

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// Registers an inotify instance with the current tokio runtime.
pub(crate) fn register(inotify: Inotify) -> io::Result<AsyncFd<Descriptor>> {
    // SAFETY: `Descriptor` names the one descriptor it owns, which stays open for as long as the `AsyncFd` that owns
    // the `Descriptor`, and nothing hands out a mutable reference that could replace it.
    unsafe { AsyncFd::register(Descriptor(inotify)) }.map_err(Into::into)
}
