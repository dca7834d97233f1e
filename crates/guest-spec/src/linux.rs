//! The Linux part: namespaces, devices, paths, and what they confine.

use std::path::Path;

use agent_client::proto::oci;
use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxDeviceType, LinuxMemory, LinuxNamespaceType, LinuxResources,
};

use crate::error::SpecError;
use crate::paths;
use crate::resources::{device_type, resources};
use crate::role::Owner;
use crate::seccomp::seccomp;
use crate::translate::SandboxFacts;

/// Device nodes the agent makes for every container; they mean the same in the guest. It is asked for none of them: it
/// would make that one twice, and the second time it is there (kata-agent 4.1.0, rustjail's `create_devices`).
const STANDARD_DEVICES: [&str; 6] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

/// The translated part, and what CreateContainer says beside the spec.
pub(crate) struct GuestLinux {
    pub(crate) linux: oci::Linux,
    /// The container joins the PID namespace of the sandbox.
    pub(crate) sandbox_pidns: bool,
}

pub(crate) fn linux(
    owner: Owner<'_>,
    from: &Linux,
    sandbox: &SandboxFacts<'_>,
    notes: &mut Vec<String>,
) -> Result<GuestLinux, SpecError> {
    let container = owner.container;
    own_namespaces(owner, from)?;
    if let Some(limits) = from.resources() {
        check_limits(container, limits)?;
    }
    let host_only = [
        (from.intel_rdt().is_some(), "intelRdt", "cache classes are the host's"),
        (from.mount_label().is_some(), "mountLabel", "labels are the host's"),
        (
            from.uid_mappings().is_some() || from.gid_mappings().is_some(),
            "id mappings",
            "the VM isolates users",
        ),
        (from.net_devices().as_ref().is_some_and(|d| !d.is_empty()), "netDevices", "the host's interfaces"),
        (from.memory_policy().is_some(), "memoryPolicy", "the host's NUMA nodes"),
        (from.personality().is_some(), "personality", "not in the agent's contract"),
        (
            from.time_offsets().as_ref().is_some_and(|t| !t.is_empty()),
            "timeOffsets",
            "not in the agent's contract",
        ),
    ];
    notes.extend(
        host_only
            .into_iter()
            .filter(|(present, ..)| *present)
            .map(|(_, what, why)| format!("linux.{what} left out: {why}")),
    );
    if from.seccomp().is_some() && !sandbox.seccomp {
        notes.push("linux.seccomp left out: the guest's agent is built without it".to_string());
    }

    let namespaces = namespaces(from, notes);
    let dropped: Vec<&LinuxDevice> =
        from.devices().iter().flatten().filter(|device| !is_standard(device)).collect();
    let all_are_asked_for = from.resources().as_ref().is_some_and(allows_every_device);
    if let Some(device) = dropped.iter().find(|device| !all_are_asked_for && !is_vfio(device)) {
        return Err(SpecError::Device { container: container.to_string(), device: device.path().clone() });
    }
    // GPUs are given in the guest's names, and a privileged container means the guest's devices.
    notes.extend(dropped.iter().map(|device| {
        format!("device {} left out: the host's nodes mean nothing in the VM", device.path().display())
    }));
    let limits = from.resources().as_ref().map(|from| {
        let mut limits = resources(from, notes);
        limits.Devices.retain(|rule| !dropped.iter().any(|device| is_rule_for(rule, device)));
        limits
    });

    let linux = oci::Linux {
        Sysctl: from.sysctl().clone().unwrap_or_default(),
        Resources: limits.into(),
        // A plain path, never systemd's `slice:prefix:name`: nobody runs systemd in the guest.
        CgroupsPath: paths::cgroup(sandbox.namespace, container),
        Namespaces: namespaces.kept,
        Seccomp: from
            .seccomp()
            .as_ref()
            .filter(|_| sandbox.seccomp)
            .map(|filter| seccomp(filter, notes))
            .into(),
        RootfsPropagation: from.rootfs_propagation().clone().unwrap_or_default(),
        MaskedPaths: from.masked_paths().clone().unwrap_or_default(),
        ReadonlyPaths: from.readonly_paths().clone().unwrap_or_default(),
        ..Default::default()
    };
    Ok(GuestLinux { linux, sandbox_pidns: namespaces.sandbox_pidns })
}

