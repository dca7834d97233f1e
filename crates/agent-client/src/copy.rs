//! Files of the host that are copied into the guest: what there is to copy, and the calls that do it.
//!
//! kata-agent's CopyFile takes a directory, a symlink or a chunk of a file, by the type bits of the mode. Its ways that
//! shape this code: it gives a file's owner to the file's parent too; it writes `name.ext` by way of `name.tmp`; and
//! what is at the target is removed first.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use thiserror::Error;

use crate::client::Agent;
use crate::error::AgentError;
use crate::proto::agent::CopyFileRequest;

/// Largest file that is copied, in bytes. One ConfigMap or Secret may hold 1 MiB.
pub const MAX_FILE: u64 = 4 << 20;

/// Most that is copied of one tree, in bytes. A projected volume joins several ConfigMaps and Secrets.
pub const MAX_TREE: u64 = 16 << 20;

/// Most entries of one tree.
pub const MAX_ENTRIES: usize = 4096;

/// Bytes of a file per call.
const CHUNK: usize = 1 << 20;

/// Mode of parents that are not there yet: a directory, 0755.
const PARENT_MODE: u32 = 0o040_755;

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
    pub fn is_vanished(&self) -> bool {
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
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Entry {
    fn new(host: PathBuf, guest: String, meta: &Metadata, kind: Kind) -> Self {
        Self { host, guest, kind, mode: meta.mode(), uid: meta.uid(), gid: meta.gid() }
    }

    fn request(&self) -> CopyFileRequest {
        CopyFileRequest {
            path: self.guest.clone(),
            file_mode: self.mode,
            dir_mode: PARENT_MODE,
            uid: self.uid.cast_signed(),
            gid: self.gid.cast_signed(),
            ..Default::default()
        }
    }

    /// Copies this entry.
    pub(crate) async fn send(&self, agent: &Agent) -> Result<(), CopyError> {
        match &self.kind {
            Kind::Directory => self.call(agent, self.request()).await,
            Kind::Symlink { target } => {
                let data = target.as_os_str().as_bytes().to_vec();
                self.call(agent, CopyFileRequest { data, ..self.request() }).await
            }
            Kind::File { .. } => self.send_content(agent, &read(&self.host)?).await,
        }
    }

    async fn send_content(&self, agent: &Agent, content: &[u8]) -> Result<(), CopyError> {
        let mut offset = 0;
        loop {
            let end = content.len().min(offset + CHUNK);
            let request = CopyFileRequest {
                file_size: to_i64(content.len()),
                offset: to_i64(offset),
                data: content[offset..end].to_vec(),
                ..self.request()
            };
            self.call(agent, request).await?;
            offset = end;
            if offset == content.len() {
                return Ok(());
            }
        }
    }

    /// Puts an empty file where this entry was: CopyFile cannot delete, but it frees what it replaces.
    pub(crate) async fn blank(&self, agent: &Agent) -> Result<(), CopyError> {
        /// A regular file, 0400.
        const EMPTY: u32 = 0o100_400;
        self.call(agent, CopyFileRequest { file_mode: EMPTY, ..self.request() }).await
    }

    async fn call(&self, agent: &Agent, request: CopyFileRequest) -> Result<(), CopyError> {
        agent.copy_file(request).await.map(drop).map_err(|source| CopyError::Guest {
            path: self.host.clone(),
            guest: self.guest.clone(),
            source,
        })
    }
}

/// Sizes here are at most [`MAX_FILE`].
fn to_i64(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> CopyError {
    |source| CopyError::Read { path: path.to_path_buf(), source }
}

/// Reads a file that may have grown since it was looked at.
fn read(path: &Path) -> Result<Vec<u8>, CopyError> {
    let mut content = Vec::new();
    let file = File::open(path).map_err(unreadable(path))?;
    file.take(MAX_FILE + 1).read_to_end(&mut content).map_err(unreadable(path))?;
    if content.len() as u64 > MAX_FILE {
        return Err(CopyError::FileTooLarge { path: path.to_path_buf() });
    }
    Ok(content)
}

fn file_kind(path: &Path, meta: &Metadata) -> Result<Kind, CopyError> {
    if meta.size() > MAX_FILE {
        return Err(CopyError::FileTooLarge { path: path.to_path_buf() });
    }
    let changed = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    Ok(Kind::File { size: meta.size(), changed, inode: meta.ino() })
}

/// One regular file; symlinks are followed.
pub(crate) fn single(host: &Path, guest: &str) -> Result<Entry, CopyError> {
    let meta = fs::metadata(host).map_err(unreadable(host))?;
    if !meta.is_file() {
        return Err(CopyError::Special { path: host.to_path_buf() });
    }
    Ok(Entry::new(host.to_path_buf(), guest.to_string(), &meta, file_kind(host, &meta)?))
}

/// A directory and all below it, in the order of copying: what a symlink shows is there before the symlink.
pub(crate) fn tree(host: &Path, guest: &str) -> Result<Vec<Entry>, CopyError> {
    let mut walk = Walk { root: host, entries: Vec::new(), symlinks: Vec::new(), bytes: 0 };
    walk.directory(host, guest)?;
    walk.entries.append(&mut walk.symlinks);
    Ok(walk.entries)
}

struct Walk<'a> {
    root: &'a Path,
    entries: Vec<Entry>,
    symlinks: Vec<Entry>,
    bytes: u64,
}

impl Walk<'_> {
    fn directory(&mut self, host: &Path, guest: &str) -> Result<(), CopyError> {
        let meta = fs::symlink_metadata(host).map_err(unreadable(host))?;
        if !meta.is_dir() {
            return Err(CopyError::Special { path: host.to_path_buf() });
        }
        let own = Entry::new(host.to_path_buf(), guest.to_string(), &meta, Kind::Directory);
        let first = self.entries.len();
        self.push(own.clone())?;

        let mut children = Vec::new();
        for child in fs::read_dir(host).map_err(unreadable(host))? {
            children.push(child.map_err(unreadable(host))?.path());
        }
        // Files called `.tmp` last: an earlier `x.conf` is written by way of `x.tmp`.
        children.sort_by_cached_key(|path| (path.extension().is_some_and(|e| e == "tmp"), path.clone()));
        for child in &children {
            let name = child.file_name().unwrap_or_default().to_string_lossy();
            self.entry(child, &format!("{guest}/{name}"))?;
        }
        let differs = |entry: &Entry| (entry.uid, entry.gid) != (own.uid, own.gid);
        if self.entries[first..].iter().any(differs) {
            // The agent has given the directory to a child's owner.
            self.push(own)?;
        }
        Ok(())
    }

    fn entry(&mut self, host: &Path, guest: &str) -> Result<(), CopyError> {
        let meta = fs::symlink_metadata(host).map_err(unreadable(host))?;
        if meta.is_dir() {
            return self.directory(host, guest);
        }
        let entry = |kind| Entry::new(host.to_path_buf(), guest.to_string(), &meta, kind);
        if meta.is_symlink() {
            let target = fs::read_link(host).map_err(unreadable(host))?;
            if !stays_inside(self.root, host, &target) {
                return Err(CopyError::Escapes { path: host.to_path_buf(), target });
            }
            self.symlinks.push(entry(Kind::Symlink { target }));
            self.check_size()
        } else if meta.is_file() {
            self.bytes += meta.size();
            self.push(entry(file_kind(host, &meta)?))
        } else {
            Err(CopyError::Special { path: host.to_path_buf() })
        }
    }

    fn push(&mut self, entry: Entry) -> Result<(), CopyError> {
        self.entries.push(entry);
        self.check_size()
    }

    fn check_size(&self) -> Result<(), CopyError> {
        if self.bytes > MAX_TREE || self.entries.len() + self.symlinks.len() > MAX_ENTRIES {
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
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    fn names(entries: &[Entry]) -> Vec<&str> {
        entries.iter().map(|entry| entry.guest.as_str()).collect()
    }

    #[test]
    fn what_a_symlink_shows_comes_before_it() {
        let dir = TempDir::new().unwrap();
        let root = dir.path();
        fs::create_dir(root.join("..2026_11_24")).unwrap();
        fs::write(root.join("..2026_11_24/key"), "value").unwrap();
        symlink("..2026_11_24", root.join("..data")).unwrap();
        symlink("..data/key", root.join("key")).unwrap();
        let entries = tree(root, "/g").unwrap();
        assert_eq!(names(&entries), ["/g", "/g/..2026_11_24", "/g/..2026_11_24/key", "/g/..data", "/g/key"]);
        assert_eq!(entries[3].kind, Kind::Symlink { target: PathBuf::from("..2026_11_24") });
    }

    #[test]
    fn temporary_names_come_last() {
        let dir = TempDir::new().unwrap();
        for name in ["x.tmp", "x.zip", "a"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(names(&tree(dir.path(), "/g").unwrap()), ["/g", "/g/a", "/g/x.zip", "/g/x.tmp"]);
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
        assert!(matches!(tree(dir.path(), "/g"), Err(CopyError::Escapes { .. })));
    }

    #[test]
    fn large_files_and_special_ones_are_refused() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("large");
        File::create(&path).unwrap().set_len(MAX_FILE + 1).unwrap();
        assert!(matches!(single(&path, "/g"), Err(CopyError::FileTooLarge { .. })));
        assert!(matches!(tree(dir.path(), "/g"), Err(CopyError::FileTooLarge { .. })));
        assert!(matches!(single(dir.path(), "/g"), Err(CopyError::Special { .. })));
        File::create(&path).unwrap().set_len(MAX_FILE).unwrap();
        assert!(single(&path, "/g").is_ok());
    }

    #[test]
    fn a_large_tree_is_refused() {
        let dir = TempDir::new().unwrap();
        for n in 0..=MAX_TREE / MAX_FILE {
            File::create(dir.path().join(n.to_string())).unwrap().set_len(MAX_FILE).unwrap();
        }
        assert!(matches!(tree(dir.path(), "/g"), Err(CopyError::TreeTooLarge { .. })));
    }

    #[test]
    fn a_vanished_entry_is_worth_another_look() {
        assert!(single(Path::new("/nonexistent/file"), "/g").unwrap_err().is_vanished());
    }
}
