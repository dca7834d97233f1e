//! vhost-vsock: a context id that no other VM of the host has.

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use shared_types::Cid;

use super::{Error, GateListener};
use crate::sys;

/// A few thousand VMs in a space of 2^32 ids collide about once in a million tries.
const TRIES: u32 = 32;

/// The open device with a context id claimed; closing it frees the id.
#[derive(Debug)]
pub struct KernelVsock {
    device: File,
    cid: Cid,
    pub(super) gate: Option<GateListener>,
}

impl KernelVsock {
    pub(super) fn claim(device: File) -> Result<Self, Error> {
        // A port that another has is as good as a taken id.
        let (cid, gate) = claim(|cid| {
            let gate = GateListener::vsock(cid)?;
            sys::set_guest_cid(&device, cid.get().into())?;
            Ok(gate)
        })?;
        Ok(Self { device, cid, gate: Some(gate) })
    }

    /// The guest's id.
    #[must_use]
    pub fn cid(&self) -> Cid {
        self.cid
    }

    /// For QEMU's `vhostfd`.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// `None` where there is no device, or a node without a driver.
pub(super) fn open(path: &Path) -> Result<Option<File>, Error> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(device) => Ok(Some(device)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) if e.raw_os_error().is_some_and(|e| e == Errno::ENODEV as i32 || e == Errno::ENXIO as i32) => {
            Ok(None)
        }
        Err(source) => Err(Error::Device { path: path.to_owned(), source }),
    }
}

fn claim<T>(mut set: impl FnMut(Cid) -> nix::Result<T>) -> Result<(Cid, T), Error> {
    let random = RandomState::new();
    for n in 0..TRIES {
        let cid = Cid::from_random(random.hash_one(n));
        match set(cid) {
            Ok(with) => return Ok((cid, with)),
            Err(Errno::EADDRINUSE) => {}
            Err(e) => return Err(Error::Device { path: "/dev/vhost-vsock".into(), source: e.into() }),
        }
    }
    Err(Error::NoCid { tries: TRIES })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_id_is_tried_again_with_another() {
        let mut seen = Vec::new();
        let cid = claim(|cid| {
            seen.push(cid);
            if seen.len() < 3 { Err(Errno::EADDRINUSE) } else { Ok(()) }
        });
        assert_eq!(cid.unwrap().0, seen[2]);
        assert!(seen[0] != seen[1] && seen[1] != seen[2]);
    }

    #[test]
    fn the_tries_are_bounded_and_other_errors_end_them() {
        assert!(matches!(claim::<()>(|_| Err(Errno::EADDRINUSE)), Err(Error::NoCid { tries: TRIES })));
        assert!(matches!(claim::<()>(|_| Err(Errno::EPERM)), Err(Error::Device { .. })));
    }

    #[test]
    fn a_missing_device_is_not_an_error() {
        assert!(open(Path::new("/dev/there-is-no-such-device")).unwrap().is_none());
        assert!(open(Path::new("/proc/1/there/is/no/such")).unwrap().is_none());
        assert!(matches!(open(Path::new("/proc")), Err(Error::Device { .. })));
    }
}
