//! Keeping a function awake, over the kernel's runtime power management.
//!
//! An idle function under vfio-pci sleeps in D3hot, where its BARs read all-ones. Going through D3cold again
//! and again has made GPUs unreachable until the host's restart (kata-containers issue 11708), so that is
//! forbidden as long as the guard lives.
//!
//! Files: `Documentation/ABI/testing/sysfs-devices-power` and `sysfs-bus-pci` of the Linux kernel.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::PciAddress;
use crate::wait::{Pace, poll};

/// What can go wrong with a function's power.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("GPU {gpu}: cannot use {path}")]
    File {
        /// The GPU.
        gpu: PciAddress,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It does not wake.
    #[error("GPU {gpu}: not awake after 5 s, its runtime status is {status:?}; see the kernel's log")]
    Asleep {
        /// The GPU.
        gpu: PciAddress,
        /// The kernel's word.
        status: String,
    },
}

const WAKE: Pace = Pace::millis(10, 5_000);

/// One setting that is changed, and what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Change {
    path: PathBuf,
    before: String,
    during: String,
}

/// What is needed to put the settings back without the shim that changed them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PowerRecord {
    gpu: PciAddress,
    changes: Vec<Change>,
}

impl PowerRecord {
    /// Whose.
    #[must_use]
    pub fn gpu(&self) -> PciAddress {
        self.gpu
    }

    /// Puts the settings back, in the reverse order; repeats do no harm, and a function that is gone has none.
    ///
    /// # Errors
    /// The first that could not be put back; the others are.
    pub fn release(&self) -> Result<(), Error> {
        let mut result = Ok(());
        for Change { path, before, .. } in self.changes.iter().rev() {
            let done = match std::fs::write(path, before) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => Err(self.file(path, source)),
                _ => Ok(()),
            };
            result = result.and(done);
        }
        result
    }

    fn file(&self, path: &Path, source: io::Error) -> Error {
        Error::File { gpu: self.gpu, path: path.to_owned(), source }
    }
}

/// Which settings will be changed.
#[derive(Debug)]
pub struct PowerPlan {
    record: PowerRecord,
    status: PathBuf,
}

impl PowerPlan {
    /// For the function whose sysfs folder is `device`. Changes nothing yet.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn new(gpu: PciAddress, device: &Path) -> Result<Self, Error> {
        let mut record = PowerRecord { gpu, changes: Vec::new() };
        for (name, during) in [("d3cold_allowed", "0"), ("power/control", "on")] {
            let path = device.join(name);
            let before = read(&path).map_err(|source| record.file(&path, source))?;
            // A kernel without power management has no such file and keeps everything awake.
            if let Some(before) = before.filter(|before| before != during) {
                record.changes.push(Change { path, before, during: during.to_owned() });
            }
        }
        Ok(Self { record, status: device.join("power/runtime_status") })
    }

    /// What to write down before [`Self::claim`].
    #[must_use]
    pub fn record(&self) -> &PowerRecord {
        &self.record
    }

    /// Wakes the function and waits for it.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Asleep`]; the settings are put back then.
    pub async fn claim(self) -> Result<Awake, Error> {
        let gpu = self.record.gpu;
        let awake = Awake { record: self.record };
        for Change { path, during, .. } in &awake.record.changes {
            std::fs::write(path, during).map_err(|source| awake.record.file(path, source))?;
        }
        let mut last = String::new();
        let look = || {
            let status = read(&self.status).map_err(|source| awake.record.file(&self.status, source))?;
            last = status.unwrap_or_else(|| "active".to_owned());
            Ok::<_, Error>(matches!(last.as_str(), "active" | "unsupported").then_some(()))
        };
        if poll(WAKE, look).await?.is_none() {
            return Err(Error::Asleep { gpu, status: last });
        }
        Ok(awake)
    }
}

/// `None` for a file that is not there.
fn read(path: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A function that stays awake as long as this lives. Dropping it puts the settings back.
#[derive(Debug)]
pub struct Awake {
    record: PowerRecord,
}

impl Awake {
    /// Puts the settings back.
    ///
    /// # Errors
    /// As [`PowerRecord::release`].
    pub fn release(mut self) -> Result<(), Error> {
        let result = self.record.release();
        self.record.changes.clear();
        result
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        // release() tells what goes wrong.
        let _ = self.record.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(status: &str) -> tempfile::TempDir {
        let device = tempfile::tempdir().unwrap();
        std::fs::create_dir(device.path().join("power")).unwrap();
        for (name, text) in
            [("d3cold_allowed", "1\n"), ("power/control", "auto\n"), ("power/runtime_status", status)]
        {
            std::fs::write(device.path().join(name), text).unwrap();
        }
        device
    }

    fn settings(device: &Path) -> [String; 2] {
        ["d3cold_allowed", "power/control"].map(|name| std::fs::read_to_string(device.join(name)).unwrap())
    }

    #[tokio::test]
    async fn settings_come_back() {
        let device = device("active\n");
        let gpu: PciAddress = "0000:41:00.0".parse().unwrap();
        let keep = async || PowerPlan::new(gpu, device.path()).unwrap().claim().await.unwrap();
        let awake = keep().await;
        assert_eq!(settings(device.path()), ["0", "on"]);
        awake.release().unwrap();
        assert_eq!(settings(device.path()), ["1", "auto"]);
        drop(keep().await);
        assert_eq!(settings(device.path()), ["1", "auto"]);
    }

    #[tokio::test]
    async fn the_record_alone_puts_them_back() {
        let device = device("active\n");
        let gpu: PciAddress = "0000:41:00.0".parse().unwrap();
        let plan = PowerPlan::new(gpu, device.path()).unwrap();
        let record = serde_json::to_string(plan.record()).unwrap();
        assert_eq!(settings(device.path()), ["1\n", "auto\n"], "planning changes nothing");
        // As when the shim is killed.
        std::mem::forget(plan.claim().await.unwrap());
        let record: PowerRecord = serde_json::from_str(&record).unwrap();
        for _ in 0..2 {
            record.release().unwrap();
            assert_eq!(settings(device.path()), ["1", "auto"]);
        }
        drop(device);
        record.release().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_wake_is_an_error_and_left_as_it_was() {
        let device = device("suspended\n");
        let gpu: PciAddress = "0000:41:00.0".parse().unwrap();
        let error = PowerPlan::new(gpu, device.path()).unwrap().claim().await.unwrap_err();
        assert!(matches!(&error, Error::Asleep { status, .. } if status == "suspended"), "{error}");
        assert_eq!(settings(device.path()), ["1", "auto"]);
    }

    #[tokio::test]
    async fn a_kernel_without_power_management_is_fine() {
        let device = tempfile::tempdir().unwrap();
        let gpu: PciAddress = "0000:41:00.0".parse().unwrap();
        let awake = PowerPlan::new(gpu, device.path()).unwrap().claim().await.unwrap();
        awake.release().unwrap();
    }
}
