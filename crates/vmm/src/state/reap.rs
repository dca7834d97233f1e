//! Sandboxes whose shim is gone: found, made somebody's own, and given back.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use host_claims::process::{Process, end_recorded};
use slog::{Logger, info};
use tokio::time::timeout;

use super::record::{Found, Record};
use super::release::{Claim, Steps, step};
use super::{
    REAPER_PATIENCE, RECORD, StateError, living_owner, own_identity, read, remove_dir, rootfs_records, write,
    write_text,
};

/// How long a killed QEMU may take to go: the kernel gives back a large VM's memory, which is pinned for its GPUs, page by page.
const DEATH: Duration = Duration::from_secs(90);

/// A sandbox whose shim is gone, in the hands of this process. Others leave it alone for as long as this one lives.
#[derive(Debug)]
pub struct Orphan {
    path: PathBuf,
    /// Its lock says so to those who look at the same moment; the record says so to all others.
    _lock: File,
}

impl Orphan {
    /// Makes the sandbox at `path` this process's own. `None` when it is none, when its shim lives, or when somebody else has
    /// it.
    ///
    /// # Errors
    /// The record cannot be read or written.
    pub async fn take(path: &Path) -> Result<Option<Self>, StateError> {
        if living_owner(path).await?.is_some() {
            return Ok(None);
        }
        let failed = |source| StateError::Io { action: "lock", path: path.to_owned(), source };
        let lock = match File::open(path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // Somebody else may have been faster until the lock was taken.
        if living_owner(path).await?.is_some() {
            return Ok(None);
        }
        let Some(Found { record, foreign, .. }) = read(path)? else {
            // Its shim died before it took anything.
            remove_dir(path);
            return Ok(None);
        };
        // A newer record would lose what this version does not know; its lock has to do.
        if let Some(shim) = own_identity()?.filter(|_| foreign.is_empty()) {
            write(path, &Record { shim, reaping: true, ..record })?;
        }
        Ok(Some(Self { path: path.to_owned(), _lock: lock }))
    }

    /// The sandbox's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives back all that it had; returns what could not be. That stays recorded, so that the next one tries again.
    pub async fn release(self, log: &Logger) -> Vec<StateError> {
        release(&self.path, log).await
    }
}

/// The directories of sandboxes whose shim is gone and that nobody gives back yet, of all namespaces.
pub fn orphans(root: &Path) -> Vec<PathBuf> {
    let below = |path: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    };
    let sandboxes = below(root).into_iter().flat_map(|namespace| below(&namespace));
    sandboxes.filter(|path| path.join(RECORD).exists() && is_orphan(path)).collect()
}

/// A record that cannot be read is nobody's, too: who takes it says what is wrong with it.
fn is_orphan(path: &Path) -> bool {
    match read(path) {
        Ok(Some(Found { record, .. })) => {
            !is_own(&record) && Process::open(record.shim).is_ok_and(|shim| shim.is_none())
        }
        Ok(None) => false,
        Err(_) => true,
    }
}

fn is_own(record: &Record) -> bool {
    u32::try_from(record.shim.pid).ok() == Some(std::process::id())
}

/// Waits for somebody who gives the sandbox at `path` back, so that its name can be used again.
pub(super) async fn wait_for_reaper(path: &Path) -> Result<(), StateError> {
    let Some(Found { record, .. }) = read(path)? else { return Ok(()) };
    if record.reaping
        && !is_own(&record)
        && let Some(reaper) = Process::open(record.shim)?
    {
        let _ = timeout(REAPER_PATIENCE, reaper.ended()).await;
    }
    Ok(())
}

/// Ends and releases what the record at `path` names, then removes the directory. A sandbox without a record is
/// released already. What cannot be released stays recorded, so that the next call tries again.
pub async fn release(path: &Path, log: &Logger) -> Vec<StateError> {
    let mut found = match read(path) {
        Ok(Some(found)) => found,
        Ok(None) => {
            remove_dir(path);
            return Vec::new();
        }
        Err(error) => return vec![error],
    };
    let Record { qemu, vsock, net, cgroup, devices, .. } = &mut found.record;
    let steps = Steps {
        qemu: qemu.and_then(|qemu| step(end_recorded(qemu, DEATH))),
        vsock: vsock.as_ref().and_then(|vsock| step(vsock.release())),
        network: net.as_ref().and_then(|net| step(net.release())),
        devices: devices.as_mut().and_then(|devices| step(devices.release(log))),
        cgroup: cgroup.as_ref().and_then(|cgroup| step(cgroup.release())),
        images: rootfs_records(path).into_iter().map(|image| step(async move { image.release() })).collect(),
    };
    let failures = steps.make().await;
    let failed: Vec<Claim> = failures.iter().map(|failure| failure.claim).collect();
    let mut failures: Vec<StateError> = failures.into_iter().map(StateError::from).collect();
    if !found.foreign.is_empty() {
        let (format, foreign) = (found.record.format, found.foreign.clone());
        failures.push(StateError::Newer { path: path.join(RECORD), format, foreign });
    }
    if failures.is_empty() {
        remove_dir(path);
        info!(log, "nothing is left of a sandbox"; "directory" => path.display());
    } else if let Err(error) = write_text(path, found.without_released(&failed)) {
        // Whatever was given back may be another sandbox's when this is tried again.
        failures.push(error);
    }
    failures
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use host_claims::process::Identity;

    use super::*;

    fn log() -> Logger {
        Logger::root(slog::Discard, slog::o!())
    }

    /// A sandbox's directory with this owner.
    fn sandbox(root: &Path, name: &str, shim: Identity, reaping: bool) -> PathBuf {
        let path = root.join("k8s.io").join(name);
        std::fs::create_dir_all(&path).unwrap();
        write(&path, &Record { reaping, ..Record::of(shim) }).unwrap();
        path
    }

    #[tokio::test]
    async fn only_what_no_living_process_has_is_an_orphan_and_only_once() {
        let root = tempfile::tempdir().unwrap();
        let init = Identity::of(1).unwrap().unwrap();
        let dead = Identity { start: init.start + 1, ..init };
        sandbox(root.path(), "alive", init, false);
        sandbox(root.path(), "being-reaped", init, true);
        sandbox(root.path(), "own", own_identity().unwrap().unwrap(), false);
        std::fs::create_dir_all(root.path().join("k8s.io/being-made")).unwrap();
        std::fs::write(root.path().join("kvm.json"), "{}").unwrap();
        let gone = sandbox(root.path(), "gone", dead, false);
        assert_eq!(orphans(root.path()), from_ref(&gone));

        let orphan = Orphan::take(&gone).await.unwrap().unwrap();
        assert!(Orphan::take(&gone).await.unwrap().is_none(), "two have it");
        assert!(orphans(root.path()).is_empty());
        assert!(orphan.release(&log()).await.is_empty());
        assert!(!gone.exists());
        assert!(Orphan::take(&gone).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_an_orphan_that_says_so() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("k8s.io/broken");
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join(RECORD), "{").unwrap();
        assert_eq!(orphans(root.path()), from_ref(&path));
        let error = Orphan::take(&path).await.unwrap_err();
        assert!(error.to_string().contains("is not a record"), "{error}");
    }
}
