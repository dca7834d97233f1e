//! A root file system out of several read-only layers, each its own disk, under one overlay.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent::proto::agent::Storage;
use futures_util::future::join_all;
use nix::mount::MsFlags;

use crate::error::{Error, Result};
use crate::mounts;
use crate::storage::scsi::ScsiAddress;

const MARK: &str = "X-kata.multi-layer=true";
const LOWER: &str = "X-kata.overlay-lower";
const UPPER: &str = "X-kata.overlay-upper";
const MKDIR: &str = "X-kata.mkdir.path=";
const MOUNT_0: &str = "{{ mount 0 }}";
/// Driver that alone marks a storage as one layer of a group.
pub const DRIVER: &str = "erofs.multi-layer";

/// Whether the storage is one layer of a group.
pub fn is_layer(storage: &Storage) -> bool {
    storage.driver == DRIVER || storage.options.iter().any(|option| option == MARK)
}

/// What a group asks for; checked, nothing done yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Group {
    target: PathBuf,
    disks: Vec<ScsiAddress>,
    /// Directories to make, relative to the directory that holds the upper and the work directory.
    directories: Vec<PathBuf>,
}

impl Group {
    /// Checks the layers among `storages`. The first one carries the target.
    pub fn parse(storages: &[Storage]) -> Result<Self> {
        let layers: Vec<&Storage> = storages.iter().filter(|storage| is_layer(storage)).collect();
        let first = layers.first().ok_or_else(|| Error::refused("no layers"))?;
        let target = PathBuf::from(&first.mount_point);
        if !target.is_absolute() || first.mount_point.contains("..") {
            return Err(Error::refused(format!(
                "layer mount point {:?}: must be absolute",
                first.mount_point
            )));
        }
        let mut group = Self { target, disks: Vec::new(), directories: Vec::new() };
        for layer in layers {
            group.add(layer)?;
        }
        Ok(group)
    }

    fn add(&mut self, layer: &Storage) -> Result<()> {
        for option in &layer.options {
            match option.as_str() {
                MARK | LOWER | "ro" => {}
                UPPER => return Err(Error::Unsupported("a writable upper layer on a disk")),
                other => match other.strip_prefix(MKDIR) {
                    Some(directive) => self.directories.push(directory(directive)?),
                    None => return Err(Error::refused(format!("layer option {other:?}"))),
                },
            }
        }
        if layer.fstype != "erofs" {
            return Err(Error::refused(format!("layer file system {:?}: must be erofs", layer.fstype)));
        }
        if layer.driver != "scsi" {
            return Err(Error::refused(format!("layer driver {:?}: must be scsi", layer.driver)));
        }
        let disk = ScsiAddress::parse(&layer.source)?;
        if self.disks.contains(&disk) {
            return Err(Error::refused(format!("SCSI address {} is used by two layers", layer.source)));
        }
        self.disks.push(disk);
        Ok(())
    }

    /// Mounts the group; returns its mounts in the order in which they must be unmounted.
    pub async fn mount(self, container: &Path, limit: Duration) -> Result<Vec<PathBuf>> {
        let base = container.join("multi-layer");
        let lowers: Vec<PathBuf> = (0..self.disks.len()).map(|n| base.join(format!("lower-{n}"))).collect();
        let layers = self.disks.iter().zip(&lowers).map(|(disk, lower)| mount_layer(*disk, lower, limit));
        let results = join_all(layers).await;
        let mut mounted = Vec::new();
        let mut failed = None;
        for (result, lower) in results.into_iter().zip(&lowers) {
            match result {
                Ok(()) => mounted.push(lower.clone()),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let overlay = failed.map_or_else(|| self.overlay(&base.join("upper"), &lowers), Err);
        if let Err(error) = overlay {
            for lower in mounted {
                let _ = mounts::detach(&lower);
            }
            let _ = fs::remove_dir_all(&base);
            return Err(error);
        }
        mounted.insert(0, self.target);
        Ok(mounted)
    }

    fn overlay(&self, upper: &Path, lowers: &[PathBuf]) -> Result<()> {
        let (data, work) = (upper.join("upper"), upper.join("work"));
        let made = self.directories.iter().map(|directory| upper.join(directory));
        for directory in [data.clone(), work.clone(), self.target.clone()].into_iter().chain(made) {
            fs::create_dir_all(&directory).map_err(Error::path("create directory", &directory))?;
        }
        let lowers: Vec<String> = lowers.iter().map(|lower| lower.display().to_string()).collect();
        let options =
            format!("upperdir={},lowerdir={},workdir={}", data.display(), lowers.join(":"), work.display());
        mounts::attach(Path::new("overlay"), &self.target, "overlay", MsFlags::empty(), &options)
    }
}

async fn mount_layer(disk: ScsiAddress, target: &Path, limit: Duration) -> Result<()> {
    let node = disk.disk(limit).await?;
    fs::create_dir_all(target).map_err(Error::path("create directory", target))?;
    mounts::attach(&node, target, "erofs", MsFlags::MS_RDONLY, "")
}

/// `<path>[:<mode>]`, the path below `{{ mount 0 }}`, the place of the upper and the work directory.
fn directory(directive: &str) -> Result<PathBuf> {
    let path = directive.split(':').next().unwrap_or_default();
    let below = path.strip_prefix(MOUNT_0).unwrap_or(path).trim_start_matches('/');
    if below.is_empty() || Path::new(below).components().any(|part| part.as_os_str() == "..") {
        return Err(Error::refused(format!("directory {directive:?}: must lie below {MOUNT_0:?}")));
    }
    Ok(PathBuf::from(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(source: &str) -> Storage {
        Storage {
            driver: "scsi".into(),
            source: source.into(),
            fstype: "erofs".into(),
            options: vec![LOWER.into(), MARK.into()],
            mount_point: "/run/kata-containers/abc/rootfs".into(),
            ..Default::default()
        }
    }

    #[test]
    fn keeps_the_order_of_layers() {
        let group = Group::parse(&[layer("0:2"), layer("0:0")]).unwrap();
        assert_eq!(group.disks, [ScsiAddress::parse("0:2").unwrap(), ScsiAddress::parse("0:0").unwrap()]);
        assert_eq!(group.target, Path::new("/run/kata-containers/abc/rootfs"));
    }

    #[test]
    fn takes_directories_for_the_upper_layer() {
        let mut first = layer("0:1");
        first.options.push(format!("{MKDIR}{MOUNT_0}/upper:0755"));
        assert_eq!(Group::parse(&[first]).unwrap().directories, [PathBuf::from("upper")]);
    }

    #[test]
    fn refuses_what_the_contract_does_not_know() {
        let cases: [fn(&mut Storage); 7] = [
            |s| s.driver = "blk".into(),
            |s| s.fstype = "ext4".into(),
            |s| s.source = "/dev/sda".into(),
            |s| s.mount_point = "rootfs".into(),
            |s| s.options.push("X-kata.unheard-of".into()),
            |s| s.options.push(UPPER.into()),
            |s| s.options.push(format!("{MKDIR}{MOUNT_0}/../x")),
        ];
        for (number, case) in cases.into_iter().enumerate() {
            let mut storage = layer("0:0");
            case(&mut storage);
            assert!(Group::parse(&[storage]).is_err(), "case {number}");
        }
    }

    #[test]
    fn refuses_one_disk_twice() {
        assert!(Group::parse(&[layer("0:1"), layer("0:1")]).is_err());
    }
}
