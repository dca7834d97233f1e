//! What a host path is to a container, judged by the directories of kubelet and of the engines.
//!
//! A pod's manifest can name any path of the host (hostPath), and mount it anywhere. So a path is kubelet's or the engine's
//! only with this pod's own id in it, never by where it is mounted: ids are given when the pod is made, and no manifest can
//! know one before.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use crate::role::Owner;

/// Files that an engine makes for each pod, wherever it keeps them. The last one is CRI-O's, which has it for every pod
/// (`SetContainerEnvFile` of `internal/lib/sandbox`).
const ENGINE_FILES: [&str; 4] = ["/etc/resolv.conf", "/etc/hosts", "/etc/hostname", "/run/.containerenv"];

/// Files that CRI-O makes for a container: users and groups that its image has not (`GeneratePasswd` of `utils`), and the
/// time zone of CRI-O's configuration (`configureTimezone` of `server/container_create.go`).
const CRIO_FILES: [&str; 3] = ["/etc/passwd", "/etc/group", "/etc/localtime"];

/// A path below a pod's directory of kubelet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Volume<'a> {
    /// Files that kubelet writes and keeps current: configMap, secret, projected, downwardAPI.
    Written,
    /// An emptyDir of this name.
    EmptyDir(&'a str),
    /// A directory in an emptyDir (`subPath`).
    InEmptyDir {
        /// The volume's name in the pod.
        name: &'a str,
        /// The volume's own directory on the host.
        volume: PathBuf,
        /// The path below it.
        within: String,
    },
    /// One entry of a volume (`subPath`).
    SubPath {
        /// The volume's name in the pod.
        volume: &'a str,
        /// kubelet's directory of the pod's volumes.
        volumes: PathBuf,
    },
    /// The file a container leaves its last words in.
    TerminationLog,
    /// A volume of another plugin.
    Plugin {
        /// Such as `csi`.
        plugin: &'a str,
        /// The volume's name in the pod.
        name: &'a str,
    },
}

impl<'a> Volume<'a> {
    /// Recognises `.../pods/<pod uid>/<what>/...`, wherever kubelet's own directory is.
    pub(crate) fn of(path: &'a Path, owner: &Owner<'_>) -> Option<Self> {
        let parts = parts(path)?;
        let pods = parts.iter().enumerate().rev().find(|place| is_pods(&parts, *place, owner))?.0;
        match parts[pods + 1..] {
            [_, "volumes", plugin, name] => {
                let plugin = plugin.strip_prefix("kubernetes.io~")?;
                Some(match plugin {
                    "configmap" | "secret" | "projected" | "downward-api" => Self::Written,
                    "empty-dir" => Self::EmptyDir(name),
                    plugin => Self::Plugin { plugin, name },
                })
            }
            [_, "volumes", "kubernetes.io~empty-dir", name, ref within @ ..] => Some(Self::InEmptyDir {
                name,
                volume: parts[..pods + 5].iter().collect(),
                within: within.join("/"),
            }),
            [_, "volumes", plugin, name, "mount"] => {
                Some(Self::Plugin { plugin: plugin.strip_prefix("kubernetes.io~")?, name })
            }
            [_, "volume-subpaths", volume, _, _] => {
                let volumes = parts[..pods + 2].iter().collect::<PathBuf>().join("volumes");
                Some(Self::SubPath { volume, volumes })
            }
            [_, "containers", _, _] => Some(Self::TerminationLog),
            _ => None,
        }
    }
}

/// Whether the part at this place is kubelet's directory of all pods, followed by this one's: containers and volumes may be
/// called `pods` as well.
fn is_pods(parts: &[&str], (at, part): (usize, &&str), owner: &Owner<'_>) -> bool {
    let next = parts.get(at + 1);
    *part == "pods" && owner.pod.is_none_or(|pod| !pod.uid.is_empty() && next == Some(&pod.uid))
}

