//! The directory tree that an image is built from, and how to see it whole without writing to it.

use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::mount::{MsFlags, mount};
use sha2::{Digest, Sha256};

use super::{Error, Mount};

/// Read-only directories, stacked, the top one first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tree {
    directories: Vec<PathBuf>,
    /// All of them are committed snapshots: nobody changes them any more.
    committed: bool,
}

impl Tree {
    /// From an overlay (its upper directory, when it has content, becomes the top of the stack) or a bind.
    pub fn new(mounts: &[Mount]) -> Result<Self, Error> {
        let [mount] = mounts else {
            let fstype = mounts.last().map_or_else(|| "none".to_owned(), |mount| mount.fstype.clone());
            return Err(Error::Unsupported {
                fstype,
                reason: "only a single overlay or bind mount can be converted",
            });
        };
        let tree = match mount.fstype.as_str() {
            "overlay" => Self::of_overlay(mount)?,
            // An active snapshot of the native snapshotter, or `ctr run --rootfs`: it may change.
            "bind" => Self { directories: vec![PathBuf::from(&mount.source)], committed: false },
            other => {
                let reason = "only overlay and bind mounts can be converted";
                return Err(Error::Unsupported { fstype: other.to_owned(), reason });
            }
        };
        tree.directories.iter().try_for_each(|dir| check_directory(dir))?;
        Ok(tree)
    }

    fn of_overlay(overlay: &Mount) -> Result<Self, Error> {
        let unsupported = |reason| Error::Unsupported { fstype: overlay.fstype.clone(), reason };
        let lower = overlay.option("lowerdir").ok_or_else(|| unsupported("it has no lower directories"))?;
        if lower.contains('\\') || lower.contains("::") {
            return Err(unsupported("its lower directories are escaped or data-only"));
        }
        let mut directories: Vec<PathBuf> = lower.split(':').map(PathBuf::from).collect();
        let mut committed = directories.iter().all(|dir| is_snapshot(dir));
        if let Some(upper) = overlay.option("upperdir") {
            let mut entries = std::fs::read_dir(upper).map_err(Error::file("list", upper))?;
            if entries.next().is_some() {
                directories.insert(0, PathBuf::from(upper));
                committed = false;
            }
        }
        Ok(Self { directories, committed })
    }

    /// A name for the content: which directories, as they are now. `None` when they may change.
    pub fn key(&self) -> Result<Option<String>, Error> {
        if !self.committed {
            return Ok(None);
        }
        let mut hash = Sha256::new();
        hash.update(super::build::FORMAT);
        for dir in &self.directories {
            let meta = std::fs::metadata(dir).map_err(Error::file("look at", dir))?;
            let times = [meta.ctime(), meta.ctime_nsec()].map(i64::to_le_bytes);
            let numbers = [meta.dev(), meta.ino()].map(u64::to_le_bytes);
            hash.update(dir.as_os_str().as_encoded_bytes());
            hash.update([0]);
            times.iter().chain(&numbers).for_each(|number| hash.update(number));
        }
        let hex =
            |byte: &u8| [byte >> 4, byte & 15].map(|half| char::from(b"0123456789abcdef"[usize::from(half)]));
        Ok(Some(hash.finalize().iter().flat_map(hex).collect()))
    }

    /// Mounts the tree, read-only, in the calling thread's mount namespace. Changes the thread's working
    /// directory: overlayfs takes one page of options, and 30 long paths do not fit.
    pub(crate) fn mount_at(&self, target: &Path) -> nix::Result<()> {
        let none = None::<&str>;
        if let [single] = &self.directories[..] {
            mount(Some(single), target, none, MsFlags::MS_BIND, none)?;
            let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            return mount(none, target, none, read_only, none);
        }
        let base = self.common_parent();
        nix::unistd::chdir(&base)?;
        let relative = self.directories.iter().map(|dir| dir.strip_prefix(&base).unwrap_or(dir));
        let relative: Vec<String> = relative.map(|dir| dir.to_string_lossy().into_owned()).collect();
        let options = format!("lowerdir={}", relative.join(":"));
        mount(Some("overlay"), target, Some("overlay"), MsFlags::MS_RDONLY, Some(options.as_str()))
    }

    fn common_parent(&self) -> PathBuf {
        let mut parents = self.directories.iter().filter_map(|dir| dir.parent());
        let first = parents.next().unwrap_or_else(|| Path::new("/")).to_owned();
        parents.fold(first, |common, dir| {
            let same = common.components().zip(dir.components()).take_while(|(a, b)| a == b);
            same.map(|(part, _)| part).collect()
        })
    }
}

