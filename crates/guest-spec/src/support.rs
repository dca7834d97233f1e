//! What a pod can have: one list of every field that a pod's configuration has for a runtime (CRI v1), and one of every field
//! of a manifest, with what becomes of it.
//!
//! `docs/support.md` is made of them, and the tests walk CRI's messages and Kubernetes' own: a field that is in no class fails
//! them. What a class other than [`Class::Carried`] says of a field holds for all below it.

mod pod;

use std::fmt::Write as _;

pub use pod::POD;

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// It means in the VM what it means on a host.
    Carried,
    /// It is left out, and the shim's log says so.
    Noted,
    /// The pod or the container does not start, with the field's name and what to do.
    Refused,
    /// kubelet or the engine does it on the host, or it only names things there; nothing of it is for the VM.
    Engine,
}

impl Class {
    /// As the table says it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Carried => "yes",
            Self::Noted => "left out, said in the log",
            Self::Refused => "refused",
            Self::Engine => "the engine's",
        }
    }
}

/// One field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// CRI's name of it, in its message.
    pub name: &'static str,
    /// What says it in a pod's manifest; empty where nothing there does.
    pub pod: &'static str,
    /// What becomes of it.
    pub class: Class,
    /// How, and within which bounds.
    pub how: &'static str,
}

/// A debug container's target.
const TARGET: Class = Refused;
const TARGET_HOW: &str = "refused, with what to do instead; where the pod shares process ids, a debug container sees all of \
                          them without a target";

/// What becomes of a user namespace of the pod's own, in which its users are others than the node's.
const USERS: &str =
    "false is refused by kubelet, which the engine tells of no such support; the VM isolates users";

/// What becomes of a mount that is to be read-only together with all that is mounted below it.
const RECURSIVE: &str =
    "Enabled is refused by kubelet, which the engine tells of no such support; IfPossible is readOnly";

/// One of CRI's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// CRI's name.
    pub name: &'static str,
    /// Its fields.
    pub fields: &'static [Field],
}

/// A field of a manifest, which has its own name there.
const fn in_pod(name: &'static str, class: Class, how: &'static str) -> Field {
    Field { name, pod: "", class, how }
}

const fn field(name: &'static str, pod: &'static str, class: Class, how: &'static str) -> Field {
    Field { name, pod, class, how }
}

use Class::{Carried, Engine, Noted, Refused};

