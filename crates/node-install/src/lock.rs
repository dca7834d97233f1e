//! One installer at a time.

use std::fs::File;

use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, Result};
use crate::root::{Last, Root};

/// What is locked: a directory that each node has, so that no file of ours is needed for it.
const PLACE: &str = "/etc";

/// The right to change this node's installations; given back when dropped.
#[derive(Debug)]
pub struct Lock {
    _directory: File,
}

impl Lock {
    /// Takes it.
    ///
    /// # Errors
    /// [`Error::Locked`] where somebody has it.
    pub fn take(root: &Root) -> Result<Self> {
        let path = root.resolve(PLACE, Last::Followed)?;
        let directory = File::open(path).map_err(|source| Error::Read { path: PLACE.to_owned(), source })?;
        flock(&directory, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| Error::Locked { path: PLACE.to_owned() })?;
        Ok(Self { _directory: directory })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_installers_do_not_work_at_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let root = Root::new(dir.path());
        let first = Lock::take(&root).unwrap();
        assert!(matches!(Lock::take(&root), Err(Error::Locked { .. })));
        drop(first);
        Lock::take(&root).unwrap();
    }
}