/// The directory that `path` is in: kubelet's or the engine's of this pod, or the engine's of this container. Files below it are
/// the pod's, as long as no link leads out of it. `None` for a container that is no pod's.
pub(crate) fn directory_of(path: &Path, owner: &Owner<'_>) -> Option<PathBuf> {
    let pod = owner.pod?;
    let parts = parts(path)?;
    let is_own = |(at, part): (usize, &&str)| match *part {
        "pods" => is_pods(&parts, (at, part), owner),
        "containers" => parts.get(at + 1) == Some(&owner.container),
        "sandboxes" => parts.get(at + 1) == Some(&pod.sandbox),
        "overlay-containers" => [pod.sandbox, owner.container].iter().any(|id| parts.get(at + 1) == Some(id)),
        _ => false,
    };
    let at = parts.iter().enumerate().rev().find(|place| is_own(*place))?.0;
    Some(parts[..at + 2].iter().collect())
}

/// A path's parts; `None` for one that goes up, or is not in UTF-8.
fn parts(path: &Path) -> Option<Vec<&str>> {
    if path.components().any(|part| part == Component::ParentDir) {
        return None;
    }
    path.iter().map(OsStr::to_str).collect()
}

/// Whether the engine, or kubelet, has made this file for this pod, to be mounted at `destination`.
pub(crate) fn is_engine_file(path: &Path, destination: &Path, owner: &Owner<'_>) -> bool {
    if !ENGINE_FILES.iter().any(|file| destination == Path::new(file)) {
        return false;
    }
    let Some(pod) = &owner.pod else { return true };
    let name = destination.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let is_kubelets = || match parts(path).as_deref() {
        Some([.., "pods", uid, "etc-hosts"]) => !uid.is_empty() && *uid == pod.uid && name == "hosts",
        _ => false,
    };
    is_sandboxs(path, name, pod.sandbox) || is_kubelets()
}

/// Whether CRI-O has made this for this container of a pod, to be mounted at `destination`: one of its files, or a copy of what
/// the node's `mounts.conf` names, which is below the container's directory as it is in the container (`pkg/subscriptions` of
/// containers/common). A container that is no pod's is not CRI-O's, and its id is whatever its maker calls it.
pub(crate) fn is_containers_own(path: &Path, destination: &Path, owner: &Owner<'_>) -> bool {
    let (Some(_), Some(path), Some(destination)) = (owner.pod, parts(path), destination.to_str()) else {
        return false;
    };
    let own = ["overlay-containers", owner.container, "userdata"];
    let Some(at) = path.windows(own.len()).rposition(|parts| parts == own) else { return false };
    match &path[at + own.len()..] {
        [name] if CRIO_FILES.contains(&destination) => destination.rsplit('/').next() == Some(name),
        [] => false,
        within => destination.strip_prefix('/') == Some(&within.join("/")),
    }
}

/// Whether this is the engine's shared memory of this pod.
pub(crate) fn is_shm(path: &Path, owner: &Owner<'_>) -> bool {
    owner.pod.is_none_or(|pod| is_sandboxs(path, "shm", pod.sandbox))
}

/// containerd (`internal/cri/server/helpers.go`) has `sandboxes/<id>/<name>`, CRI-O, with containers/storage,
/// `overlay-containers/<id>/userdata/<name>`.
fn is_sandboxs(path: &Path, name: &str, sandbox: &str) -> bool {
    let (id, last) = match parts(path).as_deref() {
        Some([.., "sandboxes", id, last] | [.., "overlay-containers", id, "userdata", last]) => (*id, *last),
        _ => return false,
    };
    !sandbox.is_empty() && id == sandbox && last == name
}

/// Letters of an id that an engine makes up.
const ID: usize = 64;