/// The list.
pub const MESSAGES: &[Message] = &[
    Message {
        name: "PodSandboxConfig",
        fields: &[
            field(
                "metadata",
                "metadata",
                Carried,
                "annotations of the guest's containers; the UID names kubelet's directory",
            ),
            field("hostname", "hostname, subdomain", Carried, "the guest's host name, `/etc/hostname`"),
            field("log_directory", "", Engine, "the engine writes the logs that the shim hands it"),
            field(
                "dns_config",
                "dnsPolicy, dnsConfig",
                Carried,
                "`/etc/resolv.conf`, which the engine makes of it, is copied in",
            ),
            field(
                "port_mappings",
                "containers.ports.hostPort",
                Engine,
                "CNI maps ports of the node to the pod's address",
            ),
            field("labels", "metadata.labels", Engine, "nothing in the VM asks for them"),
            field(
                "annotations",
                "metadata.annotations",
                Carried,
                "those for the VM (`io.katacontainers.*`, initdata); others stay on the host",
            ),
            field("linux", "", Carried, "below"),
            field("windows", "", Engine, "of Windows nodes"),
        ],
    },
    Message {
        name: "LinuxPodSandboxConfig",
        fields: &[
            field("cgroup_parent", "", Carried, "QEMU and the shim are in the pod's cgroup"),
            field("security_context", "securityContext", Carried, "below"),
            field(
                "sysctls",
                "securityContext.sysctls",
                Carried,
                "set in the guest, with the pod's own container",
            ),
            field("overhead", "overhead", Engine, "part of the cgroup's limit, which kubelet sets"),
            field("resources", "containers.resources", Carried, "the VM's size: vCPUs and memory"),
        ],
    },
    Message {
        name: "LinuxSandboxSecurityContext",
        fields: &[
            field("namespace_options", "hostNetwork, hostPID, hostIPC", Carried, "below"),
            field("selinux_options", "securityContext.seLinuxOptions", Noted, "labels are the host's"),
            field(
                "run_as_user",
                "securityContext.runAsUser",
                Engine,
                "of the pause container, which is the guest image's; containers have their own",
            ),
            field("run_as_group", "securityContext.runAsGroup", Engine, "the same"),
            field("readonly_rootfs", "", Engine, "the same; the guest image is read-only"),
            field(
                "supplemental_groups",
                "securityContext.fsGroup, supplementalGroups",
                Engine,
                "the same; containers have them",
            ),
            field(
                "supplemental_groups_policy",
                "securityContext.supplementalGroupsPolicy",
                Engine,
                "the engine makes groups of it",
            ),
            field("privileged", "", Engine, "the pod's own container has no rights in the guest"),
            field(
                "seccomp",
                "securityContext.seccompProfile",
                Engine,
                "of the pause container; containers have their own",
            ),
            field("apparmor", "securityContext.appArmorProfile", Noted, "profiles are the host's"),
            field("seccomp_profile_path", "", Engine, "older than `seccomp`"),
        ],
    },
    Message {
        name: "NamespaceOption",
        fields: &[
            field(
                "network",
                "hostNetwork",
                Refused,
                "the pod's own is carried: links, addresses, routes, neighbours; the node's is refused. Of several routes to one \
                 destination the preferred one goes over; rules, other tables and a route's other attributes are left out, which \
                 the log says, as are links that are up without an address, and routes over them; netfilter's rules of the \
                 namespace (Istio's and Linkerd's CNI plugins) and its sysctls (the plugin `tuning`) have no effect in the VM; a \
                 route with several next hops, and one that keeps packets back (blackhole), is refused",
            ),
            field(
                "pid",
                "hostPID, shareProcessNamespace",
                Refused,
                "the pod's and a container's own are carried; the node's is refused; a target's, see `target_id`",
            ),
            field("ipc", "hostIPC", Refused, "the pod's is carried; the node's is refused"),
            field("target_id", "ephemeralContainers.targetContainerName", TARGET, TARGET_HOW),
            field("userns_options", "hostUsers: false", Refused, USERS),
        ],
    },
    Message {
        name: "ContainerConfig",
        fields: &[
            field("metadata", "containers.name", Carried, "annotations of the guest's container"),
            field(
                "image",
                "containers.image",
                Carried,
                "its layers as disks with dm-verity trees (images.md)",
            ),
            field("command", "containers.command", Carried, ""),
            field("args", "containers.args", Carried, ""),
            field(
                "working_dir",
                "containers.workingDir",
                Carried,
                "made where the image has none; an exec's must be there",
            ),
            field("envs", "containers.env, envFrom", Carried, ""),
            field("mounts", "containers.volumeMounts", Carried, "below"),
            field(
                "devices",
                "",
                Refused,
                "GPUs and model volumes are carried (gpu.md, attestation.md); another device is refused by its path, but for a \
                 privileged container's",
            ),
            field("labels", "", Engine, "nothing in the VM asks for them"),
            field(
                "annotations",
                "",
                Carried,
                "by which a container and its pod are known; others stay on the host",
            ),
            field("log_path", "", Engine, "the engine writes the log"),
            field("stdin", "containers.stdin", Carried, ""),
            field("stdin_once", "containers.stdinOnce", Carried, "the end of input reaches the process"),
            field("tty", "containers.tty", Carried, ""),
            field("linux", "", Carried, "below"),
            field("windows", "", Engine, "of Windows nodes"),
            field(
                "CDI_devices",
                "containers.resources.limits",
                Carried,
                "NVIDIA's GPUs and NVSwitches, other vendors' kinds are ignored (gpu.md)",
            ),
            field(
                "stop_signal",
                "containers.lifecycle.stopSignal",
                Engine,
                "the engine sends it, and the shim hands it on",
            ),
        ],
    },
    Message {
        name: "LinuxContainerConfig",
        fields: &[
            field("resources", "containers.resources", Carried, "below"),
            field("security_context", "containers.securityContext", Carried, "below"),
        ],
    },
    Message {
        name: "LinuxContainerResources",
        fields: &[
            field("cpu_period", "", Carried, "the container's cgroup in the guest"),
            field(
                "cpu_quota",
                "resources.limits.cpu",
                Carried,
                "the same; more than the VM's vCPUs is refused",
            ),
            field(
                "cpu_shares",
                "resources.requests.cpu",
                Carried,
                "the same, 2 to 262144: the nearest of these is taken",
            ),
            field(
                "memory_limit_in_bytes",
                "resources.limits.memory",
                Carried,
                "the same; less than 1 MiB, and more than the VM has, is refused",
            ),
            field(
                "oom_score_adj",
                "",
                Carried,
                "in the guest; on the node QEMU has the lowest of the pod's containers",
            ),
            field("cpuset_cpus", "", Noted, "the host's numbering"),
            field("cpuset_mems", "", Noted, "the host's numbering"),
            field(
                "hugepage_limits",
                "resources.limits.hugepages-*",
                Refused,
                "the guest has none; zero is fine",
            ),
            field("unified", "", Noted, "the agent's messages have no place for it"),
            field("memory_swap_limit_in_bytes", "", Carried, "the guest has no swap"),
        ],
    },
    Message {
        name: "LinuxContainerSecurityContext",
        fields: &[
            field("capabilities", "securityContext.capabilities", Carried, "in each set"),
            field(
                "privileged",
                "securityContext.privileged",
                Carried,
                "all rights in the guest, and the guest's devices; none of the host's",
            ),
            field("namespace_options", "", Carried, "above"),
            field("selinux_options", "securityContext.seLinuxOptions", Noted, "labels are the host's"),
            field("run_as_user", "securityContext.runAsUser", Carried, ""),
            field("run_as_group", "securityContext.runAsGroup", Carried, ""),
            field("run_as_username", "", Carried, "the engine looks the name up in the image"),
            field(
                "readonly_rootfs",
                "securityContext.readOnlyRootFilesystem",
                Carried,
                "an image with a VOLUME that has something in it then needs an emptyDir there, or is refused",
            ),
            field("supplemental_groups", "securityContext.supplementalGroups", Carried, ""),
            field(
                "supplemental_groups_policy",
                "securityContext.supplementalGroupsPolicy",
                Engine,
                "the engine makes groups of it",
            ),
            field("no_new_privs", "securityContext.allowPrivilegeEscalation", Carried, ""),
            field(
                "masked_paths",
                "securityContext.procMount",
                Carried,
                "files; over a directory kata-agent 4.1.0 mounts nothing, and what is there is the guest's",
            ),
            field("readonly_paths", "securityContext.procMount", Carried, ""),
            field(
                "seccomp",
                "securityContext.seccompProfile",
                Carried,
                "where the guest's agent is built with it, else said in the log",
            ),
            field("apparmor", "securityContext.appArmorProfile", Noted, "profiles are the host's"),
            field("seccomp_profile_path", "", Engine, "older than `seccomp`"),
            field("apparmor_profile", "", Noted, "older than `apparmor`"),
        ],
    },
    Message {
        name: "Mount",
        fields: &[
            field("container_path", "volumeMounts.mountPath", Carried, "absolute, without `..`"),
            field(
                "host_path",
                "volumes",
                Refused,
                "carried: configMap, secret, projected, downwardAPI (copied in, updates follow), their subPath and subPathExpr \
                 (copied once), emptyDir (guest memory, mode 1777; on the pod's scratch disk, mode 0777) and a part of it by \
                 subPath (as it is in the guest; one that is not there is made, mode 0777), /dev/shm, the engine's and kubelet's \
                 files of this pod, CRI-O's of this container, the termination message, a VOLUME of the image (the image's own \
                 directory; where that has nothing or is missing, an empty one of the container's), a disk or file of the node \
                 that the pod's volumes.toml declares (a model volume, attestation.md). Files are taken below this pod's own \
                 directory of kubelet or the engine only, and through no symbolic link. An emptyDir of medium Memory has its \
                 sizeLimit; another's sizeLimit is kubelet's, which sees nothing of the guest. Refused by name: hostPath, CSI \
                 and other plugins' volumes and their subPath, medium HugePages",
            ),
            field("readonly", "volumeMounts.readOnly", Carried, ""),
            field("selinux_relabel", "", Engine, "labels are the host's"),
            field(
                "propagation",
                "volumeMounts.mountPropagation",
                Carried,
                "as an option of the mount; nothing is mounted on the host's side of it",
            ),
            field("uidMappings", "hostUsers: false", Refused, USERS),
            field("gidMappings", "hostUsers: false", Refused, USERS),
            field("recursive_read_only", "volumeMounts.recursiveReadOnly", Refused, RECURSIVE),
            field(
                "image",
                "volumes.image",
                Refused,
                "the engine mounts the image on the host: a host path like any other",
            ),
            field("image_sub_path", "volumeMounts.subPath", Refused, "the same"),
            field(
                "mount_options",
                "volumeMounts.bindMountOptions",
                Carried,
                "options of the mount, from engines that hand them over; one that the guest's agent does not know is refused",
            ),
        ],
    },
    Message {
        name: "PodSandboxMetadata",
        fields: &[
            field("name", "metadata.name", Carried, "an annotation of the guest's containers"),
            field("uid", "metadata.uid", Carried, "the same; names kubelet's directory"),
            field("namespace", "metadata.namespace", Carried, "the same"),
            field("attempt", "", Engine, "kubelet's count"),
        ],
    },
    Message {
        name: "ContainerMetadata",
        fields: &[
            field("name", "containers.name", Carried, "an annotation of the guest's container"),
            field("attempt", "", Engine, "kubelet's count"),
        ],
    },
    Message {
        name: "ImageSpec",
        fields: &[
            field(
                "image",
                "containers.image",
                Carried,
                "its layers as disks with dm-verity trees (images.md)",
            ),
            field("annotations", "", Engine, "the engine pulls images"),
            field(
                "user_specified_image",
                "containers.image",
                Carried,
                "an annotation, which a policy demands",
            ),
            field("runtime_handler", "runtimeClassName", Engine, "the engine pulls images"),
            field("image_ref", "volumes.image", Engine, "of a volume's image, which is refused"),
        ],
    },
    Message {
        name: "KeyValue",
        fields: &[field("key", "env.name", Carried, ""), field("value", "env.value", Carried, "")],
    },
    Message {
        name: "Capability",
        fields: &[
            field("add_capabilities", "capabilities.add", Carried, ""),
            field("drop_capabilities", "capabilities.drop", Carried, ""),
            field("add_ambient_capabilities", "", Carried, ""),
        ],
    },
    Message {
        name: "SecurityProfile",
        fields: &[
            field("profile_type", "seccompProfile.type", Carried, "the engine makes a filter of it"),
            field(
                "localhost_ref",
                "seccompProfile.localhostProfile",
                Carried,
                "the engine reads the node's file",
            ),
        ],
    },
    Message { name: "Int64Value", fields: &[field("value", "", Carried, "a user's or group's number")] },
    Message { name: "CDIDevice", fields: &[field("name", "", Carried, "see `CDI_devices`")] },
    Message {
        name: "DNSConfig",
        fields: &[
            field("servers", "dnsConfig.nameservers", Carried, "`/etc/resolv.conf`"),
            field("searches", "dnsConfig.searches", Carried, "the same"),
            field("options", "dnsConfig.options", Carried, "the same"),
        ],
    },
];

