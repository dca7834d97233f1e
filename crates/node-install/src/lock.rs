//! One installer at a time.
//!
//! What is locked is a file that only root can open: a lock on one that others can open is theirs to take, too.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::PathBuf;

use rustix::fs::OFlags;

use crate::error::{Error, Result};
use crate::root::{Last, Root};

/// Directories of every system, and Coffer's own, which this node may have or not.
const ABOVE: [(&str, u32); 3] = [("/var", 0o755), ("/var/lib", 0o755), ("/var/lib/coffer", 0o700)];
/// Root's alone, and there for the lock only.
const DIRECTORY: &str = "/var/lib/coffer/install";
const FILE: &str = "/var/lib/coffer/install/lock";
/// How often it is tried, because whoever had the lock takes away what was made for it meanwhile.
const TRIES: u32 = 100;
/// How much of a holder's name is shown, in bytes.
const LONGEST: u64 = 128;

/// The right to change this node's installations. When dropped it is given back, with all that was made for it.
#[derive(Debug)]
pub struct Lock {
    root: Root,
    /// Directories that the node had not, the outermost first.
    made: Vec<PathBuf>,
    _file: File,
}

impl Lock {
    /// Takes it.
    ///
    /// # Errors
    /// [`Error::Locked`] where somebody has it; [`Error::Change`] where its file cannot be made.
    pub fn take(root: &Root) -> Result<Self> {
        let failed = |source| Error::Change { action: "lock", path: FILE.to_owned(), source };
        let mut made = Vec::new();
        for left in (0..TRIES).rev() {
            let is_gone = |source: &io::Error| source.kind() == io::ErrorKind::NotFound;
            let mut file = match open(root, &mut made) {
                Err(Error::Change { source, .. }) if is_gone(&source) && left > 0 => continue,
                opened => opened?,
            };
            match file.try_lock() {
                Ok(()) if file.metadata().map_err(failed)?.nlink() == 0 => {}
                Ok(()) => {
                    // For people; that it cannot be written says nothing of the lock.
                    let _ = file.set_len(0).and_then(|()| write!(file, "{}", own_name()));
                    return Ok(Self { root: root.clone(), made, _file: file });
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::Locked { holder: name_in(file), path: FILE.to_owned() });
                }
            }
        }
        Err(failed(io::ErrorKind::ResourceBusy.into()))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let remove = |path: &str, remove: fn(PathBuf) -> io::Result<()>| {
            let _ = self.root.resolve(path, Last::Itself).map(remove);
        };
        // Whoever waits for the lock finds its file gone, and makes a new one.
        remove(FILE, fs::remove_file::<PathBuf>);
        remove(DIRECTORY, fs::remove_dir::<PathBuf>);
        // Where a pod has made something of its own meanwhile, the directory stays.
        for path in self.made.iter().rev() {
            let _ = fs::remove_dir(path);
        }
    }
}

/// Opens the lock's file, and makes what is missing on the way to it.
fn open(root: &Root, made: &mut Vec<PathBuf>) -> Result<File> {
    for (path, mode) in ABOVE {
        make(root, path, mode, made)?;
    }
    make(root, DIRECTORY, 0o700, &mut Vec::new())?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let opened = options.open(root.resolve(FILE, Last::Itself)?);
    opened.map_err(|source| Error::Change { action: "lock", path: FILE.to_owned(), source })
}

/// Makes a directory where there is none. The lock's own is no link, and is taken from all others.
fn make(root: &Root, path: &str, mode: u32, made: &mut Vec<PathBuf>) -> Result<()> {
    let failed = |source| Error::Change { action: "make", path: path.to_owned(), source };
    let is_own = path == DIRECTORY;
    let at = root.resolve(path, if is_own { Last::Itself } else { Last::Followed })?;
    match DirBuilder::new().mode(mode).create(&at) {
        Ok(()) if !made.contains(&at) => made.push(at),
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let metadata = fs::symlink_metadata(&at).map_err(failed)?;
            if !metadata.is_dir() {
                return Err(failed(io::ErrorKind::NotADirectory.into()));
            }
            if is_own && metadata.permissions().mode() & 0o077 != 0 {
                fs::set_permissions(&at, Permissions::from_mode(mode)).map_err(failed)?;
            }
        }
        Err(error) => return Err(failed(error)),
    }
    Ok(())
}

