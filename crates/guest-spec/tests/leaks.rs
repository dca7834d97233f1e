//! No path of the host reaches the guest.

#![allow(clippy::unwrap_used, reason = "the helpers are test code too")]

use std::path::Path;

use guest_spec::{FileKind, GuestRootfs, HostFile, SandboxFacts, VolumeJudge, translate};
use oci_spec::runtime::Spec;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Stands for the bundle, kubelet's directory and everything else of the host.
const HOST: &str = "/host-secret";

fn host_path() -> impl Strategy<Value = String> {
    let volumes = prop_oneof![
        Just("pods/u/volumes/kubernetes.io~configmap"),
        Just("pods/u/volumes/kubernetes.io~secret"),
        Just("pods/u/volumes/kubernetes.io~projected"),
        Just("pods/u/volumes/kubernetes.io~empty-dir"),
        Just("pods/u/volumes/kubernetes.io~csi"),
        Just("pods/u/containers/web"),
        Just("pods/u/volume-subpaths/v/web"),
        Just("sandboxes"),
    ];
    (volumes, "[a-z]{1,8}").prop_map(|(dir, name)| format!("{HOST}/{dir}/{name}"))
}

fn mount() -> impl Strategy<Value = Value> {
    let destination = prop_oneof![
        Just("/etc/hosts".to_string()),
        Just("/dev/shm".to_string()),
        Just("/dev/termination-log".to_string()),
        "/[a-z]{1,8}",
    ];
    let typ = prop_oneof![Just("bind"), Just("tmpfs"), Just("proc"), Just("cgroup"), Just("overlay")];
    (host_path(), destination, typ, any::<bool>()).prop_map(|(source, destination, typ, read_only)| {
        let mode = if read_only { "ro" } else { "rw" };
        json!({"source": source, "destination": destination, "type": typ, "options": ["rbind", mode]})
    })
}

fn spec() -> impl Strategy<Value = Value> {
    let namespace =
        prop_oneof![Just("pid"), Just("ipc"), Just("uts"), Just("network"), Just("cgroup"), Just("user")];
    let namespaces = proptest::collection::vec(
        (namespace, host_path()).prop_map(|(typ, path)| json!({"type": typ, "path": path})),
        0..4,
    );
    let devices = proptest::collection::vec(
        host_path().prop_map(|path| json!({"path": path, "type": "c", "major": 9, "minor": 1})),
        0..3,
    );
    (proptest::collection::vec(mount(), 0..3), namespaces, devices, host_path()).prop_map(
        |(mounts, mut namespaces, devices, path)| {
            // Without these it is refused: see `linux.rs`.
            namespaces.extend(["pid", "ipc", "network"].map(|typ| json!({"type": typ})));
            json!({
                "ociVersion": "1.2.1",
                "process": {"user": {"uid": 0, "gid": 0}, "args": ["x"], "cwd": "/", "apparmorProfile": path},
                "root": {"path": path},
                "hooks": {"prestart": [{"path": path}], "startContainer": [{"path": path}]},
                "mounts": mounts,
                "annotations": {"cdi.k8s.io/x": path},
                "linux": {
                    "cgroupsPath": path,
                    "namespaces": namespaces,
                    "devices": devices,
                    "resources": {"devices": [{"allow": true, "access": "rwm"}]},
                    "mountLabel": path,
                    "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path}
                }
            })
        },
    )
}

fn stat(path: &Path) -> Option<HostFile> {
    let kind =
        if path.to_string_lossy().contains("/volumes/") { FileKind::Directory } else { FileKind::File };
    Some(HostFile { kind, gid: 0, mode: 0o777, medium: None, empty: None })
}

proptest! {
    #[test]
    fn the_guest_sees_no_host_path(json in spec()) {
        let spec: Spec = serde_json::from_value(json).unwrap();
        let rootfs = GuestRootfs::Layers(vec!["0".repeat(64).parse().unwrap()]);
        let sandbox = SandboxFacts { namespace: "k8s.io", seccomp: true, scratch: false, volumes: VolumeJudge::Engine };
        if let Ok(guest) = translate("c1", &spec, &sandbox, &rootfs, &stat) {
            let request = format!("{:?}", guest.clone().into_request("c1"));
            prop_assert!(!request.contains(HOST), "{request}");
            for copy in guest.copies {
                prop_assert!(copy.guest.starts_with("/run/kata-containers/shared/containers/c1-"));
            }
        }
    }
}
