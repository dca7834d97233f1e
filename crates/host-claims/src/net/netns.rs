//! A network namespace, by the path that CNI made for it, and work inside it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use serde::{Deserialize, Serialize};

use super::Error;

/// Which namespace a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NamespaceId {
    /// nsfs's device.
    pub device: u64,
    /// The namespace's inode.
    pub inode: u64,
}

impl NamespaceId {
    fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self { device: meta.dev(), inode: meta.ino() })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// An open network namespace.
#[derive(Debug)]
pub(super) struct Netns {
    path: PathBuf,
    file: File,
    id: NamespaceId,
}

impl Netns {
    /// Opens a namespace that must be there.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let fail = |reason, source| Error::Netns { path: path.to_owned(), reason, source };
        let file = File::open(path).map_err(|e| fail("not there", Some(e)))?;
        let kind = fstatfs(&file).map_err(|e| fail("unreadable", Some(e.into())))?.filesystem_type();
        if kind != NSFS_MAGIC {
            return Err(fail("an ordinary file, no namespace", None));
        }
        let id = NamespaceId::of(&file).map_err(|e| fail("unreadable", Some(e)))?;
        Ok(Self { path: path.to_owned(), file, id })
    }

    /// Opens a namespace that was recorded; `None` when it is gone, or the path means another by now.
    pub fn reopen(path: &Path, id: NamespaceId) -> Result<Option<Self>, Error> {
        match Self::open(path) {
            Ok(netns) => Ok((netns.id == id).then_some(netns)),
            Err(Error::Netns { source: None, .. }) => Ok(None),
            Err(Error::Netns { source: Some(e), .. }) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn id(&self) -> NamespaceId {
        self.id
    }

    /// Whether this is the namespace we run in: a pod on the host's network.
    pub(crate) fn is_our_own(&self) -> bool {
        File::open("/proc/self/ns/net").and_then(|own| NamespaceId::of(&own)).is_ok_and(|own| own == self.id)
    }

    /// Runs `work` inside the namespace. A namespace is a thread's, so it runs in a thread of its own that
    /// ends with it; sockets and taps opened there stay bound to the namespace. `work` must not wait.
    pub fn enter<T: Send>(
        &self,
        action: &str,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> Result<T, Error> {
        let inside = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            work()
        };
        let done = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(64 << 10).spawn_scoped(scope, inside)?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        done.map_err(|source| Error::Device { action: action.to_owned(), netns: self.path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_namespace_is_known() {
        let netns = Netns::open(Path::new("/proc/self/ns/net")).unwrap();
        assert!(netns.is_our_own());
        let other = NamespaceId { inode: netns.id.inode + 1, ..netns.id };
        assert!(Netns::reopen(netns.path(), netns.id).unwrap().is_some());
        assert!(Netns::reopen(netns.path(), other).unwrap().is_none());
    }

    #[test]
    fn a_path_that_is_no_namespace_is_refused_and_counts_as_gone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let missing = Path::new("/run/netns/there-is-no-such-namespace");
        for path in [file.path(), missing] {
            assert!(matches!(Netns::open(path), Err(Error::Netns { .. })));
            assert!(Netns::reopen(path, NamespaceId { device: 1, inode: 1 }).unwrap().is_none());
        }
    }
}
