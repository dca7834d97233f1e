//! The sandbox's own container: a program of the measured image that waits, whatever the host's pause image is.
//!
//! Of the host's specification only what is the pod's goes on: its sysctls, which kata-agent writes while it makes the
//! container (`set_sysctls` of rustjail) and which are set for the namespaces that all containers share, its host name
//! and the annotations. It is the first container, and the processes of a pod that shares its PID namespace are in this
//! container's (`update_shared_pidns` of kata-agent).

use std::collections::{BTreeMap, HashMap};

use agent_client::proto::oci;
use oci_spec::runtime::Spec;
use protobuf::MessageField;
use shared_types::cri::{Engine, Member};

use crate::error::SpecError;
use crate::linux::own_namespaces;
use crate::paths;
use crate::role::Owner;
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

/// Sysctls that containerd sets for a pod with a pause container, unless the pod names them: any user may listen on every port,
/// and may ping (its settings `enable_unprivileged_ports` and `enable_unprivileged_icmp`, which are on by default;
/// `internal/cri/server/podsandbox/sandbox_run_linux.go`).
const SYSCTLS: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

/// A pod for which the engine makes no pause container.
#[derive(Debug, Clone, Copy)]
pub struct OwnSandbox<'a> {
    /// The pod's host name; empty leaves the guest's.
    pub hostname: &'a str,
    /// By which it is known.
    pub annotations: &'a BTreeMap<String, String>,
    /// Those that it names.
    pub sysctls: &'a BTreeMap<String, String>,
    /// What it would share with the host, by the fields that ask for it in a pod's manifest.
    pub host_namespaces: &'a [&'static str],
}

/// What the guest is asked for where the engine makes no pause container: the same as for one of containerd's.
///
/// # Errors
/// The pod is to share a namespace with the host.
pub fn own_sandbox(
    container: &str,
    pod: &OwnSandbox<'_>,
    sandbox: &SandboxFacts<'_>,
) -> Result<GuestContainer, SpecError> {
    if let Some(field) = pod.host_namespaces.first() {
        let namespace = match *field {
            "hostPID" => "PID",
            "hostIPC" => "IPC",
            _ => "network",
        };
        return Err(SpecError::HostNamespace { container: container.to_string(), namespace, field });
    }
    let defaults = SYSCTLS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let named = pod.sysctls.iter().map(|(name, value)| (name.clone(), value.clone()));
    let names = Engine::Containerd.names();
    let told = |name: &str| pod.annotations.get(name).map(String::as_str);
    let member = Member {
        engine: Engine::Containerd,
        is_sandbox: true,
        sandbox: None,
        uid: told(names.uid),
        pod: told(names.pod),
        namespace: told(names.namespace),
        container: None,
        image: None,
    };
    let known = member.annotations(container).map(|(name, text)| (name.to_owned(), text.to_owned()));
    let pod = Pod {
        version: "1.2.0".to_owned(),
        hostname: pod.hostname.to_owned(),
        annotations: known.collect(),
        sysctls: defaults.chain(named).collect(),
    };
    Ok(made(container, pod, sandbox, Vec::new()))
}

/// What of a pod goes on.
struct Pod {
    version: String,
    hostname: String,
    annotations: HashMap<String, String>,
    sysctls: HashMap<String, String>,
}

/// What the guest is asked for instead of the host's pause container.
pub(crate) fn pause(
    container: &str,
    spec: &Spec,
    pod: &Member<'_>,
    sandbox: &SandboxFacts<'_>,
) -> Result<GuestContainer, SpecError> {
    let missing = SpecError::Missing { container: container.to_string(), part: "linux" };
    let from = spec.linux().as_ref().ok_or(missing)?;
    own_namespaces(Owner::of(container, Some(pod)), from)?;
    let mut notes = Vec::new();
    let pod = Pod {
        version: spec.version().clone(),
        hostname: hostname(spec, true, &mut notes),
        annotations: annotations(container, Some(pod), spec, None, &mut notes),
        sysctls: from.sysctl().clone().unwrap_or_default(),
    };
    notes.push("the pod's own container is the guest image's, not the host's".to_string());
    Ok(made(container, pod, sandbox, notes))
}

