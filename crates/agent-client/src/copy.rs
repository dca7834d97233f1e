//! Files of the host that are copied into the guest: what there is to copy.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use thiserror::Error;

use crate::below::Below;
use crate::error::AgentError;

/// Largest file that is copied, in bytes. One ConfigMap or Secret may hold 1 MiB.
pub const MAX_FILE: u64 = 4 << 20;

/// Most that is copied of one tree, in bytes. A projected volume joins several ConfigMaps and Secrets.
pub(crate) const MAX_TREE: u64 = 16 << 20;

/// Most entries of one tree.
pub const MAX_ENTRIES: usize = 4096;

/// Why a copy failed.
#[derive(Debug, Error)]
pub enum CopyError {
    /// The host's side could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// What could not be read.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is too large to be copied.
    #[error("{} is above the {MAX_FILE} bytes that are copied of one file; put it into the image", path.display())]
    FileTooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A tree is too large to be copied.
    #[error(
        "{} is above the {MAX_TREE} bytes or {MAX_ENTRIES} entries that are copied of one volume; put it into the image",
        path.display()
    )]
    TreeTooLarge {
        /// The tree's root.
        path: PathBuf,
    },
    /// A symlink leads out of its volume.
    #[error("{} points out of its volume, to {}", path.display(), target.display())]
    Escapes {
        /// The symlink.
        path: PathBuf,
        /// Where it points.
        target: PathBuf,
    },
    /// A device, a pipe, a socket.
    #[error("{} is neither file, directory nor symlink", path.display())]
    Special {
        /// The entry.
        path: PathBuf,
    },
    /// The guest did not take it.
    #[error("cannot copy {} to {guest} in the guest", path.display())]
    Guest {
        /// What was copied.
        path: PathBuf,
        /// Where to.
        guest: String,
        /// What the agent said.
        #[source]
        source: AgentError,
    },
}

impl CopyError {
    /// Whether something vanished while it was read: kubelet just replaced the volume's content, look again.
    pub(crate) fn is_vanished(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    /// With its time of change, in nanoseconds, and its inode: what tells one content from the next.
    File {
        size: u64,
        changed: i128,
        inode: u64,
    },
    Symlink {
        target: PathBuf,
    },
}

/// Something to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) host: PathBuf,
    pub(crate) guest: String,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Entry {
    fn new(host: &Path, guest: String, meta: &Metadata, kind: Kind) -> Self {
        Self { host: host.to_path_buf(), guest, kind, mode: meta.mode(), uid: meta.uid(), gid: meta.gid() }
    }
}

pub(crate) fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> CopyError {
    |source| CopyError::Read { path: path.to_path_buf(), source }
}

fn file_kind(path: &Path, meta: &Metadata) -> Result<Kind, CopyError> {
    if meta.size() > MAX_FILE {
        return Err(CopyError::FileTooLarge { path: path.to_path_buf() });
    }
    let changed = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    Ok(Kind::File { size: meta.size(), changed, inode: meta.ino() })
}

/// Whether one path of the guest is below the other.
pub(crate) fn is_below(guest: &str, directory: &str) -> bool {
    guest.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

/// What there is to copy, by what it is.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) directories: Vec<Entry>,
    pub(crate) files: Vec<Entry>,
    pub(crate) links: Vec<Entry>,
    /// Directories with something of another owner in them, the deepest first.
    pub(crate) mixed: Vec<Entry>,
}

impl Tree {
    /// One regular file.
    pub(crate) fn file(below: &Below, host: &Path, guest: &str) -> Result<Self, CopyError> {
        let meta = below.look(host).map_err(unreadable(host))?;
        if !meta.is_file() {
            return Err(CopyError::Special { path: host.to_path_buf() });
        }
        let file = Entry::new(host, guest.to_string(), &meta, file_kind(host, &meta)?);
        Ok(Self { files: vec![file], ..Self::default() })
    }

    /// A directory and all below it.
    pub(crate) fn directory(below: &Below, host: &Path, guest: &str) -> Result<Self, CopyError> {
        let mut walk = Walk { below, root: host, tree: Self::default(), bytes: 0 };
        walk.directory(host, guest)?;
        Ok(walk.tree)
    }

    /// All entries.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.directories.iter().chain(&self.files).chain(&self.links)
    }
}

struct Walk<'a> {
    below: &'a Below,
    root: &'a Path,
    tree: Tree,
    bytes: u64,
}

