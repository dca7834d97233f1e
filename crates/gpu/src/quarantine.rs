//! GPUs that did not come back: written down with the reason, and not used again until an operator has
//! looked.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use shared_types::one_line;

use crate::PciAddress;

/// What can go wrong with the records.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A record cannot be read; its GPU counts as quarantined.
    #[error(
        "cannot read quarantine record {path} of GPU {gpu}; it must not be used until the record is mended"
    )]
    Read {
        /// The GPU.
        gpu: PciAddress,
        /// The record.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A record cannot be written or removed.
    #[error("cannot change quarantine record {path} of GPU {gpu}")]
    Write {
        /// The GPU.
        gpu: PciAddress,
        /// The record.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Why a GPU is in quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Entry {
    /// The failure, with all its causes.
    pub reason: String,
    /// The sandbox that had it last.
    pub sandbox: String,
    /// Seconds since 1970.
    pub since: u64,
}

impl Entry {
    /// An entry of now.
    #[must_use]
    pub fn now(error: &dyn std::error::Error, sandbox: &str) -> Self {
        let reason = one_line(error);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { reason, sandbox: sandbox.to_owned(), since }
    }
}

/// The records, in a folder that survives the shim (and the host's restart, if the operator likes).
#[derive(Debug, Clone)]
pub struct Quarantine {
    folder: PathBuf,
}

impl Quarantine {
    /// In this folder.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    fn path(&self, gpu: PciAddress) -> PathBuf {
        self.folder.join(format!("{gpu}.quarantine.json"))
    }

    /// Why this GPU is in quarantine; `None` when it is not.
    ///
    /// # Errors
    /// [`Error::Read`]: fail closed.
    pub fn of(&self, gpu: PciAddress) -> Result<Option<Entry>, Error> {
        let path = self.path(gpu);
        let fail = |source| Error::Read { gpu, path: path.clone(), source };
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| fail(e.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(fail(error)),
        }
    }

    /// Puts a GPU into quarantine. An entry that is there stays: the first reason is the one to look into.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn put(&self, gpu: PciAddress, entry: &Entry) -> Result<(), Error> {
        let path = self.path(gpu);
        self.write(gpu, &path, entry).map_err(|source| Error::Write { gpu, path, source })
    }

    fn write(&self, gpu: PciAddress, path: &Path, entry: &Entry) -> io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let draft = self.folder.join(format!(".{gpu}.draft"));
        let mut file = File::create(&draft)?;
        file.write_all(&serde_json::to_vec_pretty(entry)?)?;
        file.sync_all()?;
        // Never half a record, and never over another: a link fails where a rename replaces.
        let linked = std::fs::hard_link(&draft, path);
        std::fs::remove_file(&draft)?;
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => File::open(&self.folder)?.sync_all(),
        }
    }

    /// Lets a GPU out, after an operator looked. Tells whether it was in.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn release(&self, gpu: PciAddress) -> Result<bool, Error> {
        let path = self.path(gpu);
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(Error::Write { gpu, path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_and_out_with_the_first_reason() {
        let folder = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::new(&folder.path().join("gpu"));
        let gpu: PciAddress = "0000:41:00.0".parse().unwrap();
        assert_eq!(quarantine.of(gpu).unwrap(), None);
        let cause = crate::Cause::Reset(io::Error::other("no answer"));
        let entry = Entry::now(&cause, "pod-1");
        assert!(entry.reason.ends_with("the host needs a restart: no answer"), "{}", entry.reason);
        quarantine.put(gpu, &entry).unwrap();
        quarantine.put(gpu, &Entry { reason: "later".into(), ..entry.clone() }).unwrap();
        assert_eq!(quarantine.of(gpu).unwrap(), Some(entry));
        assert_eq!(std::fs::read_dir(folder.path().join("gpu")).unwrap().count(), 1, "no draft is left");
        assert!(quarantine.release(gpu).unwrap());
        assert!(!quarantine.release(gpu).unwrap());
        assert_eq!(quarantine.of(gpu).unwrap(), None);
    }

    #[test]
    fn a_broken_record_keeps_the_gpu_in() {
        let folder = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::new(folder.path());
        let gpu: PciAddress = "0000:41:00.0".parse().unwrap();
        std::fs::write(quarantine.path(gpu), "{").unwrap();
        assert!(matches!(quarantine.of(gpu), Err(Error::Read { .. })));
    }
}