/// As people find this process. In a container its number means nothing to the node, and its host's name is the pod's.
fn own_name() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("process {} of {}", std::process::id(), host.trim())
}

fn name_in(file: File) -> String {
    let mut name = Vec::new();
    let _ = file.take(LONGEST).read_to_end(&mut name);
    let name: String = String::from_utf8_lossy(&name).chars().filter(|letter| !letter.is_control()).collect();
    if name.is_empty() { "another process".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(dir: &tempfile::TempDir) -> Vec<String> {
        Root::new(dir.path()).names("/")
    }

    #[test]
    fn two_installers_do_not_work_at_once_and_the_lock_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        let root = Root::new(dir.path());
        let first = Lock::take(&root).unwrap();
        let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(["var/lib/coffer/install", "var/lib/coffer/install/lock"].map(mode), [0o700, 0o600]);
        let error = Lock::take(&root).unwrap_err();
        assert!(matches!(error, Error::Locked { .. }));
        let name = format!("process {} of ", std::process::id());
        assert!(error.to_string().contains(&name), "{error}");
        drop(first);
        assert_eq!(names(&dir), ["etc"]);
        drop(Lock::take(&root).unwrap());
        // Coffer's own directory stays where it was before, or where something is in it now.
        fs::create_dir_all(dir.path().join("var/lib/coffer")).unwrap();
        drop(Lock::take(&root).unwrap());
        assert_eq!(root.names("/var/lib"), ["coffer"]);
        fs::remove_dir_all(dir.path().join("var")).unwrap();
        let lock = Lock::take(&root).unwrap();
        fs::create_dir(dir.path().join("var/lib/coffer/gpu")).unwrap();
        drop(lock);
        assert_eq!(root.names("/var/lib/coffer"), ["gpu"]);
    }

    /// Everybody may open /etc, and lock what he can open.
    #[test]
    fn what_others_can_open_is_nobodys_lock() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for path in ["etc", "var/lib/coffer"] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        let strangers = ["etc", "var", "var/lib", "var/lib/coffer"].map(|path| {
            let opened = File::open(dir.path().join(path)).unwrap();
            opened.lock().unwrap();
            opened
        });
        let lock = Lock::take(&root).unwrap();
        drop((lock, strangers));
        // As an installer that was killed has left it, and with everybody's rights.
        let directory = dir.path().join("var/lib/coffer/install");
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, Permissions::from_mode(0o777)).unwrap();
        fs::write(directory.join("lock"), "process 1 of a-node").unwrap();
        let lock = Lock::take(&root).unwrap();
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
        drop(lock);
        assert!(root.names("/var/lib/coffer").is_empty());
    }

    #[test]
    fn a_link_in_its_place_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let [directory, shadow, other] =
            ["var/lib/coffer/install", "shadow", "other"].map(|path| dir.path().join(path));
        fs::create_dir_all(&directory).unwrap();
        fs::write(&shadow, "root").unwrap();
        // By its whole path, as the kernel would find it.
        symlink(&shadow, directory.join("lock")).unwrap();
        assert!(matches!(Lock::take(&root), Err(Error::Change { .. })));
        assert_eq!(fs::read(&shadow).unwrap(), b"root");
        fs::remove_dir_all(&directory).unwrap();
        DirBuilder::new().mode(0o755).create(&other).unwrap();
        symlink("/other", &directory).unwrap();
        assert!(matches!(Lock::take(&root), Err(Error::Change { .. })));
        assert_eq!(fs::metadata(&other).unwrap().permissions().mode() & 0o777, 0o755);
        assert!(root.names("/other").is_empty());
    }

    /// Each takes away what it has made, which another one is about to use.
    #[test]
    fn installers_that_come_and_go_are_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let come_and_go = || {
            for _ in 0..500 {
                let taken = Lock::take(&root);
                assert!(matches!(taken, Ok(_) | Err(Error::Locked { .. })), "{taken:?}");
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(come_and_go);
            }
        });
        Lock::take(&root).unwrap();
    }
}
