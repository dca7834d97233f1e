//! Where built images are kept, who may use them and which have to go.
//!
//! Every user of an image holds a shared lock on it. What is removed, because the cache is too large or
//! because a builder died, is locked exclusively first, so nothing in use is ever taken away.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::tree::Tree;
use super::{Error, Layer};

/// How large a cache may grow before images that nobody uses go, those first that were not used for longest.
pub const DEFAULT_CACHE_BYTES: u64 = 16 << 30;

/// A directory of images.
#[derive(Debug, Clone)]
pub struct Cache {
    dir: PathBuf,
    bytes: u64,
}

/// Where an image will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Under its key, for all who have the same root file system.
    Shared(PathBuf),
    /// For one container.
    Own(PathBuf),
}

impl Place {
    pub fn path(&self) -> &Path {
        match self {
            Self::Shared(path) | Self::Own(path) => path,
        }
    }

    pub fn own(&self) -> Option<PathBuf> {
        match self {
            Self::Shared(_) => None,
            Self::Own(path) => Some(path.clone()),
        }
    }
}

/// An image in use.
#[derive(Debug)]
pub(super) struct Image {
    pub layer: Layer,
    _lock: Flock<File>,
}

impl Cache {
    /// `dir` (`/var/lib/coffer/erofs`) is made when it is first needed; it is kept below `bytes` as far as
    /// images that are in use allow.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, bytes: u64) -> Self {
        Self { dir: dir.into(), bytes }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn place(&self, tree: &Tree, sandbox: &str, id: &str) -> Result<Place, Error> {
        Ok(match tree.key()? {
            Some(key) => Place::Shared(self.dir.join(format!("{key}.erofs"))),
            None => Place::Own(self.dir.join(format!("own-{sandbox}-{id}.erofs"))),
        })
    }

    /// Opens an image for use; `None` when there is none.
    pub(super) fn open(&self, place: &Place) -> Result<Option<Image>, Error> {
        let path = place.path();
        loop {
            let file = match File::open(path) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(Error::file("open image", path)(e)),
            };
            let lock = Flock::lock(file, FlockArg::LockShared);
            let lock = lock.map_err(|(_, e)| Error::file("lock image", path)(e.into()))?;
            if is_linked(&lock) {
                // What was used last is kept longest; a read-only directory only makes that worse.
                let _ = lock.set_modified(SystemTime::now());
                return Ok(Some(Image { layer: Layer::of(path)?, _lock: lock }));
            }
        }
    }

    /// The exclusive right to build an image; waits for who has it. Its file goes when it is dropped.
    pub(super) fn build_lock(&self, place: &Place) -> Result<BuildLock, Error> {
        std::fs::create_dir_all(&self.dir).map_err(Error::file("make", &self.dir))?;
        let path = place.path().with_extension("lock");
        loop {
            let file = File::create(&path).map_err(|e| full(&self.dir, &path, e))?;
            let lock = Flock::lock(file, FlockArg::LockExclusive);
            let lock = lock.map_err(|(_, e)| Error::file("lock", &path)(e.into()))?;
            if is_linked(&lock) {
                return Ok(BuildLock { path, _lock: lock });
            }
        }
    }

    /// Removes what dead builders left, then images that nobody uses until the rest fits.
    /// Best effort: a cache that is too large is no reason to refuse a container.
    pub(super) fn clean(&self) {
        let mut images = Vec::new();
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let (path, Ok(meta)) = (entry.path(), entry.metadata()) else { continue };
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("tmp") => {
                    let _ = remove_unused(&path);
                }
                Some("erofs") if !entry.file_name().to_string_lossy().starts_with("own-") => {
                    images.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len(), path));
                }
                _ => {}
            }
        }
        images.sort();
        let mut total: u64 = images.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in images {
            if total <= self.bytes {
                break;
            }
            if remove_unused(&path).is_ok() {
                total -= bytes;
            }
        }
    }
}

