//! Keeping a function awake, over the kernel's runtime power management.
//!
//! An idle function under vfio-pci sleeps in D3hot, where its BARs read all-ones. Going through D3cold again
//! and again has made GPUs unreachable until the host's restart (kata-containers issue 11708), so that is
//! forbidden as long as the guard lives.
//!
//! Files: `Documentation/ABI/testing/sysfs-devices-power` and `sysfs-bus-pci` of the Linux kernel.

use std::io;
use std::path::{Path, PathBuf};

use crate::PciAddress;
use crate::wait::{Pace, poll};

/// What can go wrong with a function's power.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("GPU {gpu}: cannot use {path:?}")]
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

/// One setting that was changed, and what it was.
#[derive(Debug)]
struct Changed {
    path: PathBuf,
    before: String,
}

/// A function that stays awake as long as this lives. Dropping it puts the settings back.
#[derive(Debug)]
pub struct Awake {
    gpu: PciAddress,
    changed: Vec<Changed>,
}

impl Awake {
    /// Wakes the function whose sysfs folder is `device`, and waits for it.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Asleep`]; the settings are put back then.
    pub async fn keep(gpu: PciAddress, device: &Path) -> Result<Self, Error> {
        let mut awake = Self { gpu, changed: Vec::new() };
        awake.set(device.join("d3cold_allowed"), "0")?;
        awake.set(device.join("power/control"), "on")?;
        let status = device.join("power/runtime_status");
        let mut last = String::new();
        let look = || {
            // A kernel without runtime power management has no such file and keeps everything awake.
            last = awake.read(&status)?.unwrap_or_else(|| "active".to_owned());
            Ok::<_, Error>(matches!(last.as_str(), "active" | "unsupported").then_some(()))
        };
        if poll(WAKE, look).await?.is_none() {
            return Err(Error::Asleep { gpu, status: last });
        }
        Ok(awake)
    }

    fn set(&mut self, path: PathBuf, value: &str) -> Result<(), Error> {
        let Some(before) = self.read(&path)? else { return Ok(()) };
        if before == value {
            return Ok(());
        }
        std::fs::write(&path, value).map_err(|source| self.file(&path, source))?;
        self.changed.push(Changed { path, before });
        Ok(())
    }

    fn read(&self, path: &Path) -> Result<Option<String>, Error> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.file(path, source)),
        }
    }

    fn file(&self, path: &Path, source: io::Error) -> Error {
        Error::File { gpu: self.gpu, path: path.to_owned(), source }
    }

    /// Puts the settings back, in the reverse order.
    ///
    /// # Errors
    /// The first that could not be put back; the others are.
    pub fn release(mut self) -> Result<(), Error> {
        self.restore()
    }

    fn restore(&mut self) -> Result<(), Error> {
        let mut result = Ok(());
        while let Some(Changed { path, before }) = self.changed.pop() {
            let done = std::fs::write(&path, before).map_err(|source| self.file(&path, source));
            result = result.and(done);
        }
        result
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        // The device may be gone by now; release() tells.
        let _ = self.restore();
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
        let awake = Awake::keep(gpu, device.path()).await.unwrap();
        assert_eq!(settings(device.path()), ["0", "on"]);
        awake.release().unwrap();
        assert_eq!(settings(device.path()), ["1", "auto"]);
        drop(Awake::keep(gpu, device.path()).await.unwrap());
        assert_eq!(settings(device.path()), ["1", "auto"]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_wake_is_an_error_and_left_as_it_was() {
        let device = device("suspended\n");
        let gpu: PciAddress = "0000:41:00.0".parse().unwrap();
        let error = Awake::keep(gpu, device.path()).await.unwrap_err();
        assert!(matches!(&error, Error::Asleep { status, .. } if status == "suspended"), "{error}");
        assert_eq!(settings(device.path()), ["1", "auto"]);
    }

    #[tokio::test]
    async fn a_kernel_without_power_management_is_fine() {
        let device = tempfile::tempdir().unwrap();
        let gpu: PciAddress = "0000:41:00.0".parse().unwrap();
        Awake::keep(gpu, device.path()).await.unwrap().release().unwrap();
    }
}
