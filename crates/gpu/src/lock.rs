//! One lock per GPU, shared by all shims and the operator's command.
//!
//! The lock is flock(2) on a file of its own: it goes with the process that holds it, however it ends. The
//! file stays (removing it would let two processes hold locks on two files of one name) and says who has it. Who has
//! the GPU locks it exclusively; who only looks, shared. What the file says counts only while it is locked exclusively: a
//! holder that was killed leaves its name.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::time::{Instant, sleep};

use crate::PciAddress;

/// What can go wrong with a lock.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody has it.
    #[error("GPU {gpu} is in use by {holder}; wait for it to end, or end it")]
    Held {
        /// The GPU.
        gpu: PciAddress,
        /// As the holder calls itself.
        holder: String,
    },
    /// Somebody looks at it and does not end.
    #[error(
        "GPU {gpu} is being looked at by another process (`coffer gpu list`), for {limit:?} by now; end that process"
    )]
    Looked {
        /// The GPU.
        gpu: PciAddress,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The file is unusable.
    #[error("cannot lock GPU {gpu} by {path}")]
    File {
        /// The GPU.
        gpu: PciAddress,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A holder's name is cut here when it is shown: the file could hold anything.
const LONGEST: u64 = 256;

/// How long a claim waits for somebody who only looks: longer than a look at a GPU that boots or does not.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 40 });
/// Between two tries.
const STEP: Duration = Duration::from_millis(5);
/// How long a holder has to sign. Before that the file has the name of one before, who may have died.
const SIGNED: Duration = Duration::from_millis(50);
/// When a holder without a name is told of as such.
const UNSIGNED: Duration = Duration::from_millis(500);
/// Who does not sign in that time.
const NAMELESS: &str = "a process that has not given its name";

/// A GPU that is ours. Dropping it frees the GPU.
#[derive(Debug)]
pub struct GpuLock {
    gpu: PciAddress,
    file: Flock<File>,
}

impl GpuLock {
    /// Takes the lock for `holder`, a sandbox's id or what the operator's command calls itself. Waits for those who look
    /// ([`Look`]), and for nobody else.
    ///
    /// # Errors
    /// [`Error::Held`] with the holder's name; [`Error::Looked`] when a look does not end.
    pub async fn take(folder: &Path, gpu: PciAddress, holder: &str) -> Result<Self, Error> {
        let path = path(folder, gpu);
        let fail = |source| Error::File { gpu, path: path.clone(), source };
        let mut file = open(folder, &path).map_err(fail)?;
        let start = Instant::now();
        let mut held = None;
        loop {
            file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => {
                    let mut lock = Self { gpu, file };
                    lock.sign(holder).map_err(fail)?;
                    return Ok(lock);
                }
                Err((file, Errno::EWOULDBLOCK)) => file,
                Err((_, errno)) => return Err(fail(errno.into())),
            };
            file = match Flock::lock(file, FlockArg::LockSharedNonblock) {
                // Whoever has it only looks.
                Ok(shared) => {
                    held = None;
                    shared.unlock().map_err(|(_, errno)| fail(errno.into()))?
                }
                Err((mut file, Errno::EWOULDBLOCK)) => {
                    let since = held.get_or_insert_with(Instant::now).elapsed();
                    let name = read_holder(&mut file).map_err(fail)?;
                    match name {
                        Some(holder) if since >= SIGNED => return Err(Error::Held { gpu, holder }),
                        None if since >= UNSIGNED => {
                            return Err(Error::Held { gpu, holder: NAMELESS.to_owned() });
                        }
                        _ => file,
                    }
                }
                Err((_, errno)) => return Err(fail(errno.into())),
            };
            if start.elapsed() >= PATIENCE {
                return Err(Error::Looked { gpu, limit: PATIENCE });
            }
            sleep(STEP).await;
        }
    }

    /// Which GPU.
    #[must_use]
    pub fn gpu(&self) -> PciAddress {
        self.gpu
    }

    fn sign(&mut self, holder: &str) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(holder.as_bytes())
    }
}

impl Drop for GpuLock {
    fn drop(&mut self) {
        // Nobody has it: nobody's name. The next holder overwrites it anyway.
        let _ = self.file.set_len(0);
    }
}

/// A GPU that nobody has and that is looked at. Claims wait until it is dropped.
#[derive(Debug)]
pub struct Look {
    gpu: PciAddress,
    _file: Flock<File>,
    _turn: Flock<File>,
}

impl Look {
    /// Which GPU.
    #[must_use]
    pub fn gpu(&self) -> PciAddress {
        self.gpu
    }