/// The right to build one image.
#[derive(Debug)]
pub(super) struct BuildLock {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Drop for BuildLock {
    fn drop(&mut self) {
        // Whoever waits for the lock finds it unlinked and makes a new one.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A lock on a file that has been removed meanwhile protects nothing.
fn is_linked(file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    file.metadata().is_ok_and(|meta| meta.nlink() > 0)
}

fn remove_unused(path: &Path) -> io::Result<()> {
    let lock = Flock::lock(File::open(path)?, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| e)?;
    std::fs::remove_file(path)?;
    drop(lock);
    Ok(())
}

/// Tells a full disk from other reasons.
pub(super) fn full(dir: &Path, path: &Path, error: io::Error) -> Error {
    let no_room = [Errno::ENOSPC, Errno::EDQUOT].iter().any(|&e| error.raw_os_error() == Some(e as i32));
    if no_room { Error::DiskFull { dir: dir.to_owned() } } else { Error::file("write", path)(error) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn put(dir: &Path, name: &str, bytes: u64, age: u64) -> PathBuf {
        let path = dir.join(name);
        super::super::layer::make(&path, 0);
        let file = File::options().write(true).open(&path).unwrap();
        assert!(file.metadata().unwrap().len() <= bytes);
        file.set_len(bytes).unwrap();
        let time = SystemTime::now() - Duration::from_secs(age);
        File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        path
    }

    #[test]
    fn the_oldest_unused_image_goes_first_and_a_used_one_never() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), 60_000);
        let used = put(dir.path(), "a.erofs", 30_000, 300);
        let old = put(dir.path(), "b.erofs", 30_000, 200);
        let new = put(dir.path(), "c.erofs", 30_000, 100);
        let own = put(dir.path(), "own-s-c.erofs", 30_000, 900);
        let image = cache.open(&Place::Shared(used.clone())).unwrap().unwrap();
        // Opening makes it the youngest; make it the oldest again, so that only the lock protects it.
        File::options().write(true).open(&used).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        cache.clean();
        assert_eq!([&used, &old, &new, &own].map(|path| path.exists()), [true, false, true, true]);
        drop(image);
        Cache::new(dir.path(), 30_000).clean();
        assert_eq!([&used, &new, &own].map(|path| path.exists()), [false, true, true]);
    }

    #[test]
    fn what_a_dead_builder_left_goes_and_a_living_ones_stays() {
        let dir = tempfile::tempdir().unwrap();
        let dead = put(dir.path(), "a.1.tmp", 20_000, 0);
        let living = put(dir.path(), "b.2.tmp", 20_000, 0);
        let _lock = Flock::lock(File::open(&living).unwrap(), FlockArg::LockExclusive).unwrap();
        Cache::new(dir.path(), 0).clean();
        assert_eq!([dead.exists(), living.exists()], [false, true]);
    }

    #[test]
    fn opening_what_is_not_there_or_no_image() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), 0);
        let place = Place::Shared(dir.path().join("a.erofs"));
        assert!(cache.open(&place).unwrap().is_none());
        std::fs::write(place.path(), "truncated").unwrap();
        assert!(matches!(cache.open(&place), Err(Error::Untrusted { .. })));
    }

    #[test]
    fn a_build_lock_is_exclusive_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("new"), 0);
        let place = Place::Shared(dir.path().join("new/a.erofs"));
        let lock = cache.build_lock(&place).unwrap();
        let second = File::open(dir.path().join("new/a.lock")).unwrap();
        assert!(Flock::lock(second, FlockArg::LockExclusiveNonblock).is_err());
        drop(lock);
        assert_eq!(std::fs::read_dir(cache.dir()).unwrap().count(), 0);
    }

    #[test]
    fn a_full_disk_is_called_so() {
        let error = |errno: Errno| full(Path::new("/c"), Path::new("/c/a"), errno.into());
        assert!(matches!(error(Errno::ENOSPC), Error::DiskFull { .. }));
        assert!(matches!(error(Errno::EDQUOT), Error::DiskFull { .. }));
        assert!(matches!(error(Errno::EIO), Error::File { .. }));
    }
}
