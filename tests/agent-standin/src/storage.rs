//! Storages of the sandbox and its containers: made once, counted by user, undone after the last one.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use agent_client::proto::agent::Storage;
use nix::mount::MsFlags;

use crate::error::{Error, Result};
use crate::log;
use crate::mounts;

/// The drivers played here, in the words of `AgentDetails.storage_handlers`.
pub const DRIVERS: [&str; 4] = ["blk", "ephemeral", "local", "overlayfs"];
/// The one driver option that is known: `overlayfs` makes a directory.
const CREATE_DIRECTORY: &str = "io.katacontainers.volume.overlayfs.create_directory=";

/// What undoes a storage after its last user.
#[derive(Debug)]
struct Entry {
    users: u32,
    /// In the order in which they must be unmounted.
    mounts: Vec<PathBuf>,
    /// Memory-backed volumes stay until the sandbox ends: a container that starts again must find its data.
    keep: bool,
}

/// All storages of the sandbox, by mount point.
#[derive(Debug, Default)]
pub struct Storages {
    entries: HashMap<PathBuf, Entry>,
}

impl Storages {
    /// Makes or shares every storage of a request; `container` is the directory of the container they are for.
    /// Returns the mount points in use. When one fails, those made before are given back.
    pub fn add(&mut self, storages: &[Storage], container: &Path) -> Result<Vec<PathBuf>> {
        let mut used = Vec::new();
        match self.add_all(storages, container, &mut used) {
            Ok(()) => Ok(used),
            Err(error) => {
                self.release(&used);
                Err(error)
            }
        }
    }

    fn add_all(&mut self, storages: &[Storage], container: &Path, used: &mut Vec<PathBuf>) -> Result<()> {
        for storage in storages {
            let target = PathBuf::from(&storage.mount_point);
            if let Some(entry) = self.entries.get_mut(&target) {
                entry.users += 1;
                used.push(target);
                continue;
            }
            let (mounts, keep) = single(storage, &target, container)?;
            self.entries.insert(target.clone(), Entry { users: 1, mounts, keep });
            used.push(target);
        }
        Ok(())
    }

    /// Mounts `ephemeral` storages with other options, above all `remount` and a size.
    pub fn update_ephemeral(&self, storages: &[Storage]) -> Result<()> {
        for storage in storages {
            if storage.driver != "ephemeral" {
                return Err(Error::refused(format!("update of a storage of driver {:?}", storage.driver)));
            }
            let target = Path::new(&storage.mount_point);
            if !self.entries.contains_key(target) {
                return Err(Error::refused(format!("update of {}: it is not mounted", target.display())));
            }
            let options: Vec<String> =
                storage.options.iter().filter(|option| !option.starts_with("fsgid=")).cloned().collect();
            let (flags, data) = mounts::parse_options(&options);
            mounts::attach(Path::new(&storage.source), target, &storage.fstype, flags, &data)?;
        }
        Ok(())
    }

    /// Gives storages back; the last user's leaving unmounts.
    pub fn release(&mut self, used: &[PathBuf]) {
        for target in used.iter().rev() {
            let Some(entry) = self.entries.get_mut(target) else { continue };
            entry.users = entry.users.saturating_sub(1);
            if entry.users > 0 || entry.keep {
                continue;
            }
            if let Some(entry) = self.entries.remove(target) {
                undo(&entry);
            }
        }
    }

    /// Unmounts everything: the sandbox ends.
    pub fn clear(&mut self) {
        for (_, entry) in self.entries.drain() {
            undo(&entry);
        }
    }
}

fn undo(entry: &Entry) {
    for mount in &entry.mounts {
        match mounts::detach(mount) {
            Ok(()) => {
                let _ = fs::remove_dir(mount);
            }
            Err(error) => log::line(format_args!("left behind: {error}")),
        }
    }
}

/// Makes one storage; returns its mounts and whether it outlives its users.
fn single(storage: &Storage, target: &Path, container: &Path) -> Result<(Vec<PathBuf>, bool)> {
    if !target.is_absolute() {
        return Err(Error::refused(format!("mount point {:?}: must be absolute", storage.mount_point)));
    }
    let is_known = |option: &String| storage.driver == "overlayfs" && option.starts_with(CREATE_DIRECTORY);
    if !storage.driver_options.iter().all(is_known) {
        return Err(Error::refused(format!(
            "driver options {:?} of driver {}",
            storage.driver_options, storage.driver
        )));
    }
    match storage.driver.as_str() {
        "ephemeral" => {
            ephemeral(storage, target)?;
            Ok((vec![target.to_owned()], true))
        }
        "local" => {
            local(storage, target)?;
            Ok((Vec::new(), true))
        }
        "overlayfs" => {
            overlay(storage, target, container)?;
            Ok((vec![target.to_owned()], false))
        }
        "blk" => {
            mount(storage, block_device(&storage.source)?, target, &storage.fstype)?;
            Ok((vec![target.to_owned()], false))
        }
        other => Err(Error::refused(format!("no handler for storage driver {other:?}"))),
    }
}

/// A node that is there already; kata-agent waits for disks by their PCI address only (`block_handler.rs`).
fn block_device(source: &str) -> Result<&Path> {
    if !source.starts_with("/dev") {
        return Err(Error::Unsupported("disks by their PCI address"));
    }
    let node = Path::new(source);
    let metadata = fs::metadata(node).map_err(Error::path("get metadata on file", node))?;
    match metadata.file_type().is_block_device() {
        true => Ok(node),
        false => Err(Error::refused(format!("Invalid device {source}"))),
    }
}