    /// Begins a look. Two look one after the other, since one GPU can be opened by one process only.
    ///
    /// # Errors
    /// [`Error::Held`] with the name of who has the GPU; [`Error::Looked`] when another look does not end.
    pub async fn begin(folder: &Path, gpu: PciAddress) -> Result<Self, Error> {
        let (path, turn) = (path(folder, gpu), folder.join(format!("{gpu}.look")));
        let fail = |source| Error::File { gpu, path: path.clone(), source };
        let mut file = open(folder, &turn).map_err(fail)?;
        let start = Instant::now();
        let turn = loop {
            file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(turn) => break turn,
                Err((file, Errno::EWOULDBLOCK)) if start.elapsed() < PATIENCE => file,
                Err((_, Errno::EWOULDBLOCK)) => return Err(Error::Looked { gpu, limit: PATIENCE }),
                Err((_, errno)) => return Err(fail(errno.into())),
            };
            sleep(STEP).await;
        };
        let file = open(folder, &path).map_err(fail)?;
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(file) => Ok(Self { gpu, _file: file, _turn: turn }),
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let name = read_holder(&mut file).map_err(fail)?;
                Err(Error::Held { gpu, holder: name.unwrap_or_else(|| NAMELESS.to_owned()) })
            }
            Err((_, errno)) => Err(fail(errno.into())),
        }
    }
}

#[cfg(test)]
impl GpuLock {
    /// On a file that nobody else has.
    pub(crate) fn for_test(gpu: PciAddress) -> std::sync::Arc<Self> {
        let file = Flock::lock(tempfile::tempfile().unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
        std::sync::Arc::new(Self { gpu, file })
    }
}

/// Opens a lock's file, which is root's alone, as its folder is: who can open it can lock it.
fn open(folder: &Path, path: &Path) -> io::Result<File> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    private(&File::open(folder)?, 0o700)?;
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    private(&file, 0o600)?;
    Ok(file)
}

/// Takes away what an older version, or somebody's mask, gave to others.
fn private(file: &File, mode: u32) -> io::Result<()> {
    if file.metadata()?.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    file.set_permissions(Permissions::from_mode(mode))
}

/// Who has the GPU; `None` when nobody has, or somebody only looks.
///
/// # Errors
/// [`Error::File`].
pub fn holder(folder: &Path, gpu: PciAddress) -> Result<Option<String>, Error> {
    let path = path(folder, gpu);
    let fail = |source| Error::File { gpu, path: path.clone(), source };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    // Shared: two who only look do not see each other.
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => Ok(None),
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let name = read_holder(&mut file).map_err(fail)?;
            Ok(Some(name.unwrap_or_else(|| NAMELESS.to_owned())))
        }
        Err((_, errno)) => Err(fail(errno.into())),
    }
}

fn path(folder: &Path, gpu: PciAddress) -> PathBuf {
    folder.join(format!("{gpu}.lock"))
}