/// What is not in the list is the host's. containerd and CRI-O leave out what the pod's manifest asks to share with it.
///
/// The paths of a pod's containers are the pod's: the engine's. Who makes a container that is no pod's names one to see
/// somebody else's: the host's, or another container's, which is in another VM. The network's is CNI's, and then a file of its
/// own; below `/proc` it is a process's.
pub(crate) fn own_namespaces(owner: Owner<'_>, from: &Linux) -> Result<(), SpecError> {
    use LinuxNamespaceType::{Ipc, Network, Pid, Uts};
    let container = || owner.container.to_string();
    let wanted = [
        (Network, "network", "hostNetwork"),
        (Pid, "PID", "hostPID"),
        (Ipc, "IPC", "hostIPC"),
        // A pod's is the network's.
        (Uts, "UTS", "`--uts=host`"),
    ];
    let own = if owner.pod.is_none() { &wanted[..] } else { &wanted[..3] };
    let all = || from.namespaces().iter().flatten();
    let missing = own.iter().find(|(typ, ..)| !all().any(|namespace| namespace.typ() == *typ));
    if let Some((_, namespace, field)) = missing {
        return Err(SpecError::HostNamespace { container: container(), namespace, field });
    }
    let joined = all().filter(|_| owner.pod.is_none()).find_map(|namespace| {
        let path = namespace.path().as_deref().filter(|path| *path != Path::new(""))?;
        (namespace.typ() != Network || path.starts_with("/proc")).then_some((namespace.typ(), path))
    });
    match joined {
        None => Ok(()),
        Some((typ, path)) => {
            let namespace = name_of(typ);
            Err(SpecError::JoinedNamespace { container: container(), namespace, path: path.to_path_buf() })
        }
    }
}

/// Bytes; below, not even the agent's own child that becomes the process fits in, and dies without a word.
const LEAST_MEMORY: i64 = 1 << 20;

/// Whether a container in a VM can have these limits, when it is made and later.
///
/// # Errors
/// [`SpecError::HugePages`], [`SpecError::Memory`].
pub fn check_limits(container: &str, limits: &LinuxResources) -> Result<(), SpecError> {
    // kubelet names every size that the host has, with zero where none is asked for.
    let huge = limits.hugepage_limits().iter().flatten().find(|limit| limit.limit() > 0);
    if let Some(huge) = huge {
        return Err(SpecError::HugePages {
            container: container.to_string(),
            size: huge.page_size().clone(),
            limit: huge.limit(),
        });
    }
    match limits.memory().as_ref().and_then(LinuxMemory::limit) {
        Some(limit) if (1..LEAST_MEMORY).contains(&limit) => {
            Err(SpecError::Memory { container: container.to_string(), limit, least: LEAST_MEMORY })
        }
        _ => Ok(()),
    }
}

/// A privileged container's rule: all devices, whatever they are.
fn allows_every_device(limits: &LinuxResources) -> bool {
    limits.devices().iter().flatten().any(|rule| {
        let every = rule.typ().is_none_or(|typ| typ == LinuxDeviceType::A);
        rule.allow() && every && rule.major().is_none_or(|major| major < 0)
    })
}

/// A GPU's node, which is given in another way.
fn is_vfio(device: &LinuxDevice) -> bool {
    device.path().starts_with("/dev/vfio")
}

struct Namespaces {
    kept: Vec<oci::LinuxNamespace>,
    sandbox_pidns: bool,
}

/// Keeps the types that exist per container, without the host's paths. The agent adds the PID namespace by itself,
/// the network's is the VM's, and the mount namespace has to be there for masked paths. So has the cgroup namespace:
/// engines on hosts with cgroup v1 leave it out, and the guest always has v2, where a container must not see the others.
fn namespaces(from: &Linux, notes: &mut Vec<String>) -> Namespaces {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, Time, User, Uts};
    let mut found = Namespaces { kept: vec![namespace(Mount), namespace(Cgroup)], sandbox_pidns: false };
    for ns in from.namespaces().iter().flatten() {
        match ns.typ() {
            Pid => {
                found.sandbox_pidns = ns.path().as_ref().is_some_and(|path| path != Path::new(""));
            }
            Mount | Cgroup | Network => {}
            Time | User => notes.push(format!("{} namespace left out: the VM has its own", ns.typ())),
            kept @ (Ipc | Uts) => found.kept.push(namespace(kept)),
        }
    }
    found
}

/// Under the names of the OCI runtime specification; oci-spec's own `Display` has the kernel's short ones.
fn namespace(typ: LinuxNamespaceType) -> oci::LinuxNamespace {
    oci::LinuxNamespace { Type: name_of(typ).to_owned(), ..Default::default() }
}

