//! Disks of the VM's one SCSI controller: the only block devices that may appear after the start.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::private::Device;

/// A SCSI controller's number among virtio devices (virtio 1.3, section 5.6).
const VIRTIO_SCSI: &str = "0x0008";

/// Where a disk hangs, in the words of the host's commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// SCSI target.
    pub target: u32,
    /// Logical unit.
    pub lun: u64,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.target, self.lun)
    }
}

/// A disk of the controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lun {
    /// The kernel's name of it: `sda`.
    pub name: String,
    /// Its numbers.
    pub device: Device,
    /// Where it hangs.
    pub address: Address,
}

/// Where a block device hangs, if that is a virtio SCSI controller. `path` is the device's path below /sys, as messages
/// and links of sysfs have it: `/devices/pci0000:00/.../virtioN/hostH/targetH:C:T/H:C:T:L/block/sda`.
pub fn address(sys: &Path, path: &str) -> Option<Address> {
    let (before, _) = path.trim_start_matches('/').rsplit_once("/block/")?;
    let (before, unit) = before.rsplit_once('/')?;
    let controller = before.split_inclusive('/').scan(PathBuf::new(), |walked, part| {
        walked.push(part.trim_end_matches('/'));
        Some((walked.clone(), part.trim_end_matches('/').to_owned()))
    });
    let (controller, _) = controller.filter(|(_, part)| part.starts_with("virtio")).last()?;
    let kind = fs::read_to_string(sys.join(controller).join("device")).ok()?;
    if kind.trim_end() != VIRTIO_SCSI {
        return None;
    }
    let mut numbers = unit.split(':');
    let (_host, channel) = (numbers.next()?, numbers.next()?);
    let (target, lun) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
    (channel == "0" && numbers.next().is_none()).then_some(Address { target, lun })
}

/// The disks that are there now, by their address.
///
/// # Errors
///
/// When sysfs cannot be listed.
pub fn present(sys: &Path) -> io::Result<Vec<Lun>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(sys.join("block"))? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Ok(link) = fs::read_link(entry.path()) else { continue };
        let path = link.to_string_lossy();
        let Some(address) = address(sys, path.trim_start_matches("../")) else { continue };
        let numbers = fs::read_to_string(entry.path().join("dev")).ok();
        if let Some(device) = numbers.as_deref().and_then(Device::parse) {
            found.push(Lun { name, device, address });
        }
    }
    found.sort_by_key(|lun| lun.address);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const CONTROLLER: &str = "devices/pci0000:00/0000:00:02.0/virtio1";

    fn sysfs(kind: &str) -> tempfile::TempDir {
        let sys = tempfile::tempdir().unwrap();
        fs::create_dir_all(sys.path().join("block")).unwrap();
        fs::create_dir_all(sys.path().join(CONTROLLER)).unwrap();
        fs::write(sys.path().join(CONTROLLER).join("device"), kind).unwrap();
        sys
    }

    fn disk(sys: &Path, unit: &str, name: &str, numbers: &str) {
        let path = format!("{CONTROLLER}/host0/target0:0:0/{unit}/block/{name}");
        fs::create_dir_all(sys.join(&path)).unwrap();
        fs::write(sys.join(&path).join("dev"), numbers).unwrap();
        symlink(format!("../{path}"), sys.join("block").join(name)).unwrap();
    }

    #[test]
    fn disks_of_the_controller_are_found_with_their_address() {
        let sys = sysfs("0x0008\n");
        disk(sys.path(), "0:0:0:12", "sdb", "8:16\n");
        disk(sys.path(), "0:0:0:3", "sda", "8:0\n");
        let root = "devices/pci0000:00/0000:00:01.0/virtio0/block/vda";
        fs::create_dir_all(sys.path().join(root)).unwrap();
        symlink(format!("../{root}"), sys.path().join("block/vda")).unwrap();
        let found = present(sys.path()).unwrap();
        let texts: Vec<_> =
            found.iter().map(|lun| format!("{} {} {}", lun.name, lun.device, lun.address)).collect();
        assert_eq!(texts, ["sda 8:0 0:3", "sdb 8:16 0:12"]);
    }

    #[test]
    fn disks_elsewhere_are_none_of_ours() {
        let sys = sysfs("0x0002\n");
        let path = format!("/{CONTROLLER}/host0/target0:0:0/0:0:0:1/block/sda");
        assert_eq!(address(sys.path(), &path), None);
        let sys = sysfs("0x0008\n");
        assert_eq!(address(sys.path(), &path), Some(Address { target: 0, lun: 1 }));
        for path in [
            "/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:1/block/sda",
            "/devices/pci0000:00/0000:00:02.0/virtio1/host0/target0:1:0/0:1:0:1/block/sda",
            "/devices/pci0000:00/0000:00:02.0/virtio1/host0/target0:0:0/0:0:0:1:5/block/sda",
            "/devices/virtual/block/dm-1",
            "/devices/pci0000:00/0000:00:02.0/virtio1/block/vda",
            "",
        ] {
            assert_eq!(address(sys.path(), path), None, "{path}");
        }
    }
}
