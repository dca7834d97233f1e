//! A container's model volumes: disks and files of the node that the pod's initdata declares.
//!
//! A disk comes as Kubernetes gives a volume in block mode, a device of the container; a file as a mount of one. Which of the
//! declared volumes it is, the first bytes on it say. The guest decides whether it is true.
//!
//! A pod's manifest may name any file, an image of another pod's too. So nothing is opened that is the engine's or Coffer's, or
//! that a link leads to, and of what is not declared nothing is told but that. What was opened is what the VM gets.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_client::Below;
use guest_spec::ModelMount;
use model_volumes::{DOCUMENT, HEAD, Kind, Volumes, uuid};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Mount, Spec};
use verity::{RootHash, read_root};
use vmm::Layer;

use super::node_files::{Looking, can_be_volume};
use crate::api::{Error, Result};

/// A model volume on its disk.
#[derive(Debug, Clone)]
pub struct Model {
    /// What the VM gets.
    pub layer: Layer,
    /// What the container gets.
    pub mount: ModelMount,
}

/// Takes the model volumes out of the specification of a container, whose pod has this UID. It waits for the node's disks.
///
/// # Errors
/// A disk that is a volume by its form, and is none that is declared.
pub fn take(spec: &mut Spec, volumes: &Volumes, uid: Option<&str>, looking: &Looking) -> Result<Vec<Model>> {
    let mut models = Vec::new();
    if volumes.is_empty() {
        return Ok(models);
    }
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    let mut failure = None;
    mounts.retain(|mount| {
        let Some(source) = bound(mount).filter(|source| can_be_volume(source, uid)) else { return true };
        looking.at(source);
        let Some(file) = open(source) else { return true };
        let options = mount.options().clone().unwrap_or_default();
        match declared(source, file, mount.destination(), options, volumes) {
            Ok(model) => {
                let is_other = model.is_none();
                models.extend(model);
                is_other
            }
            Err(error) => {
                failure.get_or_insert(error);
                true
            }
        }
    });
    spec.set_mounts(Some(mounts));
    let mut linux = spec.linux().clone().unwrap_or_default();
    let mut devices = linux.devices().clone().unwrap_or_default();
    devices.retain(|device| {
        if device.typ() != LinuxDeviceType::B {
            return true;
        }
        looking.at(device.path());
        let found = node(device).and_then(|node| {
            let opened = File::open(&node);
            let file = opened.map_err(|error| Error::failed(format!("open {}", node.display()), error))?;
            declared(&node, file, device.path(), Vec::new(), volumes)
        });
        match found {
            Ok(model) => {
                let is_other = model.is_none();
                models.extend(model);
                is_other
            }
            Err(error) => {
                failure.get_or_insert(error);
                true
            }
        }
    });
    linux.set_devices(Some(devices));
    if spec.linux().is_some() {
        spec.set_linux(Some(linux));
    }
    failure.map_or(Ok(models), Err)
}

/// The source of a bind mount.
fn bound(mount: &Mount) -> Option<&Path> {
    let is_bind = mount.typ().as_deref() == Some("bind")
        || mount.options().iter().flatten().any(|option| option == "bind" || option == "rbind");
    mount.source().as_deref().filter(|_| is_bind)
}

/// A file or disk that no link leads to; what is none is refused later, by its path.
fn open(source: &Path) -> Option<File> {
    Below::open(Path::new("/")).and_then(|root| root.volume(source)).ok().flatten()
}

/// The node's own name of a block device.
fn node(device: &LinuxDevice) -> Result<PathBuf> {
    let number = format!("{}:{}", device.major(), device.minor());
    let known = Path::new("/dev/block").join(&number);
    if known.exists() {
        return Ok(known);
    }
    let path = format!("/sys/dev/block/{number}/uevent");
    let text = fs::read_to_string(&path)
        .map_err(|error| Error::failed(format!("find the node's block device {number}"), error))?;
    let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    name.map(|name| Path::new("/dev").join(name)).ok_or_else(|| {
        let error = io::Error::from(io::ErrorKind::NotFound);
        Error::failed(format!("find the node's block device {number} in {path}"), error)
    })
}

