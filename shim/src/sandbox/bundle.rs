//! A container's bundle: the OCI spec in it, and what of it decides the VM.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use host_claims::files;
use nix::sys::statvfs::statvfs;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use vmm_config::request::OciLimits;

use crate::api::{Error, Result};
use crate::bootstrap::MAX_SPEC;

/// Reads the OCI spec of a bundle.
///
/// # Errors
/// It is missing, too large, or no OCI spec.
pub fn read_spec(bundle: &Path) -> Result<Spec> {
    let path = bundle.join("config.json");
    let what = || format!("read the OCI spec {}", path.display());
    let text = files::read(&path, MAX_SPEC).map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => Error::InvalidRequest {
            field: "bundle",
            reason: format!("{} is larger than {MAX_SPEC} bytes", path.display()),
        },
        _ => Error::failed(what(), error),
    })?;
    serde_json::from_slice(&text).map_err(|error| Error::InvalidRequest {
        field: "bundle",
        reason: format!("{} is not an OCI runtime spec: {error}", path.display()),
    })
}

/// The limits of a container, as the sizing of a VM takes them.
pub fn limits(spec: &Spec) -> OciLimits {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let cpu = resources.and_then(|resources| resources.cpu().as_ref());
    let memory = resources.and_then(|resources| resources.memory().as_ref());
    OciLimits {
        cpu_quota: cpu.and_then(|cpu| cpu.quota()),
        cpu_period: cpu.and_then(|cpu| cpu.period()),
        cpu_shares: None,
        memory_limit: memory.and_then(|memory| memory.limit()),
    }
}

/// The network namespace that CNI made for the pod. `None` where the spec asks for a new one, which nobody has
/// configured, or for the host's.
pub fn netns(spec: &Spec) -> Option<PathBuf> {
    spec.linux()
        .as_ref()?
        .namespaces()
        .as_ref()?
        .iter()
        .find(|namespace| namespace.typ() == LinuxNamespaceType::Network)?
        .path()
        .clone()
        .filter(|path| !path.as_os_str().is_empty())
}

/// The cgroup that the engine wants the container in.
pub fn cgroup(spec: &Spec) -> Option<String> {
    let path = spec.linux().as_ref()?.cgroups_path().as_ref()?.to_str()?;
    (!path.is_empty()).then(|| path.to_owned())
}

/// The host's device nodes that the engine gives the container.
pub fn devices(spec: &Spec) -> Vec<PathBuf> {
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_ref());
    devices.into_iter().flatten().map(|device| device.path().clone()).collect()
}

/// Size in bytes of the `/dev/shm` that the pod's containers share: the one that the engine made on the host for
/// them, else the 64 MiB that every engine gives.
pub fn shm_size(spec: &Spec) -> u64 {
    const USUAL: u64 = 64 << 20;
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let source = mounts
        .iter()
        .find(|mount| mount.destination() == Path::new("/dev/shm") && mount.typ().as_deref() == Some("bind"))
        .and_then(|mount| mount.source().as_ref());
    source.and_then(|path| size_of(path).ok()).filter(|size| *size > 0).unwrap_or(USUAL)
}

/// Leaves the file by which CRI-O knows that a container ran out of memory (`updateContainerStatus`,
/// `internal/oci/runtime_vm.go`).
///
/// # Errors
/// It cannot be made.
pub fn note_oom(bundle: &Path) -> io::Result<()> {
    match File::create_new(bundle.join("oom")) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Where the root file system is: `root.path`, which a relative one takes from the bundle; `rootfs` where there is none.
pub fn root(bundle: &Path, spec: &Spec) -> PathBuf {
    match spec.root() {
        Some(root) => bundle.join(root.path()),
        None => bundle.join("rootfs"),
    }
}

fn size_of(path: &Path) -> io::Result<u64> {
    let stat = statvfs(path)?;
    Ok(stat.blocks().saturating_mul(stat.fragment_size()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(value: serde_json::Value) -> Spec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_malformed_spec_is_named() {
        let bundle = tempfile::tempdir().unwrap();
        let error = read_spec(bundle.path()).unwrap_err();
        assert!(crate::api::one_line(&error).contains("config.json: No such file"), "{error}");
        std::fs::write(bundle.path().join("config.json"), "{\"ociVersion\": 7}").unwrap();
        let text = read_spec(bundle.path()).unwrap_err().to_string();
        assert!(text.contains("is not an OCI runtime spec"), "{text}");
    }

    #[test]
    fn that_memory_ran_out_is_noted_once() {
        let bundle = tempfile::tempdir().unwrap();
        note_oom(bundle.path()).unwrap();
        note_oom(bundle.path()).unwrap();
        assert!(bundle.path().join("oom").is_file());
        assert!(note_oom(&bundle.path().join("gone")).is_err());
    }

    #[test]
    fn an_endless_spec_is_refused() {
        let bundle = tempfile::tempdir().unwrap();
        let file = File::create(bundle.path().join("config.json")).unwrap();
        file.set_len(MAX_SPEC + 1).unwrap();
        assert!(read_spec(bundle.path()).unwrap_err().to_string().contains("larger than"));
    }

    #[test]
    fn what_decides_the_vm_is_found() {
        let spec = spec(json!({
            "ociVersion": "1.1.0",
            "linux": {
                "cgroupsPath": "/kubepods/pod1/c1",
                "resources": { "cpu": { "quota": 200_000, "period": 100_000 }, "memory": { "limit": 1 << 30 } },
                "namespaces": [{ "type": "pid" }, { "type": "network", "path": "/run/netns/cni-1" }],
            },
        }));
        assert_eq!(netns(&spec), Some("/run/netns/cni-1".into()));
        assert_eq!(cgroup(&spec).as_deref(), Some("/kubepods/pod1/c1"));
        let limits = limits(&spec);
        assert_eq!((limits.cpu_quota, limits.memory_limit), (Some(200_000), Some(1 << 30)));
        assert_eq!(shm_size(&spec), 64 << 20);
    }

    #[test]
    fn a_root_is_relative_to_its_bundle_unless_it_is_absolute() {
        let root =
            |path| root(Path::new("/b"), &spec(json!({ "ociVersion": "1.1.0", "root": { "path": path } })));
        assert_eq!(root("image"), Path::new("/b/image"));
        assert_eq!(root("/srv/image"), Path::new("/srv/image"));
    }

    #[test]
    fn a_new_network_namespace_is_no_network() {
        let spec = spec(json!({ "ociVersion": "1.1.0", "linux": { "namespaces": [{ "type": "network" }] } }));
        assert_eq!(netns(&spec), None);
        assert_eq!(cgroup(&spec), None);
    }
}
