//! QMP arguments that add a disk to the VM's SCSI controller and remove it again.
//!
//! Before boot and after it, the way is the same: `add-fd` with the open image, `blockdev-add`, `device_add`; then
//! `device_del`, wait for `DEVICE_DELETED`, `blockdev-del`, `remove-fd`. Only read-only disks exist: image layers. QEMU gets
//! each as a descriptor, for it can open nothing of the host by name.

use std::fmt;

use serde_json::{Value, json};

use crate::path::AbsolutePath;
use crate::qemu::CONTROLLER_ID;

/// Number of a disk on SCSI target 0: 0 to 16383, what QEMU's virtio-scsi and the 14 bits of SAM's flat
/// addressing hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lun(u16);

impl Lun {
    /// The largest.
    pub const MAX: u16 = 0x3fff;

    /// Checks the range.
    pub const fn new(lun: u16) -> Option<Self> {
        if lun <= Self::MAX { Some(Self(lun)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Lun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A read-only disk on the VM's SCSI controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScsiDisk {
    /// Its number, which also makes its ids in QEMU.
    pub lun: Lun,
    /// The image on the host, raw.
    pub image: AbsolutePath,
    /// What it is there.
    pub backing: Backing,
}

/// What an image is on the host; QEMU has a driver for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// A regular file.
    File,
    /// A block device.
    Disk,
}

impl ScsiDisk {
    /// Node name of the image in QEMU.
    fn node(&self) -> String {
        format!("layer{}", self.lun)
    }

    /// Id of the device in QEMU, as `DEVICE_DELETED` names it.
    pub fn device_id(&self) -> String {
        format!("lun{}", self.lun)
    }

    /// Arguments of `add-fd`, which comes with the image's descriptor. The name is for whoever asks QEMU.
    pub fn add_fd(&self) -> Value {
        json!({ "fdset-id": self.lun.get(), "opaque": self.image.as_str() })
    }

    /// Arguments of `remove-fd`; QEMU closes it once nothing uses it.
    pub fn remove_fd(&self) -> Value {
        json!({ "fdset-id": self.lun.get() })
    }

    /// Arguments of `blockdev-add`. The page cache stays in use, since pods on one node share layers;
    /// the node takes QEMU's shared file lock, so that a writer is refused and another reader is not.
    pub fn blockdev_add(&self) -> Value {
        json!({
            "driver": match self.backing { Backing::File => "file", Backing::Disk => "host_device" },
            "node-name": self.node(),
            "filename": format!("/dev/fdset/{}", self.lun),
            "read-only": true,
            "auto-read-only": false,
        })
    }

    /// Arguments of `device_add`.
    pub fn device_add(&self) -> Value {
        json!({
            "driver": "scsi-hd",
            "id": self.device_id(),
            "bus": format!("{CONTROLLER_ID}.0"),
            "channel": 0,
            "scsi-id": 0,
            "lun": self.lun.get(),
            "drive": self.node(),
        })
    }

    /// Arguments of `device_del`; QEMU is done with it only at `DEVICE_DELETED`.
    pub fn device_del(&self) -> Value {
        json!({ "id": self.device_id() })
    }

    /// Arguments of `blockdev-del`.
    pub fn blockdev_del(&self) -> Value {
        json!({ "node-name": self.node() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn luns_end_where_flat_addressing_does() {
        assert_eq!(Lun::new(16383).map(Lun::get), Some(16383));
        assert_eq!(Lun::new(16384), None);
    }

    #[test]
    fn commands() {
        let image = AbsolutePath::new("/var/lib/layers/1,2/layer \"x\".erofs").unwrap();
        let disk = ScsiDisk { lun: Lun::new(3).unwrap(), image, backing: Backing::File };
        insta::assert_snapshot!(
            [
                ("add-fd", disk.add_fd()),
                ("blockdev-add", disk.blockdev_add()),
                ("device_add", disk.device_add()),
                ("device_del", disk.device_del()),
                ("blockdev-del", disk.blockdev_del()),
                ("remove-fd", disk.remove_fd()),
            ]
            .map(|(name, arguments)| format!("{name} {arguments}"))
            .join("\n")
        );
    }

    #[test]
    fn a_disk_has_a_driver_of_its_own() {
        let image = AbsolutePath::new("/dev/sdb").unwrap();
        let disk = ScsiDisk { lun: Lun::new(3).unwrap(), image, backing: Backing::Disk };
        assert_eq!(disk.blockdev_add()["driver"], "host_device");
    }

    #[test]
    fn removal_names_what_was_added() {
        let disk = |lun| ScsiDisk { lun, image: AbsolutePath::new("/x").unwrap(), backing: Backing::File };
        let (a, b) = (disk(Lun::new(1).unwrap()), disk(Lun::new(11).unwrap()));
        assert_eq!(a.device_del()["id"], a.device_add()["id"]);
        assert_eq!(a.blockdev_del()["node-name"], a.blockdev_add()["node-name"]);
        assert_eq!(a.device_add()["drive"], a.blockdev_add()["node-name"]);
        assert_ne!(a.device_id(), b.device_id());
        assert_ne!(a.device_id(), a.blockdev_add()["node-name"]);
    }
}
