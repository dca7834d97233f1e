//! Notices when directories of the host change, with one inotify instance for a whole sandbox.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

use crate::sys::{Descriptor, register};

/// Time from the first event to the report: kubelet's update is a handful of steps in a row.
const SETTLE: Duration = Duration::from_millis(100);

/// Watches directories, not what is below them: kubelet's updates end in a rename in the volume's root.
#[derive(Debug)]
pub struct Watcher {
    inotify: AsyncFd<Descriptor>,
    watched: Mutex<HashMap<WatchDescriptor, Watched>>,
}

#[derive(Debug)]
struct Watched {
    path: PathBuf,
    /// Containers that mount the same volume share the kernel's watch.
    users: usize,
}

impl Watcher {
    /// Opens the inotify instance; must be called in a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        Ok(Self { inotify: register(inotify)?, watched: Mutex::default() })
    }

    /// Watches a directory; it is reported until it was removed as often as it was added.
    pub fn add(&self, path: &Path) -> io::Result<()> {
        let events = AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ONLYDIR;
        let descriptor = self.inotify.get_ref().0.add_watch(path, events)?;
        self.watched()
            .entry(descriptor)
            .or_insert_with(|| Watched { path: path.to_path_buf(), users: 0 })
            .users += 1;
        Ok(())
    }

    /// Watches a directory no longer; one that is not watched is ignored.
    pub fn remove(&self, path: &Path) {
        let mut watched = self.watched();
        let Some((descriptor, entry)) = watched.iter_mut().find(|(_, entry)| entry.path == path) else {
            return;
        };
        entry.users -= 1;
        if entry.users == 0 {
            let descriptor = *descriptor;
            watched.remove(&descriptor);
            // Fails when the directory is gone, and the kernel's watch with it.
            let _ = self.inotify.get_ref().0.rm_watch(descriptor);
        }
    }

    /// Waits until watched directories change, and for the change to settle; returns them.
    pub async fn changed(&self) -> io::Result<Vec<PathBuf>> {
        loop {
            let mut ready = self.inotify.readable().await?;
            sleep(SETTLE).await;
            let changed = self.drain()?;
            ready.clear_ready();
            if !changed.is_empty() {
                return Ok(changed);
            }
        }
    }

    /// Reads all events there are.
    fn drain(&self) -> io::Result<Vec<PathBuf>> {
        let mut changed: Vec<PathBuf> = Vec::new();
        loop {
            let events = match self.inotify.get_ref().0.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN) => break,
                Err(errno) => return Err(errno.into()),
            };
            for event in events {
                let watched = self.watched();
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    // What happened is lost: anything may have changed.
                    changed = watched.values().map(|entry| entry.path.clone()).collect();
                } else if let Some(entry) = watched.get(&event.wd)
                    && !event.mask.contains(AddWatchFlags::IN_IGNORED)
                    && !changed.contains(&entry.path)
                {
                    changed.push(entry.path.clone());
                }
            }
        }
        Ok(changed)
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<WatchDescriptor, Watched>> {
        // The map is whole at every step; a panic elsewhere cannot have broken it.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn kubelets_switch_is_one_report() {
        let dir = TempDir::new().unwrap();
        let watcher = Watcher::new().unwrap();
        watcher.add(dir.path()).unwrap();
        fs::create_dir(dir.path().join("..1")).unwrap();
        symlink("..1", dir.path().join("..data_tmp")).unwrap();
        fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
        assert_eq!(watcher.changed().await.unwrap(), [dir.path()]);
        let quiet = timeout(2 * SETTLE, watcher.changed()).await;
        assert!(quiet.is_err(), "nothing else happened");
    }

    #[tokio::test]
    async fn a_shared_volume_is_watched_until_its_last_user_left() {
        let dir = TempDir::new().unwrap();
        let watcher = Watcher::new().unwrap();
        watcher.add(dir.path()).unwrap();
        watcher.add(dir.path()).unwrap();
        watcher.remove(dir.path());
        fs::write(dir.path().join("a"), "").unwrap();
        assert_eq!(watcher.changed().await.unwrap(), [dir.path()]);

        watcher.remove(dir.path());
        fs::write(dir.path().join("b"), "").unwrap();
        assert!(timeout(2 * SETTLE, watcher.changed()).await.is_err());
    }

    #[tokio::test]
    async fn only_directories_are_watched() {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let watcher = Watcher::new().unwrap();
        assert!(watcher.add(&dir.path().join("file")).is_err());
        assert!(watcher.add(&dir.path().join("missing")).is_err());
    }
}