impl Walk<'_> {
    fn directory(&mut self, host: &Path, guest: &str) -> Result<(), CopyError> {
        let meta = self.below.look(host).map_err(unreadable(host))?;
        if !meta.is_dir() {
            return Err(CopyError::Special { path: host.to_path_buf() });
        }
        let own = Entry::new(host, guest.to_string(), &meta, Kind::Directory);
        self.tree.directories.push(own.clone());
        self.check_size()?;
        let mut children = self.below.list(host).map_err(unreadable(host))?;
        children.sort();
        for child in &children {
            let name = child.file_name().unwrap_or_default().to_string_lossy();
            self.entry(child, &format!("{guest}/{name}"))?;
        }
        let differs = |entry: &Entry| (entry.uid, entry.gid) != (own.uid, own.gid);
        if self.tree.entries().filter(|entry| is_below(&entry.guest, guest)).any(differs) {
            self.tree.mixed.push(own);
        }
        Ok(())
    }

    fn entry(&mut self, host: &Path, guest: &str) -> Result<(), CopyError> {
        let meta = self.below.look(host).map_err(unreadable(host))?;
        if meta.is_dir() {
            return self.directory(host, guest);
        }
        let entry = |kind| Entry::new(host, guest.to_string(), &meta, kind);
        if meta.is_symlink() {
            let target = self.below.read_link(host).map_err(unreadable(host))?;
            if !stays_inside(self.root, host, &target) {
                return Err(CopyError::Escapes { path: host.to_path_buf(), target });
            }
            self.tree.links.push(entry(Kind::Symlink { target }));
        } else if meta.is_file() {
            self.bytes += meta.size();
            self.tree.files.push(entry(file_kind(host, &meta)?));
        } else {
            return Err(CopyError::Special { path: host.to_path_buf() });
        }
        self.check_size()
    }

    fn check_size(&self) -> Result<(), CopyError> {
        if self.bytes > MAX_TREE || self.tree.entries().count() > MAX_ENTRIES {
            return Err(CopyError::TreeTooLarge { path: self.root.to_path_buf() });
        }
        Ok(())
    }
}

/// Whether a symlink's target, taken as text, stays below `root`.
fn stays_inside(root: &Path, link: &Path, target: &Path) -> bool {
    let Some(Ok(parent)) = link.parent().map(|parent| parent.strip_prefix(root)) else { return false };
    let mut depth = parent.components().count();
    for part in target.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    fn names(entries: &[Entry]) -> Vec<&str> {
        entries.iter().map(|entry| entry.guest.as_str()).collect()
    }

    fn tree(root: &Path) -> Result<Tree, CopyError> {
        Tree::directory(&Below::open(root).unwrap(), root, "/g")
    }

    #[test]
    fn a_tree_is_told_by_what_its_entries_are() {
        let dir = TempDir::new().unwrap();
        let root = dir.path();
        fs::create_dir(root.join("..2026_11_24")).unwrap();
        fs::write(root.join("..2026_11_24/key"), "value").unwrap();
        symlink("..2026_11_24", root.join("..data")).unwrap();
        symlink("..data/key", root.join("key")).unwrap();
        let tree = tree(root).unwrap();
        assert_eq!(names(&tree.directories), ["/g", "/g/..2026_11_24"]);
        assert_eq!(names(&tree.files), ["/g/..2026_11_24/key"]);
        assert_eq!(names(&tree.links), ["/g/..data", "/g/key"]);
        assert_eq!(tree.links[0].kind, Kind::Symlink { target: PathBuf::from("..2026_11_24") });
        assert!(tree.mixed.is_empty());
    }

    #[test]
    fn symlinks_stay_in_their_volume() {
        let inside = |target: &str| stays_inside(Path::new("/v"), Path::new("/v/a/link"), Path::new(target));
        assert!(inside("b") && inside("../b") && inside("./b/../c"));
        for out in ["/etc/shadow", "../../etc", "../b/../../etc", "b/../../../v/x"] {
            assert!(!inside(out), "{out}");
        }
        let dir = TempDir::new().unwrap();
        symlink("../secret", dir.path().join("link")).unwrap();
        assert!(matches!(tree(dir.path()), Err(CopyError::Escapes { .. })));
    }

    #[test]
    fn large_files_and_special_ones_are_refused() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("large");
        let single = |path: &Path| Tree::file(&Below::open(dir.path()).unwrap(), path, "/g");
        File::create(&path).unwrap().set_len(MAX_FILE + 1).unwrap();
        assert!(matches!(single(&path), Err(CopyError::FileTooLarge { .. })));
        assert!(matches!(tree(dir.path()), Err(CopyError::FileTooLarge { .. })));
        assert!(matches!(single(dir.path()), Err(CopyError::Special { .. })));
        File::create(&path).unwrap().set_len(MAX_FILE).unwrap();
        assert!(single(&path).is_ok());
        assert!(single(&dir.path().join("missing")).unwrap_err().is_vanished());
    }

    #[test]
    fn a_large_tree_is_refused() {
        let dir = TempDir::new().unwrap();
        for n in 0..=MAX_TREE / MAX_FILE {
            File::create(dir.path().join(n.to_string())).unwrap().set_len(MAX_FILE).unwrap();
        }
        assert!(matches!(tree(dir.path()), Err(CopyError::TreeTooLarge { .. })));
    }

    /// A directory that becomes a link once it was looked at shows nothing of what the link names.
    #[test]
    fn a_link_in_a_directorys_place_is_no_directory() {
        let (dir, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        fs::write(other.path().join("secret"), "x").unwrap();
        symlink(other.path(), dir.path().join("volume")).unwrap();
        let below = Below::open(dir.path()).unwrap();
        let volume = dir.path().join("volume");
        assert!(matches!(Tree::directory(&below, &volume, "/g"), Err(CopyError::Special { .. })));
        assert!(Tree::file(&below, &volume.join("secret"), "/g").is_err());
    }
}
