//! From a VFIO device node to the functions behind it.

use std::path::{Path, PathBuf};

use gpu::sysfs::{Function, Inventory};

/// What a path in `/dev` is to VFIO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    /// `/dev/vfio/devices/vfioN`.
    Device(String),
    /// `/dev/vfio/N`.
    Group(u32),
    /// `/dev/vfio/vfio`, which comes with every group.
    Container,
    /// `/dev/vfio/noiommu-N`: without an IOMMU the device could write everywhere.
    NoIommu,
    /// No VFIO.
    Other,
}

impl Node {
    pub(crate) fn of_path(path: &Path) -> Self {
        let Some(rest) = path.strip_prefix("/dev/vfio").ok().and_then(Path::to_str) else {
            return Self::Other;
        };
        match rest.strip_prefix("devices/") {
            Some(name) if is_vfio_device(name) => Self::Device(name.to_owned()),
            Some(_) => Self::Other,
            None if rest == "vfio" => Self::Container,
            None if rest.starts_with("noiommu-") => Self::NoIommu,
            None => number(rest).map_or(Self::Other, Self::Group),
        }
    }
}

pub(crate) fn is_vfio_device(name: &str) -> bool {
    name.strip_prefix("vfio").and_then(number).is_some()
}

/// Digits only, as the kernel writes them.
pub(crate) fn number(text: &str) -> Option<u32> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// What is behind a node.
#[derive(Debug)]
pub(crate) enum Behind<'a> {
    /// GPUs and NVSwitches.
    Ours(Vec<&'a Function>),
    /// Something else that exists.
    Others,
    /// Nothing.
    Nothing,
}

pub(crate) fn behind<'a>(node: &Node, inventory: &'a Inventory, sysfs: &Path) -> Behind<'a> {
    let (found, exists): (Vec<_>, PathBuf) = match node {
        Node::Device(name) => (
            inventory.functions.iter().filter(|f| f.vfio_device.as_ref() == Some(name)).collect(),
            sysfs.join("class/vfio-dev").join(name),
        ),
        Node::Group(id) => (
            inventory.functions.iter().filter(|f| f.group.as_ref().is_some_and(|g| g.id == *id)).collect(),
            sysfs.join("kernel/iommu_groups").join(id.to_string()),
        ),
        Node::Container | Node::NoIommu | Node::Other => return Behind::Others,
    };
    match (found.is_empty(), exists.exists()) {
        (false, _) => Behind::Ours(found),
        (true, true) => Behind::Others,
        (true, false) => Behind::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let node = |path| Node::of_path(Path::new(path));
        assert_eq!(node("/dev/vfio/devices/vfio12"), Node::Device("vfio12".into()));
        assert_eq!(node("/dev/vfio/17"), Node::Group(17));
        assert_eq!(node("/dev/vfio/vfio"), Node::Container);
        assert_eq!(node("/dev/vfio/noiommu-3"), Node::NoIommu);
        for other in [
            "/dev/nvidia0",
            "/dev/vfio/devices/vfio",
            "/dev/vfio/devices/../17",
            "/dev/vfio/+1",
            "/dev/vfio/",
        ] {
            assert_eq!(node(other), Node::Other, "{other}");
        }
    }
}