/// `<root>/snapshots/<number>/fs`: containerd gives committed snapshots a directory that it never reuses.
fn is_snapshot(dir: &Path) -> bool {
    let mut parts = dir.components().rev();
    let mut next = || parts.next().and_then(|part| part.as_os_str().to_str());
    next() == Some("fs") && next().is_some_and(|n| n.parse::<u64>().is_ok()) && next() == Some("snapshots")
}

fn check_directory(dir: &Path) -> Result<(), Error> {
    let untrusted = |reason| Error::Untrusted { path: dir.to_owned(), reason };
    if !dir.is_absolute() || dir.components().any(|part| part == Component::ParentDir) {
        return Err(untrusted("is not an absolute path without .."));
    }
    let meta = std::fs::metadata(dir).map_err(Error::file("look at", dir))?;
    if meta.is_dir() { Ok(()) } else { Err(untrusted("is no directory")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(options: &[String]) -> Mount {
        Mount { fstype: "overlay".into(), source: "overlay".into(), options: options.to_vec() }
    }

    fn snapshots() -> (tempfile::TempDir, Mount) {
        let root = tempfile::tempdir().unwrap();
        let dir = |n: u32| root.path().join(format!("snapshots/{n}/fs"));
        for n in [1, 2, 9] {
            std::fs::create_dir_all(dir(n)).unwrap();
        }
        let lower = format!("lowerdir={}:{}", dir(2).display(), dir(1).display());
        let mount = overlay(&[format!("upperdir={}", dir(9).display()), lower]);
        (root, mount)
    }

    #[test]
    fn the_key_follows_the_directories() {
        let (root, mount) = snapshots();
        let key = || Tree::new(std::slice::from_ref(&mount)).unwrap().key().unwrap();
        let first = key().unwrap();
        assert_eq!(first.len(), 64);
        assert_eq!(key().unwrap(), first);
        let dir = root.path().join("snapshots/1/fs");
        std::fs::remove_dir(&dir).unwrap();
        std::fs::create_dir(&dir).unwrap();
        assert_ne!(key().unwrap(), first);
    }

    #[test]
    fn content_in_the_upper_directory_is_on_top_and_not_cached() {
        let (root, mount) = snapshots();
        std::fs::write(root.path().join("snapshots/9/fs/new"), "").unwrap();
        let tree = Tree::new(&[mount]).unwrap();
        assert_eq!(tree.directories.len(), 3);
        assert!(tree.directories[0].ends_with("9/fs"));
        assert_eq!(tree.key().unwrap(), None);
    }

    #[test]
    fn a_bind_is_never_cached() {
        let dir = tempfile::tempdir().unwrap();
        let bind = |source: &str| Mount { fstype: "bind".into(), source: source.into(), options: Vec::new() };
        let tree = Tree::new(&[bind(dir.path().to_str().unwrap())]).unwrap();
        assert_eq!(tree.key().unwrap(), None);
        assert!(matches!(Tree::new(&[bind("relative")]), Err(Error::Untrusted { .. })));
        assert!(matches!(Tree::new(&[bind("/proc/../etc")]), Err(Error::Untrusted { .. })));
        assert!(matches!(Tree::new(&[bind("/dev/null")]), Err(Error::Untrusted { .. })));
    }

    #[test]
    fn what_cannot_be_converted_is_named() {
        let ext4 = Mount { fstype: "ext4".into(), source: "/dev/vdb".into(), options: Vec::new() };
        assert!(matches!(Tree::new(&[ext4]), Err(Error::Unsupported { fstype, .. }) if fstype == "ext4"));
        assert!(matches!(Tree::new(&[]), Err(Error::Unsupported { .. })));
        assert!(matches!(Tree::new(&[overlay(&[])]), Err(Error::Unsupported { .. })));
        assert!(matches!(Tree::new(&[overlay(&["lowerdir=/a\\:b".into()])]), Err(Error::Unsupported { .. })));
    }

    #[test]
    fn only_numbered_snapshots_count_as_committed() {
        assert!(is_snapshot(Path::new("/var/lib/x/snapshots/12/fs")));
        for dir in ["/srv/fs", "/snapshots/a/fs", "/snapshots/1/work", "/x/1/fs"] {
            assert!(!is_snapshot(Path::new(dir)), "{dir}");
        }
    }
}