/// `docs/support.md`.
#[must_use]
pub fn document() -> String {
    let mut text = "\
# What a pod can have

Every field of a pod's manifest, and every field that Kubernetes hands to a runtime (CRI v1), with what becomes of it in a VM. This
page is made of the lists in `crates/guest-spec/src/support.rs` and `support/pod.rs`; a test walks the messages of Kubernetes 1.37 and of its
CRI, and fails for a field that is not in them and for a page that is not the lists'. What is said of a field that is refused, left out or
the engine's holds for all below it. What a pod's owner cannot see from outside is not in it: which layers, which GPU, which policy
([images.md](images.md), [gpu.md](gpu.md), [attestation.md](attestation.md)).

| word | means |
|---|---|
"
    .to_owned();
    for (class, means) in [
        (Carried, "it means in the VM what it means on a host, as far as the last column says"),
        (Noted, "it is left out, and the shim's log says so"),
        (
            Refused,
            "where it asks for something of the host, the pod or the container does not start; the event names it and what to do",
        ),
        (Engine, "kubelet or the engine does it on the host; nothing of it is for the VM"),
    ] {
        let _ = writeln!(text, "| {} | {means} |", class.word());
    }
    text.push_str("\n# A pod's manifest\n");
    for message in POD {
        let _ = write!(text, "\n## {}\n\n| field | | |\n|---|---|---|\n", message.name);
        for Field { name, class, how, .. } in message.fields {
            let _ = writeln!(text, "| `{name}` | {} | {how} |", class.word());
        }
    }
    text.push_str("\n# What the engine is handed\n");
    for message in MESSAGES {
        let _ =
            write!(text, "\n## {}\n\n| field | in a pod's manifest | | |\n|---|---|---|---|\n", message.name);
        for Field { name, pod, class, how } in message.fields {
            let pod = if pod.is_empty() { "" } else { pod };
            let _ = writeln!(text, "| `{name}` | {pod} | {} | {how} |", class.word());
        }
    }
    text.push_str(WAYS);
    text
}

/// Ways to a pod that are no field of its configuration.
const WAYS: &str = "
# Ways in and out

| way | |
|---|---|
| `kubectl logs`, `exec`, `attach`, `cp` | yes |
| `nerdctl run -d`, `ctr run --log-uri binary://...` or `binary-v2://...` | yes: the program that takes the output runs on the host, \
as containerd's own shim runs it |
| `nerdctl run --network`, `-p` | `none`, and `ns:/run/netns/NAME` of a namespace that CNI has set up; other networks are refused, because \
nerdctl's hook makes them only after the VM has its interfaces |
| `nerdctl run --pid`, `--ipc`, `--uts`, `ctr run --with-ns` | the host's and other containers' namespaces are refused |
| `kubectl port-forward` | with containerd: yes, to what listens on the pod's address or on all addresses (Linux 5.9 or newer on the node). What listens on \
the guest's `127.0.0.1` only is not reached: a confidential pod's own services are there, and the connection comes from the host. At \
most 64 at a time. CRI-O forwards nothing for runtimes of its type `vm`, which this one is |
";