/// `None` in the moment between taking the lock and signing it.
fn read_holder(file: &mut File) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(LONGEST).read_to_end(&mut bytes)?;
    let name = String::from_utf8_lossy(&bytes).chars().filter(|c| !c.is_control()).collect::<String>();
    Ok((!name.is_empty()).then_some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu() -> PciAddress {
        "0000:41:00.0".parse().unwrap()
    }

    #[tokio::test]
    async fn the_second_is_told_who_the_first_is() {
        let folder = tempfile::tempdir().unwrap();
        let other: PciAddress = "0000:42:00.0".parse().unwrap();
        assert_eq!(holder(folder.path(), gpu()).unwrap(), None);
        let lock = GpuLock::take(folder.path(), gpu(), "a-longer-name").await.unwrap();
        assert_eq!(holder(folder.path(), gpu()).unwrap().as_deref(), Some("a-longer-name"));
        let error = GpuLock::take(folder.path(), gpu(), "second").await.unwrap_err();
        assert!(matches!(&error, Error::Held { holder, .. } if holder == "a-longer-name"), "{error}");
        let error = Look::begin(folder.path(), gpu()).await.unwrap_err();
        assert!(matches!(&error, Error::Held { holder, .. } if holder == "a-longer-name"), "{error}");
        GpuLock::take(folder.path(), other, "second").await.unwrap();
        drop(lock);
        assert_eq!(holder(folder.path(), gpu()).unwrap(), None);
        let _lock = GpuLock::take(folder.path(), gpu(), "short").await.unwrap();
        assert_eq!(holder(folder.path(), gpu()).unwrap().as_deref(), Some("short"));
    }

    /// On a runtime with one thread, as the shim's: a claim that spun would never see the look end.
    #[tokio::test]
    async fn a_claim_waits_for_a_look_and_a_look_for_a_look() {
        let folder = tempfile::tempdir().unwrap();
        let look = Look::begin(folder.path(), gpu()).await.unwrap();
        assert_eq!(holder(folder.path(), gpu()).unwrap(), None, "a look is no holder");
        let ended = async {
            sleep(Duration::from_millis(300)).await;
            drop(look);
            Instant::now()
        };
        let (lock, ended) = tokio::join!(GpuLock::take(folder.path(), gpu(), "pod"), ended);
        assert!(ended.elapsed() < Duration::from_secs(1));
        drop(lock.unwrap());
        let look = Look::begin(folder.path(), gpu()).await.unwrap();
        let second = Look::begin(folder.path(), gpu());
        let ended = async {
            sleep(Duration::from_millis(100)).await;
            drop(look);
        };
        let (second, ()) = tokio::join!(second, ended);
        second.unwrap();
    }

    #[tokio::test]
    async fn a_look_that_does_not_end_is_not_waited_for_without_a_limit() {
        let folder = tempfile::tempdir().unwrap();
        let _look = Look::begin(folder.path(), gpu()).await.unwrap();
        let error = GpuLock::take(folder.path(), gpu(), "pod").await.unwrap_err();
        assert!(matches!(error, Error::Looked { .. }), "{error}");
        let error = Look::begin(folder.path(), gpu()).await.unwrap_err();
        assert!(matches!(error, Error::Looked { .. }), "{error}");
    }

    #[tokio::test]
    async fn the_name_of_a_dead_holder_keeps_nobody_out_and_is_not_told() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(path(folder.path(), gpu()), "killed long ago").unwrap();
        assert_eq!(holder(folder.path(), gpu()).unwrap(), None);
        let look = Look::begin(folder.path(), gpu()).await.unwrap();
        let ended = async {
            sleep(Duration::from_millis(200)).await;
            drop(look);
        };
        let (lock, ()) = tokio::join!(GpuLock::take(folder.path(), gpu(), "pod"), ended);
        drop(lock.unwrap());
        // A holder that has the lock and has not signed yet.
        std::fs::write(path(folder.path(), gpu()), "killed long ago").unwrap();
        let file = open(folder.path(), &path(folder.path(), gpu())).unwrap();
        let mut lock = GpuLock { gpu: gpu(), file: Flock::lock(file, FlockArg::LockExclusive).unwrap() };
        let signed = async {
            sleep(Duration::from_millis(15)).await;
            lock.sign("alive").unwrap();
        };
        let (error, ()) = tokio::join!(GpuLock::take(folder.path(), gpu(), "pod"), signed);
        let error = error.unwrap_err();
        assert!(matches!(&error, Error::Held { holder, .. } if holder == "alive"), "{error}");
    }

    #[tokio::test]
    async fn nobody_but_root_can_lock() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("lib/gpu");
        drop(GpuLock::take(&below, gpu(), "pod").await.unwrap());
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&below), mode(&path(&below, gpu()))), (0o700, 0o600));
        // As an older version has left them.
        std::fs::set_permissions(&below, Permissions::from_mode(0o755)).unwrap();
        std::fs::set_permissions(path(&below, gpu()), Permissions::from_mode(0o644)).unwrap();
        drop(Look::begin(&below, gpu()).await.unwrap());
        assert_eq!((mode(&below), mode(&path(&below, gpu()))), (0o700, 0o600));
    }

    #[tokio::test]
    async fn one_who_asks_for_the_holder_does_not_keep_anybody_out() {
        let folder = tempfile::tempdir().unwrap();
        drop(GpuLock::take(folder.path(), gpu(), "first").await.unwrap());
        let at = folder.path().to_owned();
        let looks = std::thread::spawn(move || (0..2_000).for_each(|_| drop(holder(&at, gpu()).unwrap())));
        for _ in 0..200 {
            drop(GpuLock::take(folder.path(), gpu(), "again").await.unwrap());
        }
        looks.join().unwrap();
    }

    #[tokio::test]
    async fn a_holders_name_is_shown_without_control_characters() {
        let folder = tempfile::tempdir().unwrap();
        let _lock = GpuLock::take(folder.path(), gpu(), "a\u{1b}[2Jb\n").await.unwrap();
        assert_eq!(holder(folder.path(), gpu()).unwrap().as_deref(), Some("a[2Jb"));
    }
}
