//! Where built images are kept, who may use them and which have to go.
//!
//! Every user of an image holds a shared lock on it. What is removed, because the cache is too large, because a builder
//! died, or because its container has gone, is locked exclusively first, so nothing in use is ever taken away. The directory
//! is root's alone: who can open a file of it can lock it. No lock is waited for without a limit, or on a thread that
//! others need.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jail::remove_dead_workplaces;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::time::{Instant, sleep};

use super::tree::Tree;
use super::{Error, Layer};

/// Where a node keeps images that were built from other snapshotters' mounts.
pub const IMAGES: &str = "/var/lib/coffer/erofs";
/// How large a cache may grow before images that nobody uses go, those first that were not used for longest.
pub const DEFAULT_CACHE_BYTES: u64 = 16 << 30;

/// How long an image is waited for that somebody is about to remove: a moment.
const IN_USE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// How long another builder of the same image is waited for.
const BUILDING: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 15 * 60 });
/// Between two tries.
const STEP: Duration = Duration::from_millis(20);
/// A holder's name is cut here when it is shown: the file could hold anything.
const LONGEST: u64 = 256;
/// What the names of images begin with that are one container's.
const OWN: &str = "own-";

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

    /// One container's own image has a name that no other has, ever: what a dead shim has left is nobody's root file
    /// system, and the end of one container takes nothing from another.
    pub(super) fn place(&self, tree: &Tree) -> Result<Place, Error> {
        Ok(match tree.key()? {
            Some(key) => Place::Shared(self.dir.join(format!("{key}.erofs"))),
            None => Place::Own(self.dir.join(format!("{OWN}{}.erofs", random_name()?))),
        })
    }

    /// Makes the directory, and takes from others what an older version or somebody's mask has given them.
    fn make(&self) -> Result<(), Error> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).and_then(|()| {
            let meta = std::fs::metadata(&self.dir)?;
            match meta.permissions().mode() & 0o077 {
                0 => Ok(()),
                _ => std::fs::set_permissions(&self.dir, Permissions::from_mode(0o700)),
            }
        });
        made.map_err(Error::file("make", &self.dir))
    }

    /// Opens an image for use; `None` when there is none.
    pub(super) async fn open(&self, place: &Place) -> Result<Option<Image>, Error> {
        let path = place.path();
        let lock = match in_use(path, || File::open(path).map_err(Error::file("open image", path))).await {
            Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        // What was used last is kept longest; a read-only directory only makes that worse.
        let _ = lock.set_modified(SystemTime::now());
        Ok(Some(Image { layer: Layer::of(path)?, _lock: lock }))
    }

    /// The exclusive right to build an image; waits for who has it. Its file goes when it is dropped.
    pub(super) async fn build_lock(&self, place: &Place) -> Result<BuildLock, Error> {
        self.make()?;
        let path = place.path().with_extension("lock");
        let start = Instant::now();
        loop {
            let mut options = OpenOptions::new();
            let opened = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
            let file = opened.map_err(|e| full(&self.dir, &path, e))?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(mut lock) if is_linked(&lock) => {
                    // For people; that it cannot be written says nothing of the lock.
                    let _ = lock.set_len(0).and_then(|()| write!(lock, "process {}", std::process::id()));
                    return Ok(BuildLock { path, _lock: lock });
                }
                Ok(_) => continue,
                Err((_, Errno::EWOULDBLOCK)) if start.elapsed() < BUILDING => sleep(STEP).await,
                Err((file, Errno::EWOULDBLOCK)) => return Err(locked(&path, Some(file), BUILDING)),
                Err((_, e)) => return Err(Error::file("lock", &path)(e.into())),
            }
        }
    }

    /// Removes what dead builders and shims left, then images that nobody uses until the rest fits; returns what it removed.
    /// Best effort: a cache that is too large is no reason to refuse a container. It waits for the disk.
    pub fn clean(&self) -> Vec<PathBuf> {
        let (mut images, mut total, mut removed) = (Vec::new(), 0, Vec::new());
        let mut remove = |path: &Path| {
            let is_removed = remove_unused(path).is_ok();
            removed.extend(is_removed.then(|| path.to_owned()));
            is_removed
        };
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let (path, Ok(meta)) = (entry.path(), entry.metadata()) else { continue };
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("tmp") => {
                    remove(&path);
                }
                // In use, or about to be: its builder has it. It counts, and cannot go.
                Some("erofs") if entry.file_name().to_string_lossy().starts_with(OWN) => {
                    let stays = is_building(&path) || !remove(&path);
                    total += if stays { meta.len() } else { 0 };
                }
                Some("erofs") => {
                    total += meta.len();
                    images.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len(), path));
                }
                _ => {}
            }
        }
        remove_dead_workplaces(&self.dir);
        images.sort();
        for (_, bytes, path) in images {
            if total <= self.bytes {
                break;
            }
            if remove(&path) {
                total -= bytes;
            }
        }
        removed
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

/// Locks the image at `path`, as `open` opens it, so that nobody takes it away. Waits for whoever is about to, for a moment
/// and in nobody's way.
pub(super) async fn in_use(
    path: &Path,
    open: impl Fn() -> Result<File, Error>,
) -> Result<Flock<File>, Error> {
    let start = Instant::now();
    loop {
        match Flock::lock(open()?, FlockArg::LockSharedNonblock) {
            Ok(lock) if is_linked(&lock) => return Ok(lock),
            Ok(_) => continue,
            Err((_, Errno::EWOULDBLOCK)) if start.elapsed() < IN_USE => sleep(STEP).await,
            Err((_, Errno::EWOULDBLOCK)) => return Err(locked(path, None, IN_USE)),
            Err((_, e)) => return Err(Error::file("lock image", path)(e.into())),
        }
    }
}

