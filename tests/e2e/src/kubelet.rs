//! A pod's directory on the node, laid out as kubelet's volume plugins lay it out.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_cri::v1::Mount;

use crate::or_fail::OrFail;

/// `/var/lib/kubelet/pods/UID`; removed when dropped.
#[derive(Debug)]
pub struct PodDirectory {
    root: PathBuf,
}

impl PodDirectory {
    /// Makes the directory of the pod with `uid`.
    pub fn new(uid: &str) -> Self {
        let root = Path::new("/var/lib/kubelet/pods").join(uid);
        fs::create_dir_all(&root).or_fail("make a pod's directory");
        Self { root }
    }

    /// A configmap volume with these files, mounted at `target`.
    pub fn configmap(&self, name: &str, files: &[(&str, &str)], target: &str) -> Mount {
        let volume = self.volume("configmap", name);
        write_atomically(&volume, files);
        mount(&volume, target, true)
    }

    /// Replaces a configmap's files as kubelet does when the object changes.
    pub fn update_configmap(&self, name: &str, files: &[(&str, &str)]) {
        write_atomically(&self.volume("configmap", name), files);
    }

    /// A secret volume: on a tmpfs, mode 0400, mounted at `target`.
    pub fn secret(&self, name: &str, files: &[(&str, &str)], target: &str) -> Mount {
        let volume = self.volume("secret", name);
        mount_tmpfs(&volume);
        write_atomically(&volume, files);
        mount(&volume, target, true)
    }

    /// An emptyDir on the node's disk, mounted at `target`.
    pub fn empty_dir(&self, name: &str, target: &str) -> Mount {
        mount(&self.volume("empty-dir", name), target, false)
    }

    /// An emptyDir with `medium: Memory`, mounted at `target`.
    pub fn memory_dir(&self, name: &str, target: &str) -> Mount {
        let volume = self.volume("empty-dir", name);
        mount_tmpfs(&volume);
        mount(&volume, target, false)
    }

    /// The empty file for a container's last words, mounted at `target`; and where it is on the node.
    pub fn termination_log(&self, container: &str, target: &str) -> (Mount, PathBuf) {
        let directory = self.root.join("containers").join(container);
        fs::create_dir_all(&directory).or_fail("make a container's directory");
        let file = directory.join("1a2b3c4d");
        fs::write(&file, "").or_fail("make a termination log");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).or_fail("open it for all");
        (mount(&file, target, false), file)
    }

    /// A directory of an emptyDir, by `subPath`: kubelet makes it and mounts it again where no name says which one it is.
    pub fn sub_path(&self, name: &str, within: &str, container: &str, target: &str) -> Mount {
        let directory = self.volume("empty-dir", name).join(within);
        fs::create_dir_all(&directory).or_fail("make a directory in a volume");
        let place = self.root.join("volume-subpaths").join(name).join(container).join("0");
        fs::create_dir_all(&place).or_fail("make a place for a subPath");
        let status = Command::new("mount").arg("--bind").args([&directory, &place]).status().or_fail("mount");
        assert!(status.success(), "mount {}: {status}", place.display());
        mount(&place, target, false)
    }

    /// The pod's `/etc/hosts`, which kubelet manages.
    pub fn etc_hosts(&self, lines: &str) -> Mount {
        let file = self.root.join("etc-hosts");
        fs::write(&file, lines).or_fail("write etc-hosts");
        mount(&file, "/etc/hosts", false)
    }

    /// A file of the node, as a pod's hostPath names it.
    pub fn file(path: &str, target: &str) -> Mount {
        mount(Path::new(path), target, true)
    }

    /// A directory of the node that no volume plugin made: a hostPath.
    pub fn host_path(&self, target: &str) -> Mount {
        let directory = Path::new("/srv/e2e-host-path");
        fs::create_dir_all(directory).or_fail("make a hostPath");
        mount(directory, target, false)
    }

    fn volume(&self, plugin: &str, name: &str) -> PathBuf {
        let path = self.root.join(format!("volumes/kubernetes.io~{plugin}/{name}"));
        fs::create_dir_all(&path).or_fail("make a volume");
        path
    }
}

