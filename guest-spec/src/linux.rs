//! The Linux part: namespaces, devices, paths, and what they confine.

use std::path::Path;

use agent::proto::oci;
use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType, LinuxNamespaceType};

use crate::paths;
use crate::resources::{device_type, resources};
use crate::seccomp::seccomp;
use crate::translate::SandboxFacts;

/// Device nodes the agent makes for every container; they mean the same in the guest.
const STANDARD_DEVICES: [&str; 6] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

/// The translated part, and what CreateContainer says beside the spec.
pub(crate) struct GuestLinux {
    pub(crate) linux: oci::Linux,
    /// The container joins the PID namespace of the sandbox.
    pub(crate) sandbox_pidns: bool,
}

pub(crate) fn linux(
    container: &str,
    from: &Linux,
    sandbox: &SandboxFacts<'_>,
    notes: &mut Vec<String>,
) -> GuestLinux {
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
    let (devices, dropped): (Vec<&LinuxDevice>, Vec<&LinuxDevice>) =
        from.devices().iter().flatten().partition(|device| is_standard(device));
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
        Devices: devices.into_iter().map(device).collect(),
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
    GuestLinux { linux, sandbox_pidns: namespaces.sandbox_pidns }
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
    let mut has_pid = false;
    for ns in from.namespaces().iter().flatten() {
        match ns.typ() {
            Pid => {
                has_pid = true;
                found.sandbox_pidns = ns.path().as_ref().is_some_and(|path| path != Path::new(""));
            }
            Mount | Cgroup | Network => {}
            Time | User => notes.push(format!("{} namespace left out: the VM has its own", ns.typ())),
            kept @ (Ipc | Uts) => found.kept.push(namespace(kept)),
        }
    }
    if !has_pid {
        notes.push("the host's PID namespace is out of reach: the container gets its own".to_string());
    }
    found
}

/// Under the names of the OCI runtime specification; oci-spec's own `Display` has the kernel's short ones.
fn namespace(typ: LinuxNamespaceType) -> oci::LinuxNamespace {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, Time, User, Uts};
    let name = match typ {
        Mount => "mount",
        Cgroup => "cgroup",
        Uts => "uts",
        Ipc => "ipc",
        User => "user",
        Pid => "pid",
        Network => "network",
        Time => "time",
    };
    oci::LinuxNamespace { Type: name.to_owned(), ..Default::default() }
}

fn is_standard(device: &LinuxDevice) -> bool {
    STANDARD_DEVICES.iter().any(|path| device.path() == Path::new(path))
}

/// Whether a cgroup rule names exactly this device; wildcards have a number of zero or less.
fn is_rule_for(rule: &oci::LinuxDeviceCgroup, device: &LinuxDevice) -> bool {
    let typ = if device.typ() == LinuxDeviceType::U { "c" } else { device_type(device.typ()) };
    rule.Major > 0 && rule.Type == typ && (rule.Major, rule.Minor) == (device.major(), device.minor())
}

fn device(from: &LinuxDevice) -> oci::LinuxDevice {
    oci::LinuxDevice {
        Path: from.path().display().to_string(),
        Type: device_type(from.typ()).to_string(),
        Major: from.major(),
        Minor: from.minor(),
        // Not zero: the agent takes the number as it stands.
        FileMode: from.file_mode().unwrap_or(0o666),
        UID: from.uid().unwrap_or_default(),
        GID: from.gid().unwrap_or_default(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(json: &str) -> (GuestLinux, Vec<String>) {
        let mut notes = Vec::new();
        let from: Linux = serde_json::from_str(json).unwrap();
        let sandbox = SandboxFacts { namespace: "k8s.io", seccomp: true };
        (linux("c1", &from, &sandbox, &mut notes), notes)
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
        let (guest, _) = translated(r#"{"namespaces": [{"type": "pid", "path": "/proc/77/ns/pid"}]}"#);
        assert!(guest.sandbox_pidns);
    }

    #[test]
    fn the_hosts_pid_and_user_namespaces_are_noted() {
        let (guest, notes) = translated(
            r#"{"namespaces": [{"type": "user", "path": "/proc/1/ns/user"}],
                "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}]}"#,
        );
        assert_eq!(types(&guest), ["mount", "cgroup"]);
        assert_eq!(notes.len(), 3, "{notes:?}");
        assert!(guest.linux.UIDMappings.is_empty());
    }

    #[test]
    fn a_systemd_cgroup_becomes_a_plain_path() {
        let (guest, _) = translated(r#"{"cgroupsPath": "kubepods-pod1.slice:cri-containerd:c1"}"#);
        assert_eq!(guest.linux.CgroupsPath, "/k8s.io/c1");
    }

    #[test]
    fn host_devices_go_with_their_rules_and_standard_ones_stay() {
        let (guest, notes) = translated(
            r#"{"namespaces": [{"type": "pid"}],
                "devices": [{"path": "/dev/null", "type": "c", "major": 1, "minor": 3},
                            {"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232}],
                "resources": {"devices": [{"allow": false, "access": "rwm"},
                    {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
                    {"allow": true, "type": "c", "major": 10, "minor": 232, "access": "rwm"}]}}"#,
        );
        assert_eq!(guest.linux.Devices.len(), 1);
        assert_eq!(guest.linux.Devices[0].FileMode, 0o666);
        assert_eq!(guest.linux.Resources.Devices.len(), 2);
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].contains("/dev/kvm"));
    }

    #[test]
    fn the_filter_is_left_out_where_the_agent_has_none() {
        let from: Linux = serde_json::from_str(
            r#"{"namespaces": [{"type": "pid"}], "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}"#,
        )
        .unwrap();
        let mut notes = Vec::new();
        let without = linux("c1", &from, &SandboxFacts { namespace: "n", seccomp: false }, &mut notes);
        assert!(without.linux.Seccomp.is_none());
        assert_eq!(notes.len(), 1, "{notes:?}");
    }
}