/// 128 bits that nobody has had before, as hexadecimal digits.
fn random_name() -> Result<String, Error> {
    let source = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    File::open(source)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(Error::file("read", source))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether somebody has the right to build this image, and with it what is built.
fn is_building(image: &Path) -> bool {
    let Ok(file) = File::open(image.with_extension("lock")) else { return false };
    matches!(Flock::lock(file, FlockArg::LockSharedNonblock), Err((_, Errno::EWOULDBLOCK)))
}

fn locked(path: &Path, file: Option<File>, limit: Duration) -> Error {
    let mut name = Vec::new();
    if let Some(file) = file {
        let _ = file.take(LONGEST).read_to_end(&mut name);
    }
    let name: String = String::from_utf8_lossy(&name).chars().filter(|c| !c.is_control()).collect();
    let holder = if name.is_empty() { "another process".to_owned() } else { name };
    Error::Locked { path: path.to_owned(), holder, limit }
}

/// A lock on a file that has been removed meanwhile protects nothing.
pub(super) fn is_linked(file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    file.metadata().is_ok_and(|meta| meta.nlink() > 0)
}

fn remove_unused(path: &Path) -> io::Result<()> {
    let lock = Flock::lock(File::open(path)?, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| e)?;
    // Somebody else may have removed it before it was locked, and another one may be there by now.
    if is_linked(&lock) { std::fs::remove_file(path) } else { Err(io::ErrorKind::NotFound.into()) }
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

    #[tokio::test]
    async fn the_oldest_unused_image_goes_first_and_a_used_one_never() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), 90_000);
        let used = put(dir.path(), "a.erofs", 30_000, 300);
        let old = put(dir.path(), "b.erofs", 30_000, 200);
        let new = put(dir.path(), "c.erofs", 30_000, 100);
        let own = Place::Own(put(dir.path(), "own-0.erofs", 30_000, 900));
        let _own = cache.open(&own).await.unwrap().unwrap();
        let own = own.path();
        let image = cache.open(&Place::Shared(used.clone())).await.unwrap().unwrap();
        // Opening makes it the youngest; make it the oldest again, so that only the lock protects it.
        File::options().write(true).open(&used).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        cache.clean();
        // One container's image counts, too.
        assert_eq!([&used, &old, &new].map(|path| path.exists()), [true, false, true]);
        drop(image);
        Cache::new(dir.path(), 60_000).clean();
        assert_eq!([&used, &new].map(|path| path.exists()), [false, true]);
        assert!(own.exists());
    }

    #[tokio::test]
    async fn one_containers_image_goes_with_who_used_it_and_its_name_is_never_another_ones() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), u64::MAX);
        let names: std::collections::BTreeSet<_> = (0..100).map(|_| random_name().unwrap()).collect();
        assert_eq!(names.len(), 100);
        let left = put(dir.path(), "own-1.erofs", 30_000, 0);
        let used = Place::Own(put(dir.path(), "own-2.erofs", 30_000, 900));
        let image = cache.open(&used).await.unwrap().unwrap();
        // Built, and its builder has not opened it yet.
        let built = Place::Own(put(dir.path(), "own-3.erofs", 30_000, 0));
        let building = cache.build_lock(&built).await.unwrap();
        assert_eq!(cache.clean(), std::slice::from_ref(&left));
        assert_eq!([&left, used.path(), built.path()].map(Path::exists), [false, true, true]);
        drop((image, building));
        cache.clean();
        assert_eq!([used.path(), built.path()].map(Path::exists), [false, false]);
    }

    /// On one thread, as the shim's: while it waits, others go on.
    #[tokio::test]
    async fn no_lock_is_waited_for_without_a_limit_or_in_others_way() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), 0);
        let place = Place::Shared(put(dir.path(), "a.erofs", 30_000, 0));
        let stranger = Flock::lock(File::open(place.path()).unwrap(), FlockArg::LockExclusive).unwrap();
        let error = cache.open(&place).await.unwrap_err().to_string();
        assert!(error.contains("a.erofs") && error.contains("locked by another process for 1s"), "{error}");
        let waited = async {
            sleep(Duration::from_millis(200)).await;
            drop(stranger);
        };
        let (image, ()) = tokio::join!(cache.open(&place), waited);
        image.unwrap().unwrap();
        let _lock = cache.build_lock(&place).await.unwrap();
        let error = cache.build_lock(&place).await.unwrap_err().to_string();
        assert!(error.contains(&format!("locked by process {} for 1s", std::process::id())), "{error}");
    }

    #[tokio::test]
    async fn the_directory_is_roots_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let made = dir.path().join("lib/erofs");
        let place = Place::Shared(made.join("a.erofs"));
        let lock = Cache::new(&made, 0).build_lock(&place).await.unwrap();
        assert_eq!((mode(&made), mode(&made.join("a.lock"))), (0o700, 0o600));
        drop(lock);
        // As an older version has left it.
        std::fs::set_permissions(&made, Permissions::from_mode(0o755)).unwrap();
        Cache::new(&made, 0).build_lock(&place).await.unwrap();
        assert_eq!(mode(&made), 0o700);
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

    #[tokio::test]
    async fn opening_what_is_not_there_or_no_image() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), 0);
        let place = Place::Shared(dir.path().join("a.erofs"));
        assert!(cache.open(&place).await.unwrap().is_none());
        std::fs::write(place.path(), "truncated").unwrap();
        assert!(matches!(cache.open(&place).await, Err(Error::Untrusted { .. })));
    }

    #[tokio::test]
    async fn a_build_lock_is_exclusive_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("new"), 0);
        let place = Place::Shared(dir.path().join("new/a.erofs"));
        let lock = cache.build_lock(&place).await.unwrap();
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