const fn name_of(typ: LinuxNamespaceType) -> &'static str {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, Time, User, Uts};
    match typ {
        Mount => "mount",
        Cgroup => "cgroup",
        Uts => "uts",
        Ipc => "ipc",
        User => "user",
        Pid => "pid",
        Network => "network",
        Time => "time",
    }
}

fn is_standard(device: &LinuxDevice) -> bool {
    STANDARD_DEVICES.iter().any(|path| device.path() == Path::new(path))
}

/// Whether a cgroup rule names exactly this device; wildcards have a number of zero or less.
fn is_rule_for(rule: &oci::LinuxDeviceCgroup, device: &LinuxDevice) -> bool {
    let typ = if device.typ() == LinuxDeviceType::U { "c" } else { device_type(device.typ()) };
    rule.Major > 0 && rule.Type == typ && (rule.Major, rule.Minor) == (device.major(), device.minor())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::VolumeJudge;
    use crate::role::PodIds;

    fn translated(json: &str) -> (GuestLinux, Vec<String>) {
        let mut notes = Vec::new();
        (of(json, &mut notes).unwrap(), notes)
    }

    /// With the namespaces that every container has, where the text names none.
    fn of(json: &str, notes: &mut Vec<String>) -> Result<GuestLinux, SpecError> {
        let mut json: serde_json::Value = serde_json::from_str(json).unwrap();
        let own = json!([{"type": "pid"}, {"type": "ipc"}, {"type": "network"}]);
        json.as_object_mut().unwrap().entry("namespaces").or_insert(own);
        let sandbox =
            SandboxFacts { namespace: "k8s.io", seccomp: true, scratch: false, volumes: VolumeJudge::Engine };
        linux(OWNER, &serde_json::from_value(json).unwrap(), &sandbox, notes)
    }

    const OWNER: Owner<'_> = Owner { container: "c1", pod: Some(PodIds { uid: "8c5d", sandbox: "f00d" }) };

    fn refused(json: &str) -> String {
        of(json, &mut Vec::new()).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_shared_with_the_host_is_refused_by_the_pods_own_word() {
        let all = ["pid", "ipc", "network", "uts", "mount"];
        for (left_out, field) in [("pid", "hostPID"), ("ipc", "hostIPC"), ("network", "hostNetwork")] {
            let namespaces: Vec<_> =
                all.iter().filter(|typ| **typ != left_out).map(|typ| json!({"type": typ})).collect();
            let error = refused(&json!({"namespaces": namespaces}).to_string());
            assert!(error.contains(field), "{error}");
        }
        let single = Owner { container: "c1", pod: None };
        let of = |left_out: &str, joined: &str, path: &str| {
            let namespace = |typ: &&str| match *typ == joined {
                true => json!({"type": typ, "path": path}),
                false => json!({"type": typ}),
            };
            let namespaces: Vec<_> = all.iter().filter(|typ| **typ != left_out).map(namespace).collect();
            let from: Linux = serde_json::from_value(json!({ "namespaces": namespaces })).unwrap();
            own_namespaces(single, &from).map_err(|error| error.to_string())
        };
        // `ctr run --with-ns`, `nerdctl run --pid container:X`, `--net container:X`, `--uts host`.
        for (joined, path) in [
            ("pid", "/proc/1/ns/pid"),
            ("ipc", "/proc/4711/ns/ipc"),
            ("uts", "/run/ns/uts"),
            ("mount", "/proc/1/ns/mnt"),
            ("network", "/proc/1/ns/net"),
            ("network", "/proc/4711/ns/net"),
        ] {
            let error = of("", joined, path).unwrap_err();
            assert!(error.contains(joined) && error.contains(path), "{error}");
        }
        assert!(of("uts", "", "").unwrap_err().contains("--uts=host"));
        for (joined, path) in [("", ""), ("pid", ""), ("network", ""), ("network", "/run/netns/x")] {
            assert_eq!(of("", joined, path), Ok(()), "{joined} {path}");
        }
    }

    #[test]
    fn limits_that_cannot_be_are_refused_with_their_numbers() {
        let error = refused(r#"{"resources": {"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]}}"#);
        assert!(error.contains("4194304 bytes of huge pages of 2MB"), "{error}");
        let none = r#"{"resources": {"hugepageLimits": [{"pageSize": "2MB", "limit": 0}], "memory": {"limit": -1}}}"#;
        translated(none);
        let error = refused(r#"{"resources": {"memory": {"limit": 100}}}"#);
        assert!(error.contains("100 bytes") && error.contains("1048576"), "{error}");
    }

    #[test]
    fn a_device_that_is_asked_for_is_carried_or_refused_by_name() {
        let device = |path: &str| json!({"path": path, "type": "c", "major": 10, "minor": 229});
        let only = json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 229}]);
        let every = json!([{"allow": true, "access": "rwm"}]);
        let with = |path, rules: &serde_json::Value| {
            json!({"devices": [device(path)], "resources": {"devices": rules}}).to_string()
        };
        assert!(refused(&with("/dev/fuse", &only)).contains("device /dev/fuse"));
        assert!(refused(&with("/dev/sdb", &only)).contains("device /dev/sdb"));
        // Given by the GPUs' own way; and a privileged container, which gets the guest's.
        assert_eq!(translated(&with("/dev/vfio/devices/vfio0", &only)).1.len(), 1);
        assert_eq!(translated(&with("/dev/fuse", &every)).1.len(), 1);
    }

    fn types(guest: &GuestLinux) -> Vec<&str> {
        guest.linux.Namespaces.iter().map(|ns| ns.Type.as_str()).collect()
    }

    #[test]
    fn namespaces_lose_their_paths_and_the_agents_own_are_left_to_it() {
        let (guest, notes) = translated(
            r#"{"namespaces": [{"type": "pid"}, {"type": "ipc", "path": "/proc/1/ns/ipc"},
                {"type": "uts", "path": "/proc/1/ns/uts"}, {"type": "mount"}, {"type": "cgroup"},
                {"type": "network", "path": "/var/run/netns/x"}]}"#,
        );
        assert_eq!(types(&guest), ["mount", "cgroup", "ipc", "uts"]);
        assert!(guest.linux.Namespaces.iter().all(|ns| ns.Path.is_empty()));
        assert!(!guest.sandbox_pidns);
        assert_eq!(notes, Vec::<String>::new());
    }

    #[test]
    fn a_shared_pid_namespace_is_the_sandboxs() {
        let (guest, _) = translated(
            r#"{"namespaces": [{"type": "pid", "path": "/proc/77/ns/pid"}, {"type": "ipc"}, {"type": "network"}]}"#,
        );
        assert!(guest.sandbox_pidns);
    }

    #[test]
    fn user_namespaces_are_noted() {
        let (guest, notes) = translated(
            r#"{"namespaces": [{"type": "user", "path": "/proc/1/ns/user"}, {"type": "pid"}, {"type": "ipc"},
                    {"type": "network"}],
                "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}]}"#,
        );
        assert_eq!(types(&guest), ["mount", "cgroup", "ipc"]);
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(guest.linux.UIDMappings.is_empty());
    }

    #[test]
    fn a_systemd_cgroup_becomes_a_plain_path() {
        let (guest, _) = translated(r#"{"cgroupsPath": "kubepods-pod1.slice:cri-containerd:c1"}"#);
        assert_eq!(guest.linux.CgroupsPath, "/k8s.io/c1");
    }

    #[test]
    fn host_devices_go_with_their_rules_and_of_standard_ones_the_rules_stay() {
        let (guest, notes) = translated(
            r#"{"devices": [{"path": "/dev/null", "type": "c", "major": 1, "minor": 3},
                            {"path": "/dev/vfio/7", "type": "c", "major": 10, "minor": 232}],
                "resources": {"devices": [{"allow": false, "access": "rwm"},
                    {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
                    {"allow": true, "type": "c", "major": 10, "minor": 232, "access": "rwm"}]}}"#,
        );
        assert_eq!(guest.linux.Devices, []);
        assert_eq!(guest.linux.Resources.Devices.len(), 2);
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].contains("/dev/vfio/7"));
    }

    #[test]
    fn the_filter_is_left_out_where_the_agent_has_none() {
        let from: Linux = serde_json::from_str(
            r#"{"namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "network"}],
                "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}"#,
        )
        .unwrap();
        let mut notes = Vec::new();
        let without = linux(
            OWNER,
            &from,
            &SandboxFacts { namespace: "n", seccomp: false, scratch: false, volumes: VolumeJudge::Engine },
            &mut notes,
        );
        let without = without.unwrap();
        assert!(without.linux.Seccomp.is_none());
        assert_eq!(notes.len(), 1, "{notes:?}");
    }
}
