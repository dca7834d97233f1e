//! Model volumes: images on disks of their own, mounted like layers, and bound read-only to where a container wants them.

use std::path::{Path, PathBuf};

use agent_client::proto::agent::Storage;
use agent_client::proto::oci;
use verity::RootHash;

use crate::paths;
use crate::translate::GuestContainer;

/// A model volume of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelMount {
    /// Where the container has it.
    pub destination: PathBuf,
    /// Of the image that is mounted there.
    pub root: RootHash,
    /// Options of the engine's mount; none for a device.
    pub options: Vec<String>,
}

/// What the agent mounts for a container's layer or volume with this root hash.
pub(crate) fn storage(container: &str, root: &RootHash) -> Storage {
    Storage {
        driver: "blk".to_string(),
        source: paths::mapping(root),
        fstype: "erofs".to_string(),
        options: ["ro", "nodev"].map(str::to_string).to_vec(),
        mount_point: paths::layer(container, root),
        ..Default::default()
    }
}

impl GuestContainer {
    /// Gives the container, whose id this is, its model volumes.
    pub fn mount_models(&mut self, container: &str, models: &[ModelMount]) {
        for model in models {
            let storage = storage(container, &model.root);
            if !self.storages.iter().any(|known| known.source == storage.source) {
                self.storages.push(storage);
            }
            // What is mounted below it comes after it.
            let is_below = |mount: &oci::Mount| Path::new(&mount.destination).starts_with(&model.destination);
            let place = self.oci.Mounts.iter().position(is_below).unwrap_or(self.oci.Mounts.len());
            self.oci.Mounts.insert(place, mount(container, model));
        }
    }
}

fn mount(container: &str, model: &ModelMount) -> oci::Mount {
    let bind = |option: &String| option == "bind" || option == "rbind";
    let mut options: Vec<String> =
        model.options.iter().filter(|option| !matches!(option.as_str(), "ro" | "rw")).cloned().collect();
    if !options.iter().any(bind) {
        options.extend(["rbind", "rprivate"].map(str::to_string));
    }
    options.push("ro".to_string());
    oci::Mount {
        destination: model.destination.display().to_string(),
        source: paths::layer(container, &model.root),
        type_: "bind".to_string(),
        options,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::Spec;

    use super::*;
    use crate::{GuestRootfs, SandboxFacts, VolumeJudge, translate};

    fn root(digit: &str) -> RootHash {
        digit.repeat(64).parse().unwrap()
    }

    fn container(models: &[ModelMount]) -> GuestContainer {
        let json = r#"{"ociVersion": "1.2.0", "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"},
            "mounts": [{"destination": "/proc", "type": "proc"}, {"destination": "/models/cache", "type": "tmpfs"}],
            "linux": {"namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "network"}, {"type": "uts"}]}}"#;
        let spec: Spec = serde_json::from_str(json).unwrap();
        let rootfs = GuestRootfs::Layers(vec![root("1")]);
        let sandbox = SandboxFacts {
            namespace: "default",
            seccomp: true,
            scratch: false,
            volumes: VolumeJudge::Engine,
        };
        let mut guest = translate("c1", &spec, &sandbox, &rootfs, &|_| None).unwrap();
        guest.mount_models("c1", models);
        guest
    }

    fn model(destination: &str, digit: &str, options: &[&str]) -> ModelMount {
        let options = options.iter().map(ToString::to_string).collect();
        ModelMount { destination: destination.into(), root: root(digit), options }
    }

    #[test]
    fn a_model_is_a_storage_by_its_root_hash_and_a_read_only_mount_above_what_is_below_it() {
        let guest = container(&[model("/models", "2", &[]), model("/w", "2", &["rbind", "rslave", "rw"])]);
        let storages: Vec<_> = guest.storages.iter().map(|storage| storage.source.as_str()).collect();
        let mapper = |digit: &str| format!("/dev/mapper/{}", digit.repeat(64));
        assert_eq!(storages, [mapper("1").as_str(), "overlay", &mapper("2")]);
        let mounts: Vec<_> = guest.oci.Mounts.iter().map(|mount| mount.destination.as_str()).collect();
        assert_eq!(mounts, ["/proc", "/models", "/models/cache", "/w"]);
        let [_, models, _, w] = &guest.oci.Mounts[..] else { panic!("{mounts:?}") };
        assert_eq!(models.source, guest.storages[2].mount_point);
        assert!(models.source.ends_with(&"2".repeat(10)));
        assert_eq!(models.options, ["rbind", "rprivate", "ro"]);
        assert_eq!(w.options, ["rbind", "rslave", "ro"]);
    }

    #[test]
    fn one_that_is_a_layer_of_the_image_as_well_is_mounted_once() {
        let guest = container(&[model("/models", "1", &[])]);
        assert_eq!(guest.storages.len(), 2);
        assert_eq!(guest.oci.Mounts.len(), 3);
    }
}
