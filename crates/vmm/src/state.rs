//! What a sandbox has on the host, written down before it is taken: `/run/coffer/<namespace>/<sandbox>/`.
//!
//! The record is what is worked from when the shim is no longer there. It names every process by pid and start time, so
//! that nothing is done to a stranger that has the same pid by now.

mod reap;
mod record;
pub(crate) mod release;

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use host_claims::process::{Identity, Process};
use host_claims::rootfs::RootfsRecord;
use jail::UserId;
use slog::Logger;
use tokio::time::timeout;

pub use reap::{Orphan, orphans, release};
use record::Found;
pub use record::Record;
pub use release::{Claim, ReleaseError};

/// Where all sandboxes of a host have their directories.
pub const ROOT: &str = "/run/coffer";
const RECORD: &str = "state.json";
/// How the names of root file systems' records begin.
const ROOTFS: &str = "rootfs-";
/// A record is a few hundred bytes per interface; a larger file is not ours.
const MAX_RECORD: u64 = 1 << 20;
/// How long a shim that was killed may take to go before it counts as alive.
const OWNER_PATIENCE: Duration = Duration::from_secs(2);
/// How long somebody who gives a dead sandbox back may take before its name can be used again: a GPU's reset and scrub.
const REAPER_PATIENCE: Duration = Duration::from_secs(120);

/// A jailed program's part of a sandbox's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// QEMU's: what it reads and makes.
    Qemu,
    /// vhost-device-vsock's: its sockets.
    Vsock,
}

impl Room {
    const fn name(self) -> &'static str {
        match self {
            Self::Qemu => "vm",
            Self::Vsock => "vsock",
        }
    }
}

/// The state directory could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another shim that is alive has this sandbox.
    #[error("sandbox {sandbox} already exists: shim {pid} runs it")]
    Taken {
        /// The sandbox.
        sandbox: String,
        /// The other shim.
        pid: i32,
    },
    /// A file or directory could not be read or written.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The record is not one.
    #[error("{} is not a record of Coffer; remove its directory when no QEMU uses it", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// A newer Coffer wrote the record.
    #[error(
        "{} has format {format}, newer than this version knows; released is what it names but for: {}; run the newer \
         version's `coffer sweep`, or remove the directory when nothing uses these",
        .path.display(), .foreign.join(", ")
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
        /// What it names that is unknown.
        foreign: Vec<String>,
    },
    /// The process cannot be looked up.
    #[error("cannot look up a recorded process")]
    Process(#[from] host_claims::process::Error),
    /// Something is still taken.
    #[error(transparent)]
    Release(#[from] ReleaseError),
}

/// A sandbox's directory and its record.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    handle: File,
    record: Record,
}

impl StateDir {
    /// Where sandbox `id` of containerd's `namespace` has its directory. Both are identifiers without a slash.
    pub fn path_of(root: &Path, namespace: &str, id: &str) -> PathBuf {
        root.join(namespace).join(id)
    }

    /// Makes the directory and its first record. What a dead shim left under this name is released before.
    ///
    /// # Errors
    /// A living shim has the sandbox, or the directory cannot be written.
    pub async fn create(root: &Path, namespace: &str, id: &str, log: &Logger) -> Result<Self, StateError> {
        let path = Self::path_of(root, namespace, id);
        reap::wait_for_reaper(&path).await?;
        if let Some(owner) = living_owner(&path).await? {
            return Err(StateError::Taken { sandbox: id.to_owned(), pid: owner.pid });
        }
        release(&path, log).await.into_iter().next().map_or(Ok(()), Err)?;
        let failed =
            |source| StateError::Io { action: "make the state directory", path: path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed)?;
        let record = Record::of(own_identity()?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?);
        let handle = File::open(&path).map_err(failed)?;
        let dir = Self { path, handle, record };
        match dir.save() {
            Ok(()) => Ok(dir),
            Err(error) => {
                dir.remove();
                Err(error)
            }
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same directory under a path of this process that fits into a socket's address, however long the ids are.
    pub(crate) fn short_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.handle.as_raw_fd()))
    }

    /// A part of it that belongs to a jailed program's user, and is all that the program can write to.
    pub fn room(&self, room: Room) -> PathBuf {
        self.path.join(room.name())
    }

    /// The same under a short path, as [`Self::short_path`].
    pub(crate) fn short_room(&self, room: Room) -> PathBuf {
        self.short_path().join(room.name())
    }

    /// Makes [`Self::room`] for the program's user.
    ///
    /// # Errors
    /// It cannot be made, or given to the user.
    pub(crate) fn make_room(&self, room: Room, user: UserId) -> Result<(), StateError> {
        let path = self.room(room);
        let made = DirBuilder::new().mode(0o700).create(&path);
        let made = made.and_then(|()| chown(&path, Some(user.get()), Some(user.get())));
        made.map_err(|source| StateError::Io { action: "make a jailed program's directory", path, source })
    }

    /// Changes the record and writes it, whole or not at all.
    ///
    /// # Errors
    /// The record cannot be written; the old one stays on disk.
    pub fn update(&mut self, change: impl FnOnce(&mut Record)) -> Result<(), StateError> {
        change(&mut self.record);
        self.save()
    }

    fn save(&self) -> Result<(), StateError> {
        write(&self.path, &self.record)
    }

    /// Removes the directory; the claims must have been released. Images that are recorded still keep it, until they are
    /// forgotten.
    pub fn remove(mut self) {
        let none = Record::of(self.record.shim);
        if rootfs_records(&self.path).is_empty() || self.update(|record| *record = none).is_err() {
            remove_dir(&self.path);
        }
    }
}

