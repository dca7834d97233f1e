//! kubelet's and containerd's part of a pod, played: from a manifest to the specification of a container, and by the
//! shim's own code to its request. Written from kubelet's (`pkg/kubelet/kuberuntime`) and containerd's (`internal/cri`)
//! behaviour, and not from the policy's code; `tests/e2e` has the real containerd do its part.

use std::collections::BTreeMap;
use std::path::Path;

use agent_client::proto::agent::{CreateContainerRequest, CreateSandboxRequest};
use guest_spec::{
    FileKind, GuestRootfs, HostFile, OwnSandbox, PassedDevice, SandboxFacts, VolumeJudge, own_sandbox,
    shm_storage, translate,
};
use oci_spec::runtime::Spec;
use pod_manifest::Template;
use pod_manifest::spec::{Container, PodSpec, ValueFrom, Volume};
use serde_json::{Value, json};

pub(crate) const SANDBOX: &str = "f00df00df00df00df00df00df00df00df00df00df00df00df00df00df00df00d";
const POD: &str = "/var/lib/kubelet/pods/8c5d9a1e";
const ADDRESS: &str = "10.4.0.5";
/// What containerd gives every container.
const USUAL: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

type Change = fn(&mut Value);

/// One change each, of a bound field.
pub(crate) const CHANGES: [(&str, Change); 16] = [
    ("one more argument", |r| push(&mut r["OCI"]["Process"]["Args"], "--debug".into())),
    ("another program", |r| r["OCI"]["Process"]["Args"][0] = "/bin/other".into()),
    ("one more variable", |r| push(&mut r["OCI"]["Process"]["Env"], "LD_PRELOAD=/tmp/x.so".into())),
    ("another search path", |r| push(&mut r["OCI"]["Process"]["Env"], "PATH=/tmp".into())),
    ("another directory", |r| r["OCI"]["Process"]["Cwd"] = "/tmp".into()),
    ("another user", |r| r["OCI"]["Process"]["User"]["UID"] = 4711.into()),
    ("another group", |r| r["OCI"]["Process"]["User"]["GID"] = 4711.into()),
    ("one more group", |r| push(&mut r["OCI"]["Process"]["User"]["AdditionalGids"], 4711.into())),
    ("more rights", |r| push(&mut r["OCI"]["Process"]["Capabilities"]["Bounding"], "CAP_SYS_ADMIN".into())),
    ("new privileges", |r| flip(&mut r["OCI"]["Process"]["NoNewPrivileges"])),
    ("a terminal", |r| flip(&mut r["OCI"]["Process"]["Terminal"])),
    ("another root", |r| flip(&mut r["OCI"]["Root"]["Readonly"])),
    ("a mount less", |r| {
        r["OCI"]["Mounts"].as_array_mut().unwrap().remove(0);
    }),
    ("a mount more", |r| {
        let mount = json!({"destination": "/bin", "source": "/run/kata-containers/sandbox/shm", "type_": "bind",
            "options": ["rbind", "rw"]});
        push(&mut r["OCI"]["Mounts"], mount);
    }),
    ("another layer", |r| {
        let text = r["storages"].to_string();
        let at = text.find("/dev/mapper/").unwrap() + 12;
        let forged = format!("{}{}{}", &text[..at], "0".repeat(64), &text[at + 64..]);
        r["storages"] = serde_json::from_str(&forged).unwrap();
    }),
    ("another name", |r| r["OCI"]["Annotations"]["io.kubernetes.cri.container-name"] = "other".into()),
];

fn push(list: &mut Value, item: Value) {
    list.as_array_mut().unwrap().push(item);
}

fn flip(value: &mut Value) {
    *value = (!value.as_bool().unwrap()).into();
}

/// A pod that runs.
pub(crate) struct Running<'a> {
    pub(crate) name: String,
    spec: &'a PodSpec,
    namespace: String,
    layer: String,
}

impl<'a> Running<'a> {
    pub(crate) fn new(template: &Template, spec: &'a PodSpec, layer: &str) -> Self {
        let owner = template.owner.name.clone().unwrap_or_else(|| "pod".to_owned());
        let name = match template.owner.kind.as_str() {
            "Pod" => owner,
            "Deployment" => format!("{owner}-5d9c7b6f4-x2x9k"),
            "StatefulSet" | "LeaderWorkerSet" => format!("{owner}-0"),
            "CronJob" => format!("{owner}-29381234-x2x9k"),
            _ => format!("{owner}-x2x9k"),
        };
        let namespace = template.owner.namespace.clone().unwrap_or_else(|| "default".to_owned());
        Self { name, spec, namespace, layer: layer.to_owned() }
    }