fn made(container: &str, pod: Pod, sandbox: &SandboxFacts<'_>, notes: Vec<String>) -> GuestContainer {
    let linux = oci::Linux {
        Sysctl: pod.sysctls,
        CgroupsPath: paths::cgroup(sandbox.namespace, container),
        Namespaces: NAMESPACES
            .map(|name| oci::LinuxNamespace { Type: name.to_string(), ..Default::default() })
            .to_vec(),
        MaskedPaths: texts(&MASKED),
        ReadonlyPaths: texts(&READ_ONLY),
        ..Default::default()
    };
    let oci = oci::Spec {
        Version: pod.version,
        Process: MessageField::some(process()),
        Root: MessageField::some(oci::Root {
            Path: paths::PAUSE.to_string(),
            Readonly: true,
            ..Default::default()
        }),
        Hostname: pod.hostname,
        Mounts: vec![
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ],
        Annotations: pod.annotations,
        Linux: MessageField::some(linux),
        ..Default::default()
    };
    GuestContainer {
        oci,
        storages: Vec::new(),
        devices: Vec::new(),
        copies: Vec::new(),
        sandbox_pidns: false,
        termination_log: None,
        notes,
        sizes: Vec::new(),
        places: Vec::new(),
    }
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
    use crate::VolumeJudge;
    use crate::rootfs::GuestRootfs;
    use crate::translate::translate;

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

    fn translated(json: &str) -> Result<GuestContainer, SpecError> {
        let spec: Spec = serde_json::from_str(json).unwrap();
        let sandbox =
            SandboxFacts { namespace: "k8s.io", seccomp: true, scratch: false, volumes: VolumeJudge::Engine };
        translate("c1", &spec, &sandbox, &GuestRootfs::default(), &|_| None)
    }

    fn paused(json: &str) -> GuestContainer {
        translated(json).unwrap()
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

    /// A pod that names one of them has its own value.
    #[test]
    fn a_pod_without_a_pause_container_has_the_sysctls_that_containerd_would_give_it() {
        let sysctls = [("net.ipv4.ip_unprivileged_port_start".to_owned(), "1024".to_owned())].into();
        let annotations = [("io.kubernetes.cri.sandbox-name".to_owned(), "web".to_owned())].into();
        let facts = SandboxFacts {
            namespace: "k8s.io",
            seccomp: false,
            scratch: false,
            volumes: VolumeJudge::Engine,
        };
        let mut pod = OwnSandbox {
            hostname: "web",
            annotations: &annotations,
            sysctls: &sysctls,
            host_namespaces: &[],
        };
        let guest = own_sandbox("pod", &pod, &facts).unwrap();
        let set = |guest: &GuestContainer, name: &str| guest.oci.Linux.Sysctl.get(name).cloned();
        assert_eq!(set(&guest, "net.ipv4.ip_unprivileged_port_start").as_deref(), Some("1024"));
        assert_eq!(set(&guest, "net.ipv4.ping_group_range").as_deref(), Some("0 2147483647"));
        assert_eq!(guest.oci.Hostname, "web");
        let none = BTreeMap::new();
        pod.sysctls = &none;
        let guest = own_sandbox("pod", &pod, &facts).unwrap();
        assert_eq!(set(&guest, "net.ipv4.ip_unprivileged_port_start").as_deref(), Some("0"));
        for field in ["hostPID", "hostNetwork", "hostIPC"] {
            let refused = OwnSandbox { host_namespaces: &[field], ..pod };
            let error = own_sandbox("pod", &refused, &facts).unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn a_sandbox_without_a_linux_part_is_refused() {
        let error = translated(
            r#"{"ociVersion": "1.2.1", "annotations": {"io.kubernetes.cri.container-type": "sandbox"}}"#,
        )
        .unwrap_err();
        assert_eq!(error.to_string(), "container c1: the OCI spec has no linux");
    }
}