fn mount(storage: &Storage, source: &Path, target: &Path, fstype: &str) -> Result<()> {
    let (flags, data) = mounts::parse_options(&storage.options);
    mounts::make_target(source, target, fstype)?;
    mounts::attach(source, target, fstype, flags, &data)?;
    if let Some(group) = storage.fs_group.as_ref() {
        chown(target, None, Some(group.group_id)).map_err(Error::path("change group of", target))?;
    }
    Ok(())
}

/// A tmpfs. Its options are not mount options, except `fsgid=`.
fn ephemeral(storage: &Storage, target: &Path) -> Result<()> {
    if storage.fstype != "tmpfs" {
        return Err(Error::refused(format!("file system {:?} of driver ephemeral", storage.fstype)));
    }
    let group = option(storage, "fsgid=").map(number).transpose()?;
    for lost in storage.options.iter().filter(|option| !option.starts_with("fsgid=")) {
        log::line(format_args!("driver ephemeral ignores option {lost:?}, as kata-agent does"));
    }
    mounts::make_target(Path::new("tmpfs"), target, "tmpfs")?;
    mounts::attach(Path::new("tmpfs"), target, "tmpfs", MsFlags::empty(), "")?;
    if let Some(group) = group {
        chown(target, None, Some(group)).map_err(Error::path("change group of", target))?;
        let mode = fs::metadata(target).map_err(Error::path("look at", target))?.permissions().mode();
        set_mode(target, mode | 0o2000)?;
    }
    Ok(())
}

/// A directory of the guest.
fn local(storage: &Storage, target: &Path) -> Result<()> {
    fs::create_dir_all(target).map_err(Error::path("create directory", target))?;
    let group = option(storage, "fsgid=").map(number).transpose()?;
    if let Some(group) = group {
        chown(target, None, Some(group)).map_err(Error::path("change group of", target))?;
    }
    if let Some(mode) = option(storage, "mode=") {
        let mode = u32::from_str_radix(mode, 8).map_err(|_| Error::refused(format!("mode {mode:?}")))?;
        set_mode(target, mode | if group.is_some() { 0o2000 } else { 0 })?;
    }
    Ok(())
}

/// Any mount by file system name and options: an overlay, or a tmpfs whose size counts.
fn overlay(storage: &Storage, target: &Path, container: &Path) -> Result<()> {
    let mut storage = storage.clone();
    let mark = "io.katacontainers.fs-opt.overlay-rw";
    if storage.options.iter().any(|option| option == mark) {
        storage.options.retain(|option| option != mark);
        for (key, name) in [("upperdir", "upper"), ("workdir", "work")] {
            let directory = container.join(name);
            fs::create_dir_all(&directory).map_err(Error::path("create directory", &directory))?;
            storage.options.push(format!("{key}={}", directory.display()));
        }
    }
    for directory in storage.driver_options.iter().filter_map(|option| option.strip_prefix(CREATE_DIRECTORY))
    {
        fs::create_dir_all(directory).map_err(Error::path("create directory", directory))?;
    }
    let fstype = if storage.fstype.is_empty() { "overlay" } else { storage.fstype.as_str() };
    mount(&storage, Path::new(&storage.source), target, fstype)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(Error::path("change mode of", path))
}

fn option<'a>(storage: &'a Storage, key: &str) -> Option<&'a str> {
    storage.options.iter().find_map(|option| option.strip_prefix(key))
}

fn number(text: &str) -> Result<u32> {
    text.parse().map_err(|_| Error::refused(format!("group id {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(driver: &str, target: &Path) -> Storage {
        Storage { driver: driver.into(), mount_point: target.display().to_string(), ..Default::default() }
    }

    #[test]
    fn local_directories_are_shared_and_stay() {
        let base = tempfile::tempdir().unwrap();
        let target = base.path().join("data");
        let mut request = storage("local", &target);
        request.options = vec!["mode=0750".into()];
        let mut storages = Storages::default();
        let one = storages.add(std::slice::from_ref(&request), base.path()).unwrap();
        let two = storages.add(&[request], base.path()).unwrap();
        assert_eq!(storages.entries[&target].users, 2);
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o7777, 0o750);
        storages.release(&one);
        storages.release(&two);
        assert!(target.exists());
    }

    #[test]
    fn a_failure_gives_back_what_was_made() {
        let base = tempfile::tempdir().unwrap();
        let good = storage("local", &base.path().join("one"));
        let bad = storage("nvdimm", &base.path().join("two"));
        let mut storages = Storages::default();
        assert!(storages.add(&[good, bad], base.path()).is_err());
        assert_eq!(storages.entries.values().map(|entry| entry.users).sum::<u32>(), 0);
    }

    #[test]
    fn refuses_relative_mount_points() {
        let refused = Storages::default().add(&[storage("local", Path::new("x"))], Path::new("/"));
        assert!(matches!(refused, Err(Error::Refused(_))));
    }

    #[test]
    fn a_layer_is_a_block_device_that_is_there() {
        for refused in ["0:3", "02/03", "/dev/null", "/dev/mapper/none", "/etc/passwd"] {
            let mut request = storage("blk", Path::new("/run/l/x"));
            request.source = refused.into();
            assert!(Storages::default().add(&[request], Path::new("/")).is_err(), "{refused}");
        }
    }
}
