//! A container's mounts, as the shim carries them into the guest.

use std::collections::BTreeSet;

use pod_manifest::spec::{Container, Spec, Volume, VolumeMount};
use serde_json::{Value, json};

use crate::{ImageConfig, PolicyError};

/// Where a service account's token is mounted, under a volume's name that the cluster makes up.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Kubernetes' default.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// Names of what the host copies in for the pod: the last parts of the mounts' paths.
#[derive(Debug, Default)]
pub(crate) struct Copied {
    pub(crate) files: BTreeSet<String>,
    pub(crate) trees: BTreeSet<String>,
}

/// What is mounted into a container.
pub(crate) struct Mounts {
    /// Of the manifest; all of them must be there.
    pub(crate) required: Vec<Value>,
    /// By kubelet and containerd.
    pub(crate) optional: Vec<Value>,
}

/// The container's last words are here.
pub(crate) fn last_words(container: &Container) -> &str {
    container.termination_message_path.as_deref().filter(|path| !path.is_empty()).unwrap_or(TERMINATION_LOG)
}

/// Files that containerd makes for every container, the pause container too.
pub(crate) fn engine(copied: &mut Copied) -> Vec<Value> {
    let files = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];
    let mut mounts: Vec<Value> = files.into_iter().filter_map(|path| file(path, false, copied)).collect();
    mounts.push(mount("/dev/shm", &json!("shm"), false));
    mounts
}

pub(crate) fn mounts(
    container: &Container,
    spec: &Spec,
    image: Option<&ImageConfig>,
    copied: &mut Copied,
) -> Result<Mounts, PolicyError> {
    if !container.volume_devices.is_empty() {
        return Err(PolicyError::Mount {
            container: container.name.clone(),
            path: "volumeDevices".to_owned(),
            what: "a block device",
        });
    }
    let own = |path: &str| container.volume_mounts.iter().any(|mount| trim(&mount.mount_path) == trim(path));
    if let Some(path) = image.and_then(|image| image.volumes.iter().find(|path| !own(path))) {
        return Err(PolicyError::ImageVolume { container: container.name.clone(), path: path.clone() });
    }
    let mut required = Vec::new();
    for mount in &container.volume_mounts {
        required.push(volume_mount(container, spec, mount, copied)?);
    }
    let mut optional = engine(copied);
    optional.extend(file(last_words(container), false, copied));
    if spec.automount_service_account_token != Some(false) {
        optional.extend(tree(SERVICE_ACCOUNT, copied));
    }
    optional.retain(|mount| !own(mount["destination"].as_str().unwrap_or_default()));
    Ok(Mounts { required, optional })
}

fn volume_mount(
    container: &Container,
    spec: &Spec,
    of: &VolumeMount,
    copied: &mut Copied,
) -> Result<Value, PolicyError> {
    let path = trim(&of.mount_path);
    let wrong = |what| PolicyError::Mount { container: container.name.clone(), path: path.to_owned(), what };
    let unusable = || PolicyError::Volume {
        container: container.name.clone(),
        volume: of.name.clone(),
        path: path.to_owned(),
    };
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(wrong("a path that is not absolute and plain"));
    }
    if of.mount_propagation.as_deref().is_some_and(|mode| mode == "Bidirectional") {
        return Err(wrong("mountPropagation: Bidirectional"));
    }
    if of.sub_path_expr.as_deref().is_some_and(|text| !text.is_empty()) {
        return Err(wrong("a subPathExpr"));
    }
    let sub_path = of.sub_path.as_deref().is_some_and(|text| !text.is_empty());
    let volume = spec.volumes.iter().find(|volume| volume.name == of.name).ok_or_else(unusable)?;
    match kind(volume) {
        Some(Kind::Memory) if sub_path => Err(wrong("a subPath of an emptyDir")),
        Some(Kind::Memory) => {
            Ok(mount(path, &json!({ "empty_dir": of.name }), of.read_only.unwrap_or_default()))
        }
        // One file of it; kubelet mounts these volumes read-only in any case.
        Some(Kind::Written) if sub_path => file(path, true, copied).ok_or_else(unusable),
        Some(Kind::Written) => tree(path, copied).ok_or_else(unusable),
        None => Err(unusable()),
    }
}

enum Kind {
    /// kubelet writes its files.
    Written,
    /// An emptyDir, which is in the guest's memory.
    Memory,
}

fn kind(volume: &Volume) -> Option<Kind> {
    if let Some(dir) = &volume.empty_dir {
        return matches!(dir.medium.as_deref(), None | Some("" | "Memory")).then_some(Kind::Memory);
    }
    let written = [volume.config_map, volume.secret, volume.projected, volume.downward_api];
    written.iter().any(Option::is_some).then_some(Kind::Written)
}

fn file(path: &str, read_only: bool, copied: &mut Copied) -> Option<Value> {
    let name = last_part(path)?;
    copied.files.insert(name.to_owned());
    Some(mount(path, &json!({ "copy": name }), read_only))
}

fn tree(path: &str, copied: &mut Copied) -> Option<Value> {
    let name = last_part(path)?;
    copied.trees.insert(name.to_owned());
    Some(mount(path, &json!({ "copy": name }), true))
}

fn mount(path: &str, source: &Value, read_only: bool) -> Value {
    json!({ "destination": path, "source": source, "read_only": read_only })
}

/// containerd cleans a path as Go does.
fn trim(path: &str) -> &str {
    path.trim_end_matches('/')
}

fn last_part(path: &str) -> Option<&str> {
    path.rsplit('/').next().filter(|name| !name.is_empty())
}