    fn hostname(&self) -> String {
        self.spec.spec.hostname.clone().unwrap_or_else(|| self.name.clone())
    }

    pub(crate) fn sandbox(&self) -> Value {
        let request = CreateSandboxRequest {
            hostname: self.hostname(),
            storages: vec![shm_storage(64 << 20)],
            sandbox_id: format!("sandbox-{SANDBOX}"),
            ..CreateSandboxRequest::default()
        };
        serde_json::to_value(request).unwrap()
    }

    /// The shim's request for the sandbox's own container.
    pub(crate) fn own(&self) -> Value {
        let sysctls = &self.spec.spec.security_context.sysctls;
        let sysctls = sysctls.iter().map(|of| (of.name.clone(), of.value.clone())).collect();
        let (hostname, annotations) = (&self.hostname(), &BTreeMap::new());
        let pod = OwnSandbox { hostname, annotations, sysctls: &sysctls, host_namespaces: &[] };
        let facts =
            SandboxFacts { namespace: "k8s.io", seccomp: true, scratch: false, volumes: VolumeJudge::Engine };
        serde_json::to_value(own_sandbox(SANDBOX, &pod, &facts).unwrap().into_request(SANDBOX)).unwrap()
    }

    /// The shim's request for a container.
    pub(crate) fn container(&self, container: &Container, index: usize) -> Value {
        // No two begin alike.
        let id = format!("{index:010x}{}", "0".repeat(54));
        let spec: Spec = serde_json::from_value(self.specification(container)).unwrap();
        let rootfs = GuestRootfs::Layers(vec![self.layer.parse().unwrap()]);
        let sandbox =
            SandboxFacts { namespace: "k8s.io", seccomp: true, scratch: false, volumes: VolumeJudge::Engine };
        // kubelet gives volumes to the pod's group.
        let gid = self.spec.spec.security_context.fs_group.unwrap_or_default();
        let directories: Vec<String> = self.spec.spec.volumes.iter().map(directory).collect();
        let stat = |path: &Path| {
            let path = path.to_string_lossy();
            let is_volume = path.contains("/volumes/");
            let there =
                !is_volume || path.contains("kube-api-access") || directories.iter().any(|at| *at == path);
            let kind = if is_volume { FileKind::Directory } else { FileKind::File };
            there.then_some(HostFile { kind, gid, mode: 0o777, medium: None, empty: None })
        };
        let mut guest = translate(&id, &spec, &sandbox, &rootfs, &stat).unwrap();
        let device = |number: u32, gpu| PassedDevice {
            number,
            host: format!("0000:{:02x}:00.0", 0x40 + number),
            guest: format!("{:02x}/00", 8 + number),
            gpu,
        };
        let gpus = (0..container.resources.gpus).map(|number| device(number, Some(number as usize)));
        let switches =
            (0..container.resources.switches).map(|number| device(container.resources.gpus + number, None));
        guest.pass(&gpus.chain(switches).collect::<Vec<_>>());
        let request: CreateContainerRequest = guest.into_request(&id);
        serde_json::to_value(request).unwrap()
    }

    fn specification(&self, container: &Container) -> Value {
        let mut spec = self.unfiltered(container);
        let own = container.security_context.seccomp_profile.as_ref();
        if own.is_some_and(|profile| profile.kind == "RuntimeDefault") {
            // For a container without capabilities but the one for low ports, as the corpus has it.
            let filter = include_str!("../../../crates/agent-policy/tests/pods/seccomp-2.1.json");
            spec["linux"]["seccomp"] = serde_json::from_str(filter).unwrap();
        }
        spec
    }

