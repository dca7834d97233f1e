//! Files that several processes use: each is locked by who uses it, and taken away only from nobody.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use jail::remove_dead_workplaces;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;

/// What is written beside a layer: a kilobyte, or some megabytes with the accounts of a university.
const MAX_NOTE: u64 = 160 << 20;
/// How often a lock is tried.
const STEP: Duration = Duration::from_millis(50);

/// A new file that goes when it is dropped, unless it was given its name.
#[derive(Debug)]
pub(crate) struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    /// Makes `<name>.<process>-<number>.tmp` in a directory.
    pub(crate) fn new(directory: &Path, name: &str) -> Result<Self, Error> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = directory.join(format!("{name}.{}-{number}.tmp", process::id()));
            let file = File::create(&path).map_err(Error::file("make", &path))?;
            // Locked, so that nobody takes it for what a dead process left. Who did that before it was locked removes it, and
            // another one is made.
            match file.try_lock() {
                Ok(()) if is_linked(&file) => return Ok(Self { path, file }),
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(source)) => return Err(Error::file("lock", &path)(source)),
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file its name, once all of it is on the disk.
    pub(crate) fn keep(self, path: &Path) -> Result<(), Error> {
        self.file.sync_all().map_err(Error::file("write", &self.path))?;
        fs::rename(&self.path, path).map_err(Error::file("rename", &self.path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes a directory that is root's alone, and takes from others what an older version has given them: who can open a file
/// can lock it.
pub(crate) fn make_private(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    if fs::metadata(dir)?.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

/// Waits for a shared lock; `None` when that took longer than the limit, or cannot be had.
pub(crate) fn lock_shared(file: &File, limit: Duration) -> Option<()> {
    let start = Instant::now();
    loop {
        match file.try_lock_shared() {
            Ok(()) => return Some(()),
            Err(TryLockError::WouldBlock) if start.elapsed() < limit => thread::park_timeout(STEP),
            Err(_) => return None,
        }
    }
}

/// Removes a file that nobody has locked.
pub(crate) fn remove_unused(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    file.try_lock().map_err(|error| match error {
        TryLockError::Error(error) => error,
        TryLockError::WouldBlock => io::ErrorKind::WouldBlock.into(),
    })?;
    // Somebody else may have removed it before it was locked, and another one may be there by now.
    if is_linked(&file) { fs::remove_file(path) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// Removes what dead processes left.
pub(crate) fn remove_dead(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "tmp") {
            let _ = remove_unused(&path);
        }
    }
    remove_dead_workplaces(directory);
}

/// The exclusive right to make something; its file goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Waits for who has it; `None` when that took longer than the limit.
    pub(crate) fn wait(path: &Path, limit: Duration) -> Result<Option<Self>, Error> {
        let start = Instant::now();
        loop {
            let file = File::create(path).map_err(Error::file("make", path))?;
            match file.try_lock() {
                // Whoever had it has removed it meanwhile: a lock on that file protects nothing.
                Ok(()) if is_linked(&file) => return Ok(Some(Self { path: path.to_owned(), _file: file })),
                Ok(()) => continue,
                Err(TryLockError::Error(error)) => return Err(Error::file("lock", path)(error)),
                Err(TryLockError::WouldBlock) => {}
            }
            if start.elapsed() >= limit {
                return Ok(None);
            }
            // Nobody unparks this thread; a sleep that ends early does no harm.
            thread::park_timeout(STEP);
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

pub(crate) fn is_linked(file: &File) -> bool {
    file.metadata().is_ok_and(|meta| meta.nlink() > 0)
}

/// Writes a note, so that readers see all of it or nothing.
pub(crate) fn write_note(path: &Path, note: &impl Serialize) -> Result<(), Error> {
    let json = serde_json::to_vec(note).map_err(|error| Error::file("write", path)(error.into()))?;
    write(path, &json)
}

/// Writes a small file, so that readers see all of it or nothing.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    let directory = path.parent().unwrap_or(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = Temporary::new(directory, &name)?;
    (&temporary.file).write_all(content).map_err(Error::file("write", temporary.path()))?;
    temporary.keep(path)
}

/// Reads a note; one that is not there and one that somebody spoiled are both none.
pub(crate) fn read_note<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let mut content = Vec::new();
    File::open(path).ok()?.take(MAX_NOTE).read_to_end(&mut content).ok()?;
    serde_json::from_slice(&content).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn a_lock_is_exclusive_bounded_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let lock = Lock::wait(&path, Duration::ZERO).unwrap().unwrap();
        assert!(Lock::wait(&path, Duration::from_millis(120)).unwrap().is_none());
        thread::scope(|scope| {
            let second = scope.spawn(|| Lock::wait(&path, Duration::from_secs(20)).unwrap().is_some());
            drop(lock);
            assert!(second.join().unwrap());
        });
        assert!(!path.exists());
    }

    #[test]
    fn a_shared_lock_is_bounded_and_the_directory_is_roots_alone() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("lib/layers");
        make_private(&cache).unwrap();
        let mode = || fs::metadata(&cache).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o700);
        fs::set_permissions(&cache, fs::Permissions::from_mode(0o755)).unwrap();
        make_private(&cache).unwrap();
        assert_eq!(mode(), 0o700);
        let path = cache.join("a");
        let stranger = File::create(&path).unwrap();
        stranger.lock().unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(lock_shared(&file, Duration::from_millis(120)), None);
        drop(stranger);
        assert_eq!(lock_shared(&file, Duration::ZERO), Some(()));
    }

    #[test]
    fn what_a_dead_process_left_goes_and_a_living_ones_stays() {
        let dir = tempfile::tempdir().unwrap();
        let living = Temporary::new(dir.path(), "a").unwrap();
        let dead = dir.path().join("a.1-1.tmp");
        fs::write(&dead, "x").unwrap();
        let [theirs, its] = [living.path(), &dead].map(|path| path.with_extension("tmp.d"));
        for directory in [&theirs, &its] {
            fs::create_dir_all(directory.join("work")).unwrap();
        }
        remove_dead(dir.path());
        assert_eq!([living.path().exists(), dead.exists()], [true, false]);
        assert_eq!([theirs.exists(), its.exists()], [true, false]);
        let path = living.path().to_owned();
        drop(living);
        assert!(!path.exists());
    }

    #[test]
    fn a_new_file_stays_while_others_remove_what_dead_processes_left() {
        let dir = tempfile::tempdir().unwrap();
        let ends = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !ends.load(Ordering::Relaxed) {
                    remove_dead(dir.path());
                }
            });
            let stays = (0..2000).all(|_| {
                let new = Temporary::new(dir.path(), "a");
                new.is_ok_and(|new| new.path().exists())
            });
            ends.store(true, Ordering::Relaxed);
            assert!(stays);
        });
    }

    #[test]
    fn a_spoiled_note_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("note");
        assert_eq!(read_note::<u32>(&path), None);
        write_note(&path, &7).unwrap();
        assert_eq!(read_note::<u32>(&path), Some(7));
        fs::write(&path, "7 8").unwrap();
        assert_eq!(read_note::<u32>(&path), None);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