fn own_identity() -> Result<Option<Identity>, StateError> {
    Ok(Identity::of(i32::try_from(std::process::id()).unwrap_or(i32::MAX))?)
}

/// Writes a sandbox's record, whole or not at all.
fn write(dir: &Path, record: &Record) -> Result<(), StateError> {
    write_text(dir, serde_json::to_vec(record))
}

fn write_text(dir: &Path, text: Result<Vec<u8>, serde_json::Error>) -> Result<(), StateError> {
    let path = dir.join(RECORD);
    let new = dir.join("state.json.new");
    let write = || -> io::Result<()> {
        let text = text?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&text)?;
        // No fsync: /run is memory, and a host that lost its power has no QEMU left either.
        std::fs::rename(&new, &path)
    };
    write().map_err(|source| {
        let _ = std::fs::remove_file(&new);
        StateError::Io { action: "write", path, source }
    })
}

/// Removes a sandbox's directory and, where it was the namespace's last, the namespace's.
fn remove_dir(path: &Path) {
    let _ = std::fs::remove_dir_all(path);
    if let Some(namespace) = path.parent().filter(|dir| dir.file_name() != Some(OsStr::new("coffer"))) {
        let _ = std::fs::remove_dir(namespace);
    }
}

fn read(path: &Path) -> Result<Option<Found>, StateError> {
    let path = path.join(RECORD);
    let failed = |source| StateError::Io { action: "read", path: path.clone(), source };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let text = io::read_to_string(io::Read::take(file, MAX_RECORD)).map_err(failed)?;
    let found = Found::parse(&text).map_err(|source| StateError::Malformed { path: path.clone(), source })?;
    Ok(Some(found))
}

/// The shim that owns the sandbox at `path`, where it is alive and not this process. One that was killed a moment ago
/// is waited for: its sockets close before it is gone, and that is when an engine calls `delete`.
///
/// # Errors
/// The record cannot be read.
pub(crate) async fn living_owner(path: &Path) -> Result<Option<Identity>, StateError> {
    let Some(Found { record, .. }) = read(path)? else { return Ok(None) };
    if u32::try_from(record.shim.pid).ok() == Some(std::process::id()) {
        return Ok(None);
    }
    let Some(shim) = Process::open(record.shim)? else { return Ok(None) };
    match timeout(OWNER_PATIENCE, shim.ended()).await {
        Ok(ended) => ended.map(|()| None).map_err(StateError::from),
        Err(_) => Ok(Some(shim.identity())),
    }
}

/// Records a root file system of `container` in the state directory `dir`, before it is built.
///
/// # Errors
/// The record cannot be written.
pub fn record_rootfs(dir: &Path, container: &str, record: &RootfsRecord) -> Result<(), StateError> {
    if record.own_image.is_none() {
        return Ok(()); // nothing that a dead shim would leave
    }
    let path = dir.join(format!("{ROOTFS}{container}.json"));
    let written =
        serde_json::to_vec(record).map_err(io::Error::from).and_then(|text| std::fs::write(&path, text));
    written.map_err(|source| StateError::Io { action: "write", path, source })
}

/// Forgets the root file system of `container`, which is released; and the sandbox, where that was the last of it.
pub fn forget_rootfs(dir: &Path, container: &str) {
    let _ = std::fs::remove_file(dir.join(format!("{ROOTFS}{container}.json")));
    let is_last = || rootfs_records(dir).is_empty();
    let names_none = |found: &Found| !found.record.names_claims() && found.foreign.is_empty();
    if read(dir).is_ok_and(|found| found.as_ref().is_some_and(names_none)) && is_last() {
        remove_dir(dir);
    }
}

