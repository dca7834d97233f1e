//! The file systems that a guest agent which is not PID 1 expects to find mounted.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

/// A file system that could not be mounted.
#[derive(Debug, thiserror::Error)]
#[error("cannot mount {fs_type} on {}", target.display())]
pub struct MountError {
    fs_type: &'static str,
    target: PathBuf,
    #[source]
    source: Errno,
}

/// When a mount of the table is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// Always; the kernel is wrong without it.
    Always,
    /// If the kernel has it: its mount point is a directory that the kernel makes.
    Offered,
}

/// One line of the mount table.
#[derive(Debug)]
struct Mount {
    fs_type: &'static str,
    /// Relative to the root.
    target: &'static str,
    flags: MsFlags,
    data: &'static str,
    when: When,
}

const NO_DEV_SUID: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
const DATA_ONLY: MsFlags = NO_DEV_SUID.union(MsFlags::MS_NOEXEC);

/// In mount order: a target below another mount comes after it. /dev is there before (`dev`).
const TABLE: &[Mount] = &[
    Mount { fs_type: "proc", target: "proc", flags: DATA_ONLY, data: "", when: When::Always },
    Mount { fs_type: "sysfs", target: "sys", flags: DATA_ONLY, data: "", when: When::Always },
    Mount {
        fs_type: "devpts",
        target: "dev/pts",
        flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
        data: "gid=5,mode=620,ptmxmode=666",
        when: When::Always,
    },
    Mount { fs_type: "tmpfs", target: "dev/shm", flags: NO_DEV_SUID, data: "mode=1777", when: When::Always },
    // Containers' root file systems are assembled below /run: device nodes and set-uid files must work there.
    Mount { fs_type: "tmpfs", target: "run", flags: MsFlags::empty(), data: "mode=755", when: When::Always },
    Mount { fs_type: "tmpfs", target: "tmp", flags: NO_DEV_SUID, data: "mode=1777", when: When::Always },
    Mount {
        fs_type: "cgroup2",
        target: "sys/fs/cgroup",
        flags: DATA_ONLY.union(MsFlags::MS_RELATIME),
        data: "nsdelegate",
        when: When::Always,
    },
    Mount {
        fs_type: "configfs",
        target: "sys/kernel/config",
        flags: DATA_ONLY,
        data: "",
        when: When::Offered,
    },
    Mount {
        fs_type: "securityfs",
        target: "sys/kernel/security",
        flags: DATA_ONLY,
        data: "",
        when: When::Offered,
    },
];

/// Mounts the whole table below `root`.
///
/// # Errors
///
/// The first mount that failed.
pub fn mount_all(root: &Path) -> Result<(), MountError> {
    for entry in TABLE {
        let target = root.join(entry.target);
        if entry.when == When::Offered && !target.is_dir() {
            continue;
        }
        mount(Some(entry.fs_type), &target, Some(entry.fs_type), entry.flags, Some(entry.data))
            .map_err(|source| MountError { fs_type: entry.fs_type, target, source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(target: &str) -> &'static Mount {
        TABLE.iter().find(|mount| mount.target == target).unwrap()
    }

    #[test]
    fn parents_come_before_what_is_mounted_below_them() {
        for (index, mount) in TABLE.iter().enumerate() {
            let below_later =
                TABLE[index + 1..].iter().find(|later| Path::new(mount.target).starts_with(later.target));
            assert!(below_later.is_none(), "{} would be hidden", mount.target);
        }
    }

    #[test]
    fn every_mount_point_is_used_once() {
        for mount in TABLE {
            assert_eq!(
                TABLE.iter().filter(|other| other.target == mount.target).count(),
                1,
                "{}",
                mount.target
            );
        }
    }

    #[test]
    fn container_roots_below_run_keep_devices_and_set_uid() {
        assert!(!entry("run").flags.intersects(NO_DEV_SUID));
    }

    #[test]
    fn what_holds_no_programs_forbids_them() {
        for target in ["proc", "sys", "sys/fs/cgroup"] {
            assert!(entry(target).flags.contains(DATA_ONLY), "{target}");
        }
    }

    #[test]
    fn a_missing_mount_point_below_a_read_only_root_is_named() {
        let error = MountError { fs_type: "tmpfs", target: "/run".into(), source: Errno::EROFS };
        assert_eq!(error.to_string(), "cannot mount tmpfs on /run");
    }
}