    fn unfiltered(&self, container: &Container) -> Value {
        let security = &container.security_context;
        let pods = &self.spec.spec.security_context;
        let env = self.env(container);
        let expand = |texts: &[String]| texts.iter().map(|text| expand(text, &env)).collect::<Vec<_>>();
        let (command, args) = (expand(&container.command), expand(&container.args));
        let command = if command.is_empty() {
            [vec!["/app".to_owned()], args].concat()
        } else {
            [command, args].concat()
        };
        let uid = security.run_as_user.or(pods.run_as_user).unwrap_or(0);
        // The tests' image knows root, and nobody else of those.
        let gid = security.run_as_group.or(pods.run_as_group).unwrap_or(0);
        let mut groups = vec![gid];
        groups.extend(pods.fs_group.iter().chain(&pods.supplemental_groups));
        // containerd has each once.
        groups.sort_unstable();
        groups.dedup();
        let terminal = container.tty.unwrap_or_default();
        let mut entries = vec!["PATH=/bin".to_owned(), format!("HOSTNAME={}", self.name)];
        if terminal {
            entries.push("TERM=xterm".to_owned());
        }
        // containerd's usual PATH is there already, and the image's or the manifest's replaces it in its place.
        if let Some((_, path)) = env.iter().rfind(|(name, _)| name == "PATH") {
            entries[0] = format!("PATH={path}");
        }
        entries.push("MODE=image".to_owned());
        entries.extend(
            env.iter().filter(|(name, _)| name != "PATH").map(|(name, value)| format!("{name}={value}")),
        );
        if !container.resources.claims.is_empty() {
            // As CDI does it: where there is one of the name, in its place.
            entries.retain(|entry| !entry.starts_with("NVIDIA_VISIBLE_DEVICES="));
            entries.push("NVIDIA_VISIBLE_DEVICES=void".to_owned());
        }
        let capabilities = capabilities(container);
        json!({
            "ociVersion": "1.2.1",
            "process": {
                "user": {"uid": uid, "gid": gid, "additionalGids": groups},
                "terminal": terminal,
                "args": command,
                "env": entries,
                "cwd": container.working_dir.as_deref().unwrap_or("/srv"),
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
                "noNewPrivileges": security.allow_privilege_escalation == Some(false),
                "oomScoreAdj": self.oom_score(),
            },
            "root": {"path": "rootfs", "readonly": security.read_only_root_filesystem.unwrap_or_default()},
            "mounts": self.mounts(container),
            "annotations": {
                "io.kubernetes.cri.container-type": "container",
                "io.kubernetes.cri.container-name": container.name,
                "io.kubernetes.cri.image-name": container.image,
                "io.kubernetes.cri.sandbox-id": SANDBOX,
                "io.kubernetes.cri.sandbox-name": self.name,
                "io.kubernetes.cri.sandbox-namespace": self.namespace,
                "io.kubernetes.cri.sandbox-uid": "8c5d9a1e",
            },
            "linux": {
                "resources": {"devices": [{"allow": false, "access": "rwm"}], "cpu": {"shares": 1024}},
                "cgroupsPath": "kubepods.slice:cri-containerd:x",
                "namespaces": self.namespaces(),
                "maskedPaths": ["/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            },
        })
    }

    fn namespaces(&self) -> Value {
        let pid = match self.spec.spec.share_process_namespace {
            Some(true) => json!({"type": "pid", "path": "/proc/4711/ns/pid"}),
            _ => json!({"type": "pid"}),
        };
        json!([pid, {"type": "ipc", "path": "/proc/4711/ns/ipc"}, {"type": "uts", "path": "/proc/4711/ns/uts"},
            {"type": "mount"}, {"type": "network", "path": "/var/run/netns/cni-1"}])
    }

    fn oom_score(&self) -> i64 {
        use pod_manifest::spec::Service;
        match self.spec.spec.service() {
            Service::Guaranteed => -997,
            Service::BestEffort => 1000,
            Service::Burstable => 900,
        }
    }

    fn env(&self, container: &Container) -> Vec<(String, String)> {
        let mut env: Vec<(String, String)> = Vec::new();
        for from in &container.env_from {
            // What the objects of the corpus have.
            let keys: &[(&str, &str)] = match (&from.config_map_ref, &from.secret_ref) {
                (Some(_), _) => &[("SPECIAL_LEVEL", "very"), ("SPECIAL_TYPE", "charm")],
                _ => &[("USERNAME", "admin"), ("PASSWORD", "example")],
            };
            env.extend(
                keys.iter().map(|(name, value)| (format!("{}{name}", from.prefix), (*value).to_owned())),
            );
        }
        for variable in &container.env {
            let value = match &variable.value_from {
                None => expand(variable.value.as_deref().unwrap_or_default(), &env),
                Some(from) => self.field(from),
            };
            env.retain(|(name, _)| *name != variable.name);
            env.push((variable.name.clone(), value));
        }
        // kubelet tells of the cluster's own service.
        let own = [
            ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
            ("KUBERNETES_SERVICE_PORT", "443"),
            ("KUBERNETES_PORT", "tcp://10.96.0.1:443"),
        ];
        env.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
        env
    }

    fn field(&self, from: &ValueFrom) -> String {
        let path = from.field_ref.as_ref().map(|field| field.field_path.as_str());
        match path {
            Some("metadata.name") => self.name.clone(),
            Some("metadata.namespace") => self.namespace.clone(),
            Some("status.podIP" | "status.hostIP") => ADDRESS.to_owned(),
            Some("spec.nodeName") => "node-1".to_owned(),
            Some("spec.serviceAccountName") => {
                self.spec.spec.service_account_name.clone().unwrap_or_else(|| "default".into())
            }
            _ if from.resource_field_ref.is_some() => "4".to_owned(),
            _ => "3".to_owned(),
        }
    }

    fn mounts(&self, container: &Container) -> Vec<Value> {
        let bind = |source: String, at: &str, mode: &str| json!({"destination": at, "type": "bind", "source": source, "options": ["rbind", "rprivate", mode]});
        let volumes: BTreeMap<_, _> =
            self.spec.spec.volumes.iter().map(|volume| (volume.name.as_str(), volume)).collect();
        let mut binds: Vec<Value> = Vec::new();
        for mount in &container.volume_mounts {
            let volume: &Volume = volumes[mount.name.as_str()];
            let writable = volume.empty_dir.is_some() && mount.read_only != Some(true);
            let mode = if writable { "rw" } else { "ro" };
            let source = match &mount.sub_path {
                Some(path) if !path.is_empty() => {
                    format!("{POD}/volume-subpaths/{}/{}/1", mount.name, container.name)
                }
                _ => directory(volume),
            };
            binds.push(bind(source, &mount.mount_path, mode));
        }
        let account = "/var/run/secrets/kubernetes.io/serviceaccount";
        let has = |path: &str, binds: &[Value]| {
            binds.iter().any(|mount| mount["destination"].as_str().unwrap().trim_end_matches('/') == path)
        };
        if self.spec.spec.automount_service_account_token != Some(false) && !has(account, &binds) {
            binds.push(bind(
                format!("{POD}/volumes/kubernetes.io~projected/kube-api-access-x2x9k"),
                account,
                "ro",
            ));
        }
        let engine = format!("/var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/{SANDBOX}");
        let shm = format!("/run/containerd/io.containerd.grpc.v1.cri/sandboxes/{SANDBOX}/shm");
        let mode =
            if container.security_context.read_only_root_filesystem == Some(true) { "ro" } else { "rw" };
        for (source, at, mode) in [
            (format!("{POD}/etc-hosts"), "/etc/hosts", "rw"),
            (format!("{POD}/containers/{}/6a2f10c3", container.name), "/dev/termination-log", "rw"),
            (format!("{engine}/hostname"), "/etc/hostname", mode),
            (format!("{engine}/resolv.conf"), "/etc/resolv.conf", mode),
            (shm, "/dev/shm", "rw"),
        ] {
            if !has(at, &binds) {
                binds.push(bind(source, at, mode));
            }
        }
        binds.sort_by_key(|mount| {
            mount["destination"].as_str().unwrap().trim_end_matches('/').matches('/').count()
        });
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
            json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
            json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]}),
            json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}),
            json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}),
        ];
        mounts.append(&mut binds);
        mounts
    }
}

