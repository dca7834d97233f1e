//! `subPath` of an emptyDir. kubelet mounts the directory at `volume-subpaths/<volume>/<container>/<number>`, where no name says
//! which one it is; the kernel's list of mounts does. A container's specification gets the directory's own path for it: that
//! names the volume, which is the guest's, and the place in it.

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

/// Where the kernel lists this process's mounts (proc_pid_mountinfo(5)).
const MOUNTS: &str = "/proc/self/mountinfo";
const BELOW: &str = "volume-subpaths";

/// Names directories of emptyDirs by their own paths. What cannot be told stays as it is, and is refused later.
pub fn name_directories(spec: &mut Spec) {
    let wanted = |source: &Path| source.iter().any(|part| part == BELOW);
    let mounts = spec.mounts().clone().unwrap_or_default();
    if !mounts.iter().any(|mount| mount.source().as_deref().is_some_and(wanted)) {
        return;
    }
    let Ok(table) = fs::read_to_string(MOUNTS) else { return };
    let mounts = mounts.into_iter().map(|mut mount| {
        let own = mount
            .source()
            .as_deref()
            .filter(|source| wanted(source))
            .and_then(|source| own_path(&table, source));
        if let Some(own) = own {
            mount.set_source(Some(own));
        }
        mount
    });
    spec.set_mounts(Some(mounts.collect()));
}

/// The path that a directory has in its emptyDir.
fn own_path(table: &str, source: &Path) -> Option<PathBuf> {
    let parts: Vec<&str> = source.iter().map(|part| part.to_str()).collect::<Option<_>>()?;
    let [pod @ .., BELOW, volume, _container, _number] = &parts[..] else { return None };
    let volume_directory =
        pod.iter().collect::<PathBuf>().join("volumes/kubernetes.io~empty-dir").join(volume);
    let (root, fstype) = mount_at(table, source)?;
    // A volume on the node's disk is a directory there; one in memory is a file system of its own.
    let marker = format!("/kubernetes.io~empty-dir/{volume}/");
    let within = match root.split_once(&marker) {
        Some((_, within)) => within.to_owned(),
        None if fstype == "tmpfs" && mount_at(table, &volume_directory)?.1 == "tmpfs" => {
            root.trim_start_matches('/').to_owned()
        }
        None => return None,
    };
    (!within.is_empty()).then(|| volume_directory.join(within))
}

/// What is mounted last at a place: the path in its file system, and that one's type.
fn mount_at<'a>(table: &'a str, place: &Path) -> Option<(String, &'a str)> {
    table.lines().rev().find_map(|line| {
        let mut fields = line.split(' ');
        let root = fields.nth(3)?;
        let is_it = Path::new(&plain(fields.next()?)) == place;
        let fstype = line.split_once(" - ")?.1.split(' ').next()?;
        is_it.then(|| (plain(root), fstype))
    })
}

/// A path without the kernel's escapes: blanks and backslashes are three octal digits there.
fn plain(escaped: &str) -> String {
    let mut text = escaped.to_owned();
    for (code, letter) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        text = text.replace(code, letter);
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const POD: &str = "/var/lib/kubelet/pods/8c5d";

    /// As a node has it whose /var is a file system of its own.
    fn table() -> String {
        let lines = [
            "22 1 8:1 / / rw - ext4 /dev/sda1 rw".to_owned(),
            "30 22 8:2 / /var rw - ext4 /dev/sda2 rw".to_owned(),
            format!(
                "40 30 0:50 / {POD}/volumes/kubernetes.io~empty-dir/memory rw - tmpfs tmpfs rw,size=1024k"
            ),
            format!(
                "41 30 8:2 /lib/kubelet/pods/8c5d/volumes/kubernetes.io~empty-dir/disk/a\\040b/c \
                 {POD}/volume-subpaths/disk/app/0 rw shared:1 - ext4 /dev/sda2 rw"
            ),
            format!("42 30 0:50 /x {POD}/volume-subpaths/memory/app/1 rw shared:2 - tmpfs tmpfs rw"),
            format!("43 30 0:51 /y {POD}/volume-subpaths/secret/app/2 rw - tmpfs tmpfs rw"),
        ];
        lines.join("\n")
    }

    #[test]
    fn a_directory_of_an_empty_dir_is_named_by_its_own_path() {
        let of = |place: &str| {
            own_path(&table(), &Path::new(POD).join(place)).map(|path| path.display().to_string())
        };
        let volumes = format!("{POD}/volumes/kubernetes.io~empty-dir");
        assert_eq!(of("volume-subpaths/disk/app/0"), Some(format!("{volumes}/disk/a b/c")));
        assert_eq!(of("volume-subpaths/memory/app/1"), Some(format!("{volumes}/memory/x")));
        // Of another kind of volume, and not mounted.
        assert_eq!(of("volume-subpaths/secret/app/2"), None);
        assert_eq!(of("volume-subpaths/disk/app/3"), None);
    }

    #[test]
    fn a_specification_without_sub_paths_stays_as_it_is() {
        let text = json!({
            "ociVersion": "1.2.0",
            "mounts": [{ "destination": "/a", "source": format!("{POD}/volumes/kubernetes.io~empty-dir/disk") }],
        });
        let spec: Spec = serde_json::from_value(text).unwrap();
        let mut named = spec.clone();
        name_directories(&mut named);
        assert_eq!(named, spec);
    }
}
