//! Mounting and unmounting.

use std::fs;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::error::{Error, Result};

/// Splits mount options into the kernel's flags and the file system's own data; unknown words go to the latter.
pub fn parse_options(options: &[String]) -> (MsFlags, String) {
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for option in options {
        let (set, clear) = match option.as_str() {
            "ro" => (MsFlags::MS_RDONLY, MsFlags::empty()),
            "rw" => (MsFlags::empty(), MsFlags::MS_RDONLY),
            "nosuid" => (MsFlags::MS_NOSUID, MsFlags::empty()),
            "suid" => (MsFlags::empty(), MsFlags::MS_NOSUID),
            "nodev" => (MsFlags::MS_NODEV, MsFlags::empty()),
            "dev" => (MsFlags::empty(), MsFlags::MS_NODEV),
            "noexec" => (MsFlags::MS_NOEXEC, MsFlags::empty()),
            "exec" => (MsFlags::empty(), MsFlags::MS_NOEXEC),
            "noatime" => (MsFlags::MS_NOATIME, MsFlags::empty()),
            "relatime" => (MsFlags::MS_RELATIME, MsFlags::empty()),
            "sync" => (MsFlags::MS_SYNCHRONOUS, MsFlags::empty()),
            "remount" => (MsFlags::MS_REMOUNT, MsFlags::empty()),
            "bind" => (MsFlags::MS_BIND, MsFlags::empty()),
            "rbind" => (MsFlags::MS_BIND | MsFlags::MS_REC, MsFlags::empty()),
            "defaults" => (MsFlags::empty(), MsFlags::empty()),
            other => {
                data.push(other);
                continue;
            }
        };
        flags |= set;
        flags &= !clear;
    }
    (flags, data.join(","))
}

/// Mounts `source` on `target`, which must exist.
pub fn attach(source: &Path, target: &Path, fstype: &str, flags: MsFlags, data: &str) -> Result<()> {
    let data = (!data.is_empty()).then_some(data);
    mount(Some(source), target, Some(fstype), flags, data).map_err(Error::errno("mount", target))
}

/// Makes the mount point: a directory, or for a bind mount of a file a file.
pub fn make_target(source: &Path, target: &Path, fstype: &str) -> Result<()> {
    if target.exists() {
        return Ok(());
    }
    if fstype == "bind" && source.is_file() {
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(Error::path("create directory", parent))?;
        }
        fs::File::create(target).map_err(Error::path("create file", target))?;
        return Ok(());
    }
    fs::create_dir_all(target).map_err(Error::path("create directory", target))
}

/// Unmounts what is on `target`; nothing mounted there is fine.
pub fn detach(target: &Path) -> Result<()> {
    match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(errno) => Err(Error::errno("unmount", target)(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn flags_and_data_are_told_apart() {
        let (flags, data) = parse_options(&words(&["nosuid", "size=64m", "ro", "mode=0755", "rw"]));
        assert_eq!(flags, MsFlags::MS_NOSUID);
        assert_eq!(data, "size=64m,mode=0755");
    }

    #[test]
    fn rbind_is_recursive() {
        assert_eq!(parse_options(&words(&["rbind"])).0, MsFlags::MS_BIND | MsFlags::MS_REC);
    }
}