/// All recorded root file systems, each with its file. One that cannot be read was being written when the shim died,
/// so nothing was built yet.
fn rootfs_records(dir: &Path) -> Vec<RootfsRecord> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(ROOTFS))
        .filter_map(|entry| serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> Logger {
        Logger::root(slog::Discard, slog::o!())
    }

    async fn create(root: &Path) -> StateDir {
        StateDir::create(root, "k8s.io", "pod", &log()).await.unwrap()
    }

    fn alive(root: &Path, start: u64) -> Record {
        let record = read(&StateDir::path_of(root, "k8s.io", "pod")).unwrap().unwrap().record;
        Record { shim: Identity { pid: 1, start }, ..record }
    }

    #[tokio::test]
    async fn a_directory_comes_and_goes_with_its_namespace() {
        let root = tempfile::tempdir().unwrap();
        let dir = create(root.path()).await;
        assert!(dir.path().join("state.json").exists());
        dir.remove();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_living_shims_sandbox_is_taken_and_a_dead_ones_is_released() {
        let root = tempfile::tempdir().unwrap();
        let mut dir = create(root.path()).await;
        let init = Identity::of(1).unwrap().unwrap();
        dir.update(|record| *record = alive(root.path(), init.start)).unwrap();
        let error = StateDir::create(root.path(), "k8s.io", "pod", &log()).await.unwrap_err();
        assert!(matches!(error, StateError::Taken { pid: 1, .. }), "{error}");
        dir.update(|record| *record = alive(root.path(), init.start + 1)).unwrap();
        create(root.path()).await.remove();
    }

    #[tokio::test]
    async fn release_works_from_the_record_and_may_be_repeated() {
        let root = tempfile::tempdir().unwrap();
        let mut dir = create(root.path()).await;
        let mut qemu = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let identity = Identity::of(i32::try_from(qemu.id()).unwrap()).unwrap();
        dir.update(|record| record.qemu = identity).unwrap();
        let image = root.path().join("own.erofs");
        std::fs::write(&image, "x").unwrap();
        let record = RootfsRecord { own_image: Some(image.clone()) };
        record_rootfs(dir.path(), "c1", &record).unwrap();
        let path = dir.path().to_owned();
        for _ in 0..2 {
            assert!(release(&path, &log()).await.is_empty());
        }
        assert!(!qemu.wait().unwrap().success());
        assert!(!image.exists() && !path.exists());
    }

    #[tokio::test]
    async fn a_file_that_is_no_record_is_named_and_kept() {
        let root = tempfile::tempdir().unwrap();
        let dir = create(root.path()).await;
        std::fs::write(dir.path().join("state.json"), "{").unwrap();
        let failures = release(dir.path(), &log()).await;
        assert!(failures[0].to_string().contains("state.json is not a record"), "{}", failures[0]);
        assert!(dir.path().exists());
    }

    #[tokio::test]
    async fn images_keep_the_directory_until_they_are_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let dir = create(root.path()).await;
        let path = dir.path().to_owned();
        let record = RootfsRecord { own_image: Some(root.path().join("own.erofs")) };
        for container in ["a", "b"] {
            record_rootfs(&path, container, &record).unwrap();
        }
        dir.remove();
        forget_rootfs(&path, "a");
        assert!(path.join("state.json").exists());
        forget_rootfs(&path, "b");
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn of_a_newer_record_is_released_what_is_known_and_the_rest_is_said_and_kept() {
        let root = tempfile::tempdir().unwrap();
        let dir = create(root.path()).await;
        let mut qemu = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let identity = Identity::of(i32::try_from(qemu.id()).unwrap()).unwrap();
        let newer = serde_json::json!({
            "format": 9, "shim": { "pid": 1, "start": 1 }, "qemu": identity, "jail": { "uid": 70_001 },
        });
        std::fs::write(dir.path().join("state.json"), newer.to_string()).unwrap();
        let failures = release(dir.path(), &log()).await;
        assert!(!qemu.wait().unwrap().success());
        let text = failures[0].to_string();
        assert!(text.contains("format 9") && text.contains("but for: jail;"), "{text}");
        let left: serde_json::Value =
            serde_json::from_slice(&std::fs::read(dir.path().join("state.json")).unwrap()).unwrap();
        assert_eq!((&left["qemu"], &left["jail"]), (&serde_json::Value::Null, &newer["jail"]));
    }
}