fn capabilities(container: &Container) -> Vec<String> {
    let asked = &container.security_context.capabilities;
    let has = |list: &[String], name: &str| list.iter().any(|of| of.eq_ignore_ascii_case(name));
    let mut all: Vec<String> = USUAL.map(str::to_owned).to_vec();
    if has(&asked.drop, "ALL") {
        all.clear();
    }
    all.extend(asked.add.iter().map(|name| name.to_ascii_uppercase()));
    all.retain(|name| has(&asked.add, name) || !has(&asked.drop, name));
    all.iter().map(|name| format!("CAP_{name}")).collect()
}

fn expand(text: &str, env: &[(String, String)]) -> String {
    let own = [("KUBERNETES_SERVICE_HOST".to_owned(), "10.96.0.1".to_owned())];
    env.iter()
        .chain(&own)
        .fold(text.to_owned(), |text, (name, value)| text.replace(&format!("$({name})"), value))
}

/// Where kubelet has a volume.
fn directory(volume: &Volume) -> String {
    let plugin = match volume {
        Volume { empty_dir: Some(_), .. } => "empty-dir",
        Volume { secret: Some(_), .. } => "secret",
        Volume { projected: Some(_), .. } => "projected",
        _ => "configmap",
    };
    format!("{POD}/volumes/kubernetes.io~{plugin}/{}", volume.name)
}
