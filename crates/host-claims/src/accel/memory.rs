//! Remembers the probe's verdict: it costs some milliseconds of CPU time, and no host changes from pod to pod.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use shared_types::KvmTrial;

/// What was found, and for which device node: loading KVM's module anew makes another one.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    device: Device,
    /// `None`: KVM works.
    broken: Option<String>,
}

/// Which node `/dev/kvm` is; all zero where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Device {
    inode: u64,
    changed_s: i64,
    changed_ns: i64,
}

impl Device {
    fn at(path: &Path) -> Self {
        std::fs::metadata(path).map_or_else(
            |_| Self::default(),
            |meta| Self { inode: meta.ino(), changed_s: meta.ctime(), changed_ns: meta.ctime_nsec() },
        )
    }
}

/// The verdict that `file` remembers of `device` as it is now. A file that is not ours is no memory.
pub(super) fn recall(file: &Path, device: &Path) -> Option<KvmTrial> {
    let remembered: Remembered = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    let verdict = match remembered.broken {
        None => KvmTrial::Works,
        Some(reason) => KvmTrial::Fails { reason },
    };
    (remembered.device == Device::at(device)).then_some(verdict)
}

/// Writes the verdict down. Without room for it the next probe costs what this one did, no more.
pub(super) fn remember(file: &Path, device: &Path, verdict: &KvmTrial) {
    let broken = match verdict {
        KvmTrial::Works => None,
        KvmTrial::Fails { reason } => Some(reason.clone()),
    };
    let remembered = Remembered { device: Device::at(device), broken };
    let new = file.with_extension(format!("{}.new", std::process::id()));
    let text = serde_json::to_vec(&remembered).unwrap_or_default();
    let parent = file.parent().map_or(Ok(()), std::fs::create_dir_all);
    if parent.and_then(|()| std::fs::write(&new, text)).and_then(|()| std::fs::rename(&new, file)).is_err() {
        let _ = std::fs::remove_file(&new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_holds_until_the_device_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (file, device) = (dir.path().join("run/kvm"), dir.path().join("device"));
        std::fs::write(&device, "").unwrap();
        assert_eq!(recall(&file, &device), None);
        let slow = KvmTrial::Fails { reason: "slow".to_owned() };
        for verdict in [KvmTrial::Works, slow] {
            remember(&file, &device, &verdict);
            assert_eq!(recall(&file, &device), Some(verdict));
        }
        std::fs::remove_file(&device).unwrap();
        assert_eq!(recall(&file, &device), None);
    }

    #[test]
    fn a_file_that_is_not_ours_is_no_memory() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("kvm");
        std::fs::write(&file, "kvm").unwrap();
        assert_eq!(recall(&file, dir.path()), None);
    }
}
