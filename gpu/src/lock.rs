//! One lock per GPU, shared by all shims and the operator's command.
//!
//! The lock is flock(2) on a file of its own: it goes with the process that holds it, however it ends. The
//! file stays (removing it would let two processes hold locks on two files of one name) and says who has it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

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
    /// The file is unusable.
    #[error("Cannot lock GPU {gpu} by {path:?}")]
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

/// A lock without a name is one of a moment: its holder is about to sign, or only looks who has it. Long enough
/// for such a process to get its turn on a busy host.
const PATIENCE: Duration = Duration::from_millis(250);
/// Who does not sign in that time.
const NAMELESS: &str = "a process that has not given its name";

/// A GPU that is ours. Dropping it frees the GPU.
#[derive(Debug)]
pub struct GpuLock {
    gpu: PciAddress,
    file: Flock<File>,
}

impl GpuLock {
    /// Takes the lock for `holder`, a sandbox's id or what the operator's command calls itself. Never waits.
    ///
    /// # Errors
    /// [`Error::Held`] with the holder's name.
    pub fn take(folder: &Path, gpu: PciAddress, holder: &str) -> Result<Self, Error> {
        let path = path(folder, gpu);
        let fail = |source| Error::File { gpu, path: path.clone(), source };
        std::fs::create_dir_all(folder).map_err(fail)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(fail)?;
        let mut file = file;
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => {
                    let mut lock = Self { gpu, file };
                    lock.sign(holder).map_err(fail)?;
                    return Ok(lock);
                }
                Err((file, Errno::EWOULDBLOCK)) => file,
                Err((_, errno)) => return Err(fail(errno.into())),
            };
            if let Some(holder) = read_holder(&mut file).map_err(fail)? {
                return Err(Error::Held { gpu, holder });
            }
            std::thread::yield_now();
        }
        Err(Error::Held { gpu, holder: NAMELESS.to_owned() })
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

/// Who has the GPU; `None` when nobody has.
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
    file.take(LONGEST).read_to_end(&mut bytes)?;
    let name = String::from_utf8_lossy(&bytes).chars().filter(|c| !c.is_control()).collect::<String>();
    Ok((!name.is_empty()).then_some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_the_first_is() {
        let folder = tempfile::tempdir().unwrap();
        let gpu: PciAddress = "0000:41:00.0".parse().unwrap();
        let other: PciAddress = "0000:42:00.0".parse().unwrap();
        assert_eq!(holder(folder.path(), gpu).unwrap(), None);
        let lock = GpuLock::take(folder.path(), gpu, "a-longer-name").unwrap();
        assert_eq!(holder(folder.path(), gpu).unwrap().as_deref(), Some("a-longer-name"));
        let error = GpuLock::take(folder.path(), gpu, "second").unwrap_err();
        assert!(matches!(&error, Error::Held { holder, .. } if holder == "a-longer-name"), "{error}");
        GpuLock::take(folder.path(), other, "second").unwrap();
        drop(lock);
        assert_eq!(holder(folder.path(), gpu).unwrap(), None);
        let _lock = GpuLock::take(folder.path(), gpu, "short").unwrap();
        assert_eq!(holder(folder.path(), gpu).unwrap().as_deref(), Some("short"));
    }

    #[test]
    fn one_who_looks_does_not_keep_anybody_out() {
        let folder = tempfile::tempdir().unwrap();
        let gpu: PciAddress = "0000:41:00.0".parse().unwrap();
        drop(GpuLock::take(folder.path(), gpu, "first").unwrap());
        let looks = || (0..2_000).for_each(|_| drop(holder(folder.path(), gpu).unwrap()));
        std::thread::scope(|scope| {
            scope.spawn(looks);
            for _ in 0..200 {
                drop(GpuLock::take(folder.path(), gpu, "again").unwrap());
            }
        });
    }

    #[test]
    fn a_holders_name_is_shown_without_control_characters() {
        let folder = tempfile::tempdir().unwrap();
        let gpu: PciAddress = "0000:41:00.0".parse().unwrap();
        let _lock = GpuLock::take(folder.path(), gpu, "a\u{1b}[2Jb\n").unwrap();
        assert_eq!(holder(folder.path(), gpu).unwrap().as_deref(), Some("a[2Jb"));
    }
}
