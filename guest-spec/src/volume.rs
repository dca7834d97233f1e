//! What kind of volume a host path is, judged by kubelet's directory layout.

use std::ffi::OsStr;
use std::path::{Component, Path};

/// A path below a pod's directory of kubelet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Volume<'a> {
    /// Files that kubelet writes and keeps current: configMap, secret, projected, downwardAPI.
    Written,
    /// An emptyDir of this name.
    EmptyDir(&'a str),
    /// One entry of a volume (`subPath`), whose type cannot be told.
    SubPath,
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
    pub(crate) fn of(path: &'a Path) -> Option<Self> {
        if path.components().any(|part| part == Component::ParentDir) {
            return None;
        }
        let parts: Option<Vec<&str>> = path.iter().map(OsStr::to_str).collect();
        let parts = parts?;
        let pods = parts.iter().rposition(|part| *part == "pods")?;
        match parts[pods + 1..] {
            [_, "volumes", plugin, name] => {
                let plugin = plugin.strip_prefix("kubernetes.io~")?;
                Some(match plugin {
                    "configmap" | "secret" | "projected" | "downward-api" => Self::Written,
                    "empty-dir" => Self::EmptyDir(name),
                    plugin => Self::Plugin { plugin, name },
                })
            }
            [_, "volumes", plugin, name, "mount"] => {
                Some(Self::Plugin { plugin: plugin.strip_prefix("kubernetes.io~")?, name })
            }
            [_, "volume-subpaths", _, _, _] => Some(Self::SubPath),
            [_, "containers", _, _] => Some(Self::TerminationLog),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> Option<Volume<'_>> {
        Volume::of(Path::new(path))
    }

    #[test]
    fn kubelets_layout_is_recognised() {
        let pod = "/var/lib/kubelet/pods/8c5d";
        for plugin in ["configmap", "secret", "projected", "downward-api"] {
            let path = format!("{pod}/volumes/kubernetes.io~{plugin}/v");
            assert_eq!(of(&path), Some(Volume::Written), "{plugin}");
        }
        assert_eq!(of("/data/k/pods/u/volumes/kubernetes.io~empty-dir/tmp"), Some(Volume::EmptyDir("tmp")));
        assert_eq!(
            of("/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/pvc-1/mount"),
            Some(Volume::Plugin { plugin: "csi", name: "pvc-1" })
        );
        assert_eq!(of("/var/lib/kubelet/pods/u/volume-subpaths/cfg/app/0"), Some(Volume::SubPath));
        assert_eq!(of("/var/lib/kubelet/pods/u/containers/app/1a2b"), Some(Volume::TerminationLog));
    }

    #[test]
    fn lookalikes_are_not() {
        for path in [
            "/etc",
            "/var/lib/kubelet/pods/u/etc-hosts",
            "/var/lib/kubelet/pods/u/volumes/kubernetes.io~configmap",
            "/var/lib/kubelet/pods/u/volumes/kubernetes.io~configmap/v/../../../../../../../etc",
            "/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/v/deeper",
            "/var/lib/kubelet/pods/u/volumes/vendor~configmap/v",
        ] {
            assert_eq!(of(path), None, "{path}");
        }
    }
}
