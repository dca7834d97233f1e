//! The sandbox's own container: a program of the measured image that waits, whatever the host's pause image is.
//!
//! Of the host's specification only what is the pod's goes on: its sysctls, which kata-agent writes while it makes the
//! container (`set_sysctls` of rustjail) and which are set for the namespaces that all containers share, its host name
//! and the annotations. It is the first container, and the processes of a pod that shares its PID namespace are in this
//! container's (`update_shared_pidns` of kata-agent).

use agent_client::proto::oci;
use oci_spec::runtime::Spec;
use protobuf::MessageField;

use crate::error::SpecError;
use crate::linux::own_namespaces;
use crate::paths;
use crate::translate::{GuestContainer, SandboxFacts, annotations, hostname};

/// The program, from [`paths::PAUSE`].
const PROGRAM: &str = "/pause";
/// The user and group `nobody`.
const NOBODY: u32 = 65534;
/// What kubelet asks of a pause container: the last to go when memory is short.
const OOM_SCORE: i64 = -998;
/// Namespaces: those that exist for each container, and the sandbox's own two.
const NAMESPACES: [&str; 4] = ["mount", "cgroup", "ipc", "uts"];
/// As containerd has them for every container (`pkg/oci/spec.go`), as far as they are below `/proc`.
const MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What the guest is asked for instead of the host's pause container.
pub(crate) fn pause(
    container: &str,
    spec: &Spec,
    sandbox: &SandboxFacts<'_>,
) -> Result<GuestContainer, SpecError> {
    let missing = SpecError::Missing { container: container.to_string(), part: "linux" };
    let from = spec.linux().as_ref().ok_or(missing)?;
    own_namespaces(container, from)?;
    let mut notes = Vec::new();
    let linux = oci::Linux {
        Sysctl: from.sysctl().clone().unwrap_or_default(),
        CgroupsPath: paths::cgroup(sandbox.namespace, container),
        Namespaces: NAMESPACES
            .map(|name| oci::LinuxNamespace { Type: name.to_string(), ..Default::default() })
            .to_vec(),
        MaskedPaths: texts(&MASKED),
        ReadonlyPaths: texts(&READ_ONLY),
        ..Default::default()
    };
    let oci = oci::Spec {
        Version: spec.version().clone(),
        Process: MessageField::some(process()),
        Root: MessageField::some(oci::Root {
            Path: paths::PAUSE.to_string(),
            Readonly: true,
            ..Default::default()
        }),
        Hostname: hostname(spec, &linux, &mut notes),
        Mounts: vec![
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ],
        Annotations: annotations(spec, None, &mut notes),
        Linux: MessageField::some(linux),
        ..Default::default()
    };
    notes.push("the pod's own container is the guest image's, not the host's".to_string());
    Ok(GuestContainer {
        oci,
        storages: Vec::new(),
        devices: Vec::new(),
        copies: Vec::new(),
        sandbox_pidns: false,
        termination_log: None,
        notes,
        sizes: Vec::new(),
    })
}

fn process() -> oci::Process {
    oci::Process {
        User: MessageField::some(oci::User { UID: NOBODY, GID: NOBODY, ..Default::default() }),
        Args: vec![PROGRAM.to_string()],
        Cwd: "/".to_string(),
        // None of any kind; the agent refuses a process without the field.
        Capabilities: MessageField::some(oci::LinuxCapabilities::default()),
        NoNewPrivileges: true,
        OOMScoreAdj: OOM_SCORE,
        ..Default::default()
    }
}

fn mount(destination: &str, fstype: &str, options: &[&str]) -> oci::Mount {
    oci::Mount {
        destination: destination.to_string(),
        source: fstype.to_string(),
        type_: fstype.to_string(),
        options: texts(options),
        ..Default::default()
    }
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: &str = r#"{"ociVersion": "1.2.1", "hostname": "web-0",
        "process": {"user": {"uid": 0, "gid": 0, "additionalGids": [0, 2000]}, "args": ["/evil"], "cwd": "/tmp",
            "env": ["LD_PRELOAD=/x"], "terminal": true, "oomScoreAdj": 1000,
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 4096, "soft": 1024}],
            "capabilities": {"bounding": ["CAP_SYS_ADMIN"], "effective": ["CAP_SYS_ADMIN"]}},
        "root": {"path": "rootfs", "readonly": false},
        "mounts": [{"destination": "/dev/shm", "type": "bind", "source": "/run/shm", "options": ["rbind"]},
            {"destination": "/evil", "type": "overlay", "source": "overlay"}],
        "annotations": {"io.kubernetes.cri.container-type": "sandbox", "cdi.k8s.io/x": "nvidia.com/pgpu=0"},
        "linux": {"sysctl": {"net.ipv4.ip_unprivileged_port_start": "0"},
            "namespaces": [{"type": "pid", "path": "/proc/9/ns/pid"}, {"type": "ipc"}, {"type": "network"}, {"type": "user"}],
            "resources": {"devices": [{"allow": true, "access": "rwm"}]},
            "devices": [{"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232}]}}"#;

    fn paused(json: &str) -> GuestContainer {
        let spec: Spec = serde_json::from_str(json).unwrap();
        pause("c1", &spec, &SandboxFacts { namespace: "k8s.io", seccomp: true, scratch: false }).unwrap()
    }

    #[test]
    fn nothing_of_the_hosts_pause_container_reaches_the_guest() {
        let guest = paused(PAUSE);
        let request = format!("{:?}", guest.clone().into_request("c1"));
        let of_host = [
            "evil",
            "/tmp",
            "LD_PRELOAD",
            "CAP_",
            "RLIMIT",
            "2000",
            "shm",
            "kvm",
            "user\"",
            "/proc/9",
            "pgpu",
        ];
        for text in of_host {
            assert!(!request.contains(text), "{text} in {request}");
        }
        let process = &guest.oci.Process;
        assert_eq!((process.User.UID, process.User.GID, process.Terminal), (65534, 65534, false));
        assert_eq!(*process.Capabilities, oci::LinuxCapabilities::default());
        assert!(process.NoNewPrivileges && guest.oci.Root.Readonly && !guest.sandbox_pidns);
        assert!(guest.oci.Linux.Resources.is_none() && guest.storages.is_empty());
        let mounts: Vec<_> = guest.oci.Mounts.iter().map(|mount| mount.destination.as_str()).collect();
        assert_eq!(mounts, ["/proc", "/dev"]);
    }

    #[test]
    fn what_is_the_pods_stays() {
        let guest = paused(PAUSE);
        assert_eq!(guest.oci.Linux.Sysctl["net.ipv4.ip_unprivileged_port_start"], "0");
        assert_eq!(guest.oci.Hostname, "web-0");
        assert_eq!(guest.oci.Annotations["io.kubernetes.cri.container-type"], "sandbox");
    }

    #[test]
    fn a_sandbox_without_a_linux_part_is_refused() {
        let spec: Spec = serde_json::from_str(r#"{"ociVersion": "1.2.1"}"#).unwrap();
        let error = pause("c1", &spec, &SandboxFacts { namespace: "k8s.io", seccomp: true, scratch: false })
            .unwrap_err();
        assert_eq!(error.to_string(), "container c1: the OCI spec has no linux");
    }
}
