//! What goes wrong on purpose: programs killed at a chosen moment, directories that are full.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::or_fail::OrFail;
use crate::process::{Process, processes};
use crate::wait::until;

/// The stages of a boot as the shim logs them (`phase=...`), in order.
pub const PHASES: [&str; 6] = ["planned", "claimed", "spawned", "qmp", "agent", "running"];

/// The programs that make up a running pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// containerd-shim-coffer-v2.
    Shim,
    /// QEMU.
    Qemu,
    /// The vsock device program of hosts without vhost.
    VsockDevice,
}

impl Victim {
    /// The running ones.
    pub fn processes(self) -> Vec<Process> {
        let is_it = |process: &Process| process.state != 'Z' && process.name.starts_with(self.name());
        processes().into_iter().filter(is_it).collect()
    }

    /// Kills every running one with SIGKILL; says how many there were.
    pub fn kill(self) -> usize {
        let all = self.processes();
        all.iter().for_each(Process::kill);
        all.len()
    }

    /// Waits until there is one.
    pub async fn started(self) -> Process {
        until(format!("a {}", self.name()), Duration::from_secs(30), async || {
            self.processes().into_iter().next()
        })
        .await
    }

    /// Waits until there is none.
    pub async fn gone(self) {
        until(format!("the end of every {}", self.name()), Duration::from_secs(20), async || {
            self.processes().is_empty().then_some(())
        })
        .await;
    }

    /// As /proc shows it: 15 characters at most.
    fn name(self) -> &'static str {
        match self {
            Self::Shim => "containerd-shim",
            Self::Qemu => "qemu-system-x86",
            Self::VsockDevice => "vhost-device-vs",
        }
    }
}

/// A directory on which no byte is free; as it was when dropped.
#[derive(Debug)]
pub struct FullDirectory {
    path: PathBuf,
}

impl FullDirectory {
    /// Mounts a small, filled file system on `path`.
    pub fn at(path: &Path) -> Self {
        fs::create_dir_all(path).or_fail(path.display());
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k,mode=0755", "e2e-full"])
            .arg(path)
            .status()
            .or_fail("mount");
        assert!(status.success(), "mount a small file system on {}: {status}", path.display());
        let full = Self { path: path.to_owned() };
        let mut filler = File::create(path.join("filler")).or_fail("fill a file system");
        // Stops at the first write that does not fit: that is what full means.
        while filler.write_all(&[0; 4096]).is_ok() {}
        full
    }
}

impl Drop for FullDirectory {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_can_be_written_to_a_full_directory() {
        let directory = tempfile::tempdir().unwrap();
        let full = FullDirectory::at(directory.path());
        let error = fs::write(directory.path().join("x"), [0; 4096]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::errno::Errno::ENOSPC as i32));
        drop(full);
        fs::write(directory.path().join("x"), [0; 4096]).unwrap();
    }
}