impl Drop for PodDirectory {
    fn drop(&mut self) {
        let within = |directory: PathBuf| {
            fs::read_dir(directory).into_iter().flatten().flatten().map(|one| one.path())
        };
        let secrets = within(self.root.join("volumes/kubernetes.io~secret"));
        let sub_paths = within(self.root.join("volume-subpaths")).flat_map(within).flat_map(within);
        let device = |path: &Path| fs::metadata(path).map(|of| of.dev()).ok();
        let on_node = device(&self.root);
        let in_memory = within(self.root.join("volumes/kubernetes.io~empty-dir"));
        let in_memory = in_memory.filter(|volume| device(volume) != on_node);
        for mounted in secrets.chain(sub_paths).chain(in_memory) {
            let _ = Command::new("umount").arg("--lazy").arg(mounted).status();
        }
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn mount(host: &Path, target: &str, readonly: bool) -> Mount {
    Mount {
        container_path: target.to_owned(),
        host_path: host.display().to_string(),
        readonly,
        ..Mount::default()
    }
}

fn mount_tmpfs(path: &Path) {
    let status = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(path).status().or_fail("mount");
    assert!(status.success(), "mount a tmpfs on {}: {status}", path.display());
}

/// kubelet's atomic writer: files in a directory named by its time, `..data` pointing at it, one link per file.
/// A change is one rename of `..data`.
fn write_atomically(volume: &Path, files: &[(&str, &str)]) {
    let link = volume.join("..data");
    let old = fs::read_link(&link).ok();
    let generation = old.as_ref().map_or(1, |_| 2 + count_of_generations(volume));
    let new = format!("..2026_11_24_00_00_00.{generation}");
    fs::create_dir(volume.join(&new)).or_fail("make a version of a volume");
    for (name, content) in files {
        fs::write(volume.join(&new).join(name), content).or_fail(name);
        if fs::symlink_metadata(volume.join(name)).is_err() {
            symlink(format!("..data/{name}"), volume.join(name)).or_fail(name);
        }
    }
    let next = volume.join("..data_tmp");
    symlink(&new, &next).or_fail("..data_tmp");
    fs::rename(&next, &link).or_fail("..data");
    for entry in fs::read_dir(volume).or_fail("read a volume").flatten() {
        // What the new version does not have is no longer shown.
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with("..") && !volume.join(&new).join(&name).exists() {
            fs::remove_file(entry.path()).or_fail("remove a key that is gone");
        }
    }
    if let Some(old) = old {
        fs::remove_dir_all(volume.join(old)).or_fail("remove the old version of a volume");
    }
}

fn count_of_generations(volume: &Path) -> usize {
    let link = fs::read_link(volume.join("..data")).or_fail("..data");
    let name = link.to_string_lossy().into_owned();
    name.rsplit_once('.').and_then(|(_, number)| number.parse().ok()).or_fail("number of a volume's version")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_through_the_same_path_and_the_old_version_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        write_atomically(directory.path(), &[("key", "one")]);
        assert_eq!(fs::read_to_string(directory.path().join("key")).unwrap(), "one");
        let first = fs::read_link(directory.path().join("..data")).unwrap();
        write_atomically(directory.path(), &[("key", "two"), ("more", "new")]);
        assert_eq!(fs::read_to_string(directory.path().join("key")).unwrap(), "two");
        assert_eq!(fs::read_to_string(directory.path().join("more")).unwrap(), "new");
        assert!(!directory.path().join(first).exists());
        write_atomically(directory.path(), &[("more", "newer")]);
        assert!(fs::symlink_metadata(directory.path().join("key")).is_err(), "a key that is gone is shown");
    }
}