/// Whether the engine has made this directory for a `VOLUME` of the image of this container: containerd's
/// `containers/<id>/volumes/<random>`, CRI-O's `overlay-containers/<id>/userdata/mounts/<random>`; nerdctl's
/// `volumes/<namespace>/<random>/_data`, where a volume that a person has named is not the image's
/// (`pkg/mountutil/volumestore`, `pkg/idgen`).
pub(crate) fn is_image_volume(path: &Path, owner: &Owner<'_>) -> bool {
    match parts(path).as_deref() {
        Some(
            [.., "containers", id, "volumes", _] | [.., "overlay-containers", id, "userdata", "mounts", _],
        ) => *id == owner.container,
        Some([.., "volumes", _, name, "_data"]) => owner.pod.is_none() && is_made_up(name),
        _ => false,
    }
}

fn is_made_up(name: &str) -> bool {
    name.len() == ID && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::PodIds;

    const OWNER: Owner<'_> =
        Owner { container: "c0ffee", pod: Some(PodIds { uid: "8c5d", sandbox: "f00d" }) };
    const NOBODY: Owner<'_> = Owner { container: "c0ffee", pod: None };

    fn of(path: &str) -> Option<Volume<'_>> {
        Volume::of(Path::new(path), &OWNER)
    }

    #[test]
    fn kubelets_layout_is_recognised() {
        let pod = "/var/lib/kubelet/pods/8c5d";
        for plugin in ["configmap", "secret", "projected", "downward-api"] {
            let path = format!("{pod}/volumes/kubernetes.io~{plugin}/v");
            assert_eq!(of(&path), Some(Volume::Written), "{plugin}");
        }
        assert_eq!(
            of("/data/k/pods/8c5d/volumes/kubernetes.io~empty-dir/tmp"),
            Some(Volume::EmptyDir("tmp"))
        );
        assert_eq!(
            of("/var/lib/kubelet/pods/8c5d/volumes/kubernetes.io~empty-dir/tmp/mount/b"),
            Some(Volume::InEmptyDir {
                name: "tmp",
                volume: "/var/lib/kubelet/pods/8c5d/volumes/kubernetes.io~empty-dir/tmp".into(),
                within: "mount/b".to_owned(),
            })
        );
        assert_eq!(
            of("/var/lib/kubelet/pods/8c5d/volumes/kubernetes.io~csi/pvc-1/mount"),
            Some(Volume::Plugin { plugin: "csi", name: "pvc-1" })
        );
        assert_eq!(
            of("/var/lib/kubelet/pods/8c5d/volume-subpaths/cfg/app/0"),
            Some(Volume::SubPath { volume: "cfg", volumes: "/var/lib/kubelet/pods/8c5d/volumes".into() })
        );
        assert_eq!(of("/var/lib/kubelet/pods/8c5d/containers/app/1a2b"), Some(Volume::TerminationLog));
        // Names of kubelet's own directories are names that people may give.
        assert_eq!(of(&format!("{pod}/containers/pods/1a2b")), Some(Volume::TerminationLog));
        assert_eq!(of(&format!("{pod}/volumes/kubernetes.io~secret/pods")), Some(Volume::Written));
        assert_eq!(
            of(&format!("{pod}/volumes/kubernetes.io~empty-dir/pods")),
            Some(Volume::EmptyDir("pods"))
        );
        assert_eq!(
            of(&format!("{pod}/volumes/kubernetes.io~empty-dir/tmp/pods/x")),
            Some(Volume::InEmptyDir {
                name: "tmp",
                volume: format!("{pod}/volumes/kubernetes.io~empty-dir/tmp").into(),
                within: "pods/x".to_owned(),
            })
        );
        assert_eq!(
            of(&format!("{pod}/volume-subpaths/pods/pods/0")),
            Some(Volume::SubPath { volume: "pods", volumes: format!("{pod}/volumes").into() })
        );
        assert_eq!(
            of("/srv/pods/x/pods/8c5d/volumes/kubernetes.io~secret/containers"),
            Some(Volume::Written)
        );
    }

    #[test]
    fn lookalikes_are_not() {
        for path in [
            "/etc",
            "/var/lib/kubelet/pods/8c5d/etc-hosts",
            "/var/lib/kubelet/pods/8c5d/volumes/kubernetes.io~configmap",
            "/var/lib/kubelet/pods/8c5d/volumes/kubernetes.io~configmap/v/../../../../../../../etc",
            "/var/lib/kubelet/pods/8c5d/volumes/kubernetes.io~configmap/v/deeper",
            "/var/lib/kubelet/pods/8c5d/volumes/vendor~configmap/v",
            // Another pod's, and what somebody has named as if it were a pod's.
            "/var/lib/kubelet/pods/9e1f/volumes/kubernetes.io~secret/v",
            "/srv/pods/any/volumes/kubernetes.io~secret/v",
            "/var/lib/kubelet/pods/9e1f/containers/app/1a2b",
            "/var/lib/kubelet/pods//volumes/kubernetes.io~secret/v",
        ] {
            assert_eq!(of(path), None, "{path}");
        }
        // A pod whose UID nobody tells has no volumes.
        let unknown = Owner { pod: Some(PodIds { uid: "", sandbox: "" }), ..OWNER };
        let path = Path::new("/var/lib/kubelet/pods/8c5d/volumes/kubernetes.io~secret/v");
        assert_eq!(Volume::of(path, &unknown), None);
        assert_eq!(Volume::of(path, &NOBODY), Some(Volume::Written));
    }

    #[test]
    fn an_engines_files_are_those_of_this_sandbox_under_their_own_names() {
        let is =
            |path: &str, destination: &str| is_engine_file(Path::new(path), Path::new(destination), &OWNER);
        let containerd = "/var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes";
        let crio = "/run/containers/storage/overlay-containers";
        assert!(is(&format!("{containerd}/f00d/resolv.conf"), "/etc/resolv.conf"));
        assert!(is(&format!("{containerd}/f00d/hosts"), "/etc/hosts"));
        assert!(is(&format!("{crio}/f00d/userdata/hostname"), "/etc/hostname"));
        assert!(is("/var/lib/kubelet/pods/8c5d/etc-hosts", "/etc/hosts"));
        let storage = "/var/lib/containers/storage/overlay-containers";
        assert!(is(&format!("{storage}/f00d/userdata/.containerenv"), "/run/.containerenv"));
        for (path, destination) in [
            ("/etc/shadow", "/etc/hosts"),
            ("/etc/resolv.conf", "/etc/resolv.conf"),
            ("/var/lib/kubelet/pods/9e1f/etc-hosts", "/etc/hosts"),
            ("/var/lib/kubelet/pods/8c5d/etc-hosts", "/etc/hostname"),
            (&format!("{containerd}/beef/hosts"), "/etc/hosts"),
            (&format!("{containerd}/f00d/../../hosts"), "/etc/hosts"),
            (&format!("{containerd}/f00d/hosts"), "/etc/passwd"),
            (&format!("{containerd}/f00d/hosts"), "/etc/hostname"),
            (&format!("{crio}/f00d/hosts"), "/etc/hosts"),
            (&format!("{storage}/beef/userdata/.containerenv"), "/run/.containerenv"),
            (&format!("{storage}/f00d/userdata/config.json"), "/run/.containerenv"),
            ("/etc/shadow", "/run/.containerenv"),
        ] {
            assert!(!is(path, destination), "{path} {destination}");
        }
        assert!(is_engine_file(Path::new("/etc/hosts"), Path::new("/etc/hosts"), &NOBODY));
    }

    #[test]
    fn a_pods_directory_is_the_last_that_has_its_id() {
        let of = |path: &str| directory_of(Path::new(path), &OWNER);
        for (path, directory) in [
            ("/var/lib/kubelet/pods/8c5d/volumes/kubernetes.io~secret/v", "/var/lib/kubelet/pods/8c5d"),
            ("/var/lib/kubelet/pods/8c5d/etc-hosts", "/var/lib/kubelet/pods/8c5d"),
            ("/c/sandboxes/f00d/resolv.conf", "/c/sandboxes/f00d"),
            ("/c/overlay-containers/f00d/userdata/hostname", "/c/overlay-containers/f00d"),
            ("/c/overlay-containers/c0ffee/userdata/localtime", "/c/overlay-containers/c0ffee"),
            ("/pods/8c5d/x/pods/8c5d/volumes", "/pods/8c5d/x/pods/8c5d"),
            ("/var/lib/kubelet/pods/8c5d/containers/pods/1a2b", "/var/lib/kubelet/pods/8c5d"),
            ("/c/containers/c0ffee/volumes/5e1f", "/c/containers/c0ffee"),
        ] {
            assert_eq!(of(path).as_deref(), Some(Path::new(directory)), "{path}");
        }
        assert_eq!(of("/var/lib/kubelet/pods/9e1f/etc-hosts"), None);
        assert_eq!(of("/c/overlay-containers/beef/userdata/localtime"), None);
        assert_eq!(directory_of(Path::new("/var/lib/kubelet/pods/8c5d/x"), &NOBODY), None);
    }

    #[test]
    fn what_crio_makes_for_a_container_is_that_containers_under_its_own_name() {
        let is_of = |owner: &Owner<'_>, id: &str, file: &str, destination: &str| {
            let path = format!("/run/containers/storage/overlay-containers/{id}/userdata{file}");
            is_containers_own(Path::new(&path), Path::new(destination), owner)
        };
        let is = |id: &str, file: &str, destination: &str| is_of(&OWNER, id, file, destination);
        for (file, destination) in [
            ("/passwd", "/etc/passwd"),
            ("/group", "/etc/group"),
            ("/localtime", "/etc/localtime"),
            ("/run/secrets", "/run/secrets"),
            ("/etc/pki/entitlement", "/etc/pki/entitlement"),
        ] {
            assert!(is("c0ffee", file, destination), "{file}");
            assert!(!is_of(&NOBODY, "c0ffee", file, destination), "{file} of a container that is no pod's");
            for other in ["beef", "f00d", ""] {
                assert!(!is(other, file, destination), "{other} {file}");
            }
        }
        for (file, destination) in [
            ("/passwd", "/etc/group"),
            ("/passwd", "/etc/shadow"),
            ("/config.json", "/etc/passwd"),
            ("/run/secrets", "/secrets"),
            ("/run/../../../beef/userdata/passwd", "/etc/passwd"),
            ("", "/"),
            ("", ""),
        ] {
            assert!(!is("c0ffee", file, destination), "{file} {destination}");
        }
    }

    #[test]
    fn shared_memory_and_image_volumes_are_this_pods_and_this_containers() {
        let shm = |path: &str| is_shm(Path::new(path), &OWNER);
        assert!(shm("/run/containerd/io.containerd.grpc.v1.cri/sandboxes/f00d/shm"));
        assert!(shm("/var/run/containers/storage/overlay-containers/f00d/userdata/shm"));
        assert!(!shm("/srv/shm") && !shm("/run/containerd/io.containerd.grpc.v1.cri/sandboxes/beef/shm"));
        assert!(!shm("/dev/shm") && is_shm(Path::new("/srv/shm"), &NOBODY));
        let volume = |path: &str| is_image_volume(Path::new(path), &OWNER);
        assert!(volume("/var/lib/containerd/io.containerd.grpc.v1.cri/containers/c0ffee/volumes/5e1f"));
        assert!(volume("/run/containers/storage/overlay-containers/c0ffee/userdata/mounts/5e1f"));
        assert!(!volume("/var/lib/containerd/io.containerd.grpc.v1.cri/containers/beef/volumes/5e1f"));
        assert!(!volume("/srv/containers/c0ffee/volumes"));
        let nerdctls = format!("/var/lib/nerdctl/1935db59/volumes/default/{}/_data", "0f".repeat(32));
        assert!(is_image_volume(Path::new(&nerdctls), &NOBODY) && !volume(&nerdctls));
        let named = "/var/lib/nerdctl/1935db59/volumes/default/data/_data";
        assert!(!is_image_volume(Path::new(named), &NOBODY));
    }
}