/// Which declared volume a disk is; `None` for one that is no volume by its form.
fn declared(
    disk: &Path,
    file: File,
    destination: &Path,
    options: Vec<String>,
    volumes: &Volumes,
) -> Result<Option<Model>> {
    let mut head = [0; HEAD];
    let locked = file.read_exact_at(&mut head, 0).ok().and_then(|()| uuid(&head));
    let (found, what) = match locked {
        Some(uuid) => (volumes.with_uuid(uuid), "a LUKS2 volume"),
        None => match read_root(&file) {
            Ok((root, _)) => (volumes.with_root(root), "an image with a hash tree"),
            Err(_) => return Ok(None),
        },
    };
    let Some((_, volume)) = found else {
        let (disk, destination) = (disk.display(), destination.display());
        let names: Vec<&str> = volumes.iter().map(|(name, _)| name).collect();
        let reason = format!(
            "{disk}, which is to be mounted on {destination}, is {what}, and none of the volumes that {DOCUMENT} of the pod's \
             initdata declares ({}): it is another disk, or the pod has to be bound anew",
            names.join(", ")
        );
        return Err(Error::InvalidRequest { field: "volumes", reason });
    };
    let encrypted = matches!(volume.kind, Kind::Luks2 { .. });
    let root: RootHash = volume.root;
    Ok(Some(Model {
        layer: Layer { image: disk.to_owned(), file: Some(Arc::new(file)), root, encrypted },
        mount: ModelMount { destination: destination.to_owned(), root, options },
    }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use serde_json::json;

    use super::*;

    const UUID: &str = "0f8a237d-48ca-4305-ba9f-d2efb00fcd98";

    fn volumes() -> Volumes {
        let root = "a".repeat(64);
        let text = format!(
            "[weights]\nkind = \"luks2\"\nuuid = \"{UUID}\"\nkey = \"kbs:///default/key/w\"\nroot_hash = \"{root}\"\n"
        );
        Volumes::parse(&text).unwrap()
    }

    fn taken(spec: &mut Spec, volumes: &Volumes) -> Result<Vec<Model>> {
        take(spec, volumes, Some("8c5d"), &Looking::default())
    }

    /// A file that claims to be the disk with this UUID.
    fn disk(directory: &Path, name: &str, uuid: &str) -> PathBuf {
        let mut head = vec![0; 8192];
        head[..8].copy_from_slice(b"LUKS\xba\xbe\x00\x02");
        head[168..204].copy_from_slice(uuid.as_bytes());
        let path = directory.join(name);
        fs::write(&path, head).unwrap();
        path
    }

    fn spec(source: &Path) -> Spec {
        serde_json::from_value(json!({
            "ociVersion": "1.1.0",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/models", "type": "bind", "source": source, "options": ["rbind", "rprivate", "ro"]},
            ],
            "linux": {"devices": [{"path": "/dev/null", "type": "c", "major": 1, "minor": 3}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_declared_disk_is_a_volume_and_no_mount_of_the_hosts() {
        let directory = tempfile::tempdir().unwrap();
        let path = disk(directory.path(), "weights", UUID);
        let mut spec = spec(&path);
        let models = taken(&mut spec, &volumes()).unwrap();
        let [Model { layer, mount }] = &models[..] else { panic!("{models:?}") };
        assert_eq!(
            (layer.image.as_path(), layer.root.to_string(), layer.encrypted),
            (path.as_path(), "a".repeat(64), true)
        );
        assert_eq!((mount.destination.as_path(), mount.options.len()), (Path::new("/models"), 3));
        assert_eq!(spec.mounts().as_ref().unwrap().len(), 1);
        assert_eq!(spec.linux().as_ref().unwrap().devices().as_ref().unwrap().len(), 1);
    }

    #[test]
    fn another_disk_is_told_by_what_it_is_and_what_is_no_disk_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let other = disk(directory.path(), "other", "1f8a237d-48ca-4305-ba9f-d2efb00fcd98");
        let text = taken(&mut spec(&other), &volumes()).unwrap_err().to_string();
        for words in [other.to_str().unwrap(), "/models", "a LUKS2 volume", "(weights)", "bound anew"] {
            assert!(text.contains(words), "{words}: {text}");
        }
        // Nothing by which the next pod could declare it.
        assert!(!text.contains("1f8a237d"), "{text}");
        // Without a declaration it is the host's file, which is refused later.
        assert!(taken(&mut spec(&other), &Volumes::default()).unwrap().is_empty());
        let plain = directory.path().join("plain");
        fs::write(&plain, "x").unwrap();
        let mut spec = spec(&plain);
        assert!(taken(&mut spec, &volumes()).unwrap().is_empty());
        assert_eq!(spec.mounts().as_ref().unwrap().len(), 2);
    }

    /// Declared by somebody who knows what is in it: the place alone decides.
    #[test]
    fn what_is_the_engines_or_behind_a_link_is_no_volume_whatever_is_declared() {
        let directory = tempfile::tempdir().unwrap();
        let engine = directory.path().join("io.containerd.snapshotter.v1.erofs/snapshots/12");
        fs::create_dir_all(&engine).unwrap();
        let theirs = disk(&engine, "layer.erofs", UUID);
        let link = directory.path().join("link");
        symlink(&theirs, &link).unwrap();
        let folder = directory.path().join("folder");
        symlink(&engine, &folder).unwrap();
        for source in [theirs.clone(), link, folder.join("layer.erofs")] {
            let mut spec = spec(&source);
            assert!(taken(&mut spec, &volumes()).unwrap().is_empty(), "{}", source.display());
            // It is left to what refuses a host's file.
            assert_eq!(spec.mounts().as_ref().unwrap().len(), 2);
        }
    }

    /// Between the look at it and the VM's start somebody exchanges the file.
    #[test]
    fn the_vm_gets_the_file_that_was_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let path = disk(directory.path(), "weights", UUID);
        let models = taken(&mut spec(&path), &volumes()).unwrap();
        let other = disk(directory.path(), "other", "1f8a237d-48ca-4305-ba9f-d2efb00fcd98");
        fs::rename(&other, &path).unwrap();
        let mut uuid = [0; 36];
        models[0].layer.file.as_ref().unwrap().read_exact_at(&mut uuid, 168).unwrap();
        assert_eq!(uuid, UUID.as_bytes());
    }
}
