//! The shim's requests for the pod of `pods/web.yaml`, made by `guest_spec` of OCI specs as an engine writes them.

use std::path::Path;

use agent_client::proto::agent::{CopyFileRequest, CreateContainerRequest};
use guest_spec::{
    FileKind, GuestRootfs, HostFile, Medium, ModelMount, PassedDevice, SandboxFacts, VolumeJudge, translate,
};
use oci_spec::runtime::Spec;
use serde_json::{Value, json};
use shared_types::EmptyDirectory;

use crate::engine::{DATA, layer};

pub(crate) const SANDBOX: &str = "f00df00df00df00df00df00df00df00df00df00df00df00df00df00df00df00d";
pub(crate) const PREPARE: &str = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00";
pub(crate) const PROXY: &str = "c0ffee01c0ffee01c0ffee01c0ffee01c0ffee01c0ffee01c0ffee01c0ffee01";
pub(crate) const WEB: &str = "c0ffee02c0ffee02c0ffee02c0ffee02c0ffee02c0ffee02c0ffee02c0ffee02";
pub(crate) const GPU: &str = "c0ffee03c0ffee03c0ffee03c0ffee03c0ffee03c0ffee03c0ffee03c0ffee03";
/// Of a command.
pub(crate) const EXEC: &str = "e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0";

const POD: &str = "/var/lib/kubelet/pods/8c5d9a1e";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Who writes the specs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// containerd 1.7.
    Containerd1,
    /// containerd 2.1.
    Containerd2,
    /// containerd 2.3, with a newer kubelet.
    Containerd23,
    /// CRI-O.
    Crio,
}

pub(crate) const ENGINES: [Engine; 4] =
    [Engine::Containerd1, Engine::Containerd2, Engine::Containerd23, Engine::Crio];

/// As for everything that a policy is asked about.
pub(crate) fn json_of(request: &impl serde::Serialize) -> Value {
    serde_json::to_value(request).unwrap()
}

/// What is asked for instead of CopyFile (kata-containers 4.1.0, `PolicyCopyFileRequest`).
pub(crate) fn copy(request: &CopyFileRequest) -> Value {
    // Types of a mode, by `S_IFMT`.
    let kind = match request.file_mode & 0o170_000 {
        0o100_000 => "Regular",
        0o040_000 => "Directory",
        0o120_000 => "Symlink",
        _ => "Unknown",
    };
    let target = (kind == "Symlink").then(|| String::from_utf8(request.data.clone()).unwrap());
    json!({
        "path": request.path, "file_type": kind, "symlink_target": target, "file_size": request.file_size,
        "file_mode": request.file_mode, "dir_mode": request.dir_mode, "uid": request.uid, "gid": request.gid,
        "offset": request.offset,
    })
}

/// What a container has beside what every one has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Own {
    pub(crate) id: &'static str,
    pub(crate) name: &'static str,
    pub(crate) image: String,
    pub(crate) layers: &'static [u8],
    /// Whether the guest pulls the image.
    pub(crate) pulled: bool,
    /// Fields of its process.
    pub(crate) process: Value,
    pub(crate) mounts: Vec<Value>,
    pub(crate) read_only: bool,
    pub(crate) seccomp: bool,
    pub(crate) devices: Vec<PassedDevice>,
    /// Model volumes, which the engine gives it as devices.
    pub(crate) models: Vec<ModelMount>,
}

pub(crate) fn bind(source: &str, destination: &str, mode: &str) -> Value {
    json!({ "destination": destination, "type": "bind", "source": source, "options": ["rbind", "rprivate", mode] })
}

impl Engine {
    fn is_crio(self) -> bool {
        self == Self::Crio
    }

    fn usual_capabilities(self) -> Value {
        let all = [
            "CAP_CHOWN",
            "CAP_DAC_OVERRIDE",
            "CAP_FSETID",
            "CAP_FOWNER",
            "CAP_SETGID",
            "CAP_SETUID",
            "CAP_SETPCAP",
            "CAP_NET_BIND_SERVICE",
            "CAP_KILL",
            "CAP_MKNOD",
            "CAP_NET_RAW",
            "CAP_SETFCAP",
            "CAP_SYS_CHROOT",
            "CAP_AUDIT_WRITE",
        ];
        let set = if self.is_crio() { &all[..9] } else { &all[..] };
        json!({ "bounding": set, "effective": set, "permitted": set })
    }

    fn annotations(self, own: &Own) -> Value {
        let is_sandbox = own.name.is_empty();
        let kind = if is_sandbox { "sandbox" } else { "container" };
        if self.is_crio() {
            // The second is the author's, who would have another pod's.
            let mut annotations = json!({
                "io.container.manager": "cri-o",
                "io.kubernetes.cri.sandbox-uid": "9e1f0b2c",
                "io.kubernetes.container.name": "POD",
                "io.kubernetes.cri-o.ContainerType": kind,
                "io.kubernetes.cri-o.SandboxID": SANDBOX,
                "io.kubernetes.cri-o.LogPath": "/var/log/pods/default_web-0_8c5d9a1e/web/0.log",
                "io.kubernetes.pod.name": "web-0",
                "io.kubernetes.pod.namespace": "default",
                "io.kubernetes.pod.uid": "8c5d9a1e",
                "kubernetes.io/config.source": "api",
            });
            if !is_sandbox {
                annotations["io.kubernetes.container.name"] = own.name.into();
                annotations["io.kubernetes.cri-o.ImageName"] = own.image.as_str().into();
            }
            return annotations;
        }
        let mut annotations = json!({
            "io.kubernetes.cri.container-type": kind,
            "io.kubernetes.cri.sandbox-id": SANDBOX,
            "io.kubernetes.cri.sandbox-name": "web-0",
            "io.kubernetes.cri.sandbox-namespace": "default",
            "io.kubernetes.cri.sandbox-uid": "8c5d9a1e",
            "io.katacontainers.config.hypervisor.cc_init_data": "H4sI",
        });
        if is_sandbox {
            annotations["io.kubernetes.cri.sandbox-log-directory"] =
                "/var/log/pods/default_web-0_8c5d9a1e".into();
            annotations["io.kubernetes.cri.sandbox-memory"] = "536870912".into();
        } else {
            annotations["io.kubernetes.cri.container-name"] = own.name.into();
            // 1.7 cleans the name, later ones keep it as kubelet has it from the manifest.
            let cleaned = own.image.replace("web:v7@", "web@");
            let image = if self == Self::Containerd1 { cleaned } else { own.image.clone() };
            annotations["io.kubernetes.cri.image-name"] = image.into();
        }
        annotations
    }

    fn mounts(self, own: &Own) -> Vec<Value> {
        let engine = format!("/var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/{SANDBOX}");
        let mut mounts = json!([
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        ]);
        let mounts = mounts.as_array_mut().unwrap();
        let mut binds = own.mounts.clone();
        let mode = if own.read_only { "ro" } else { "rw" };
        let account = format!("{POD}/volumes/kubernetes.io~projected/kube-api-access-x2x9k");
        binds.extend([
            bind(&account, "/var/run/secrets/kubernetes.io/serviceaccount", "ro"),
            bind(&format!("{POD}/etc-hosts"), "/etc/hosts", "rw"),
            bind(&format!("{POD}/containers/{}/6a2f10c3", own.name), "/dev/termination-log", "rw"),
        ]);
        if self.is_crio() {
            // Its own files come before volumes (`addShmMount` and `setupBaseContainerMounts` of `server`).
            let file = |source: &str, destination: &str, options: &[&str]| {
                json!({ "destination": destination, "type": "bind",
                "source": format!("{source}/overlay-containers/{SANDBOX}/userdata/{}", destination.rsplit('/').next().unwrap()),
                "options": options })
            };
            let (run, lib) = ("/run/containers/storage", "/var/lib/containers/storage");
            mounts.extend([
                file(run, "/dev/shm", &["rw", "bind"]),
                file(run, "/etc/resolv.conf", &[mode, "bind", "nodev", "nosuid", "noexec"]),
                file(run, "/etc/hostname", &[mode, "bind"]),
                file(lib, "/run/.containerenv", &[mode, "bind"]),
            ]);
            for mount in &mut binds {
                let clean = mount["destination"].as_str().unwrap().trim_end_matches('/').to_owned();
                mount["destination"] = clean.into();
                mount["options"].as_array_mut().unwrap().push("bind".into());
            }
        }
        if !self.is_crio() {
            let shm = format!("/run/containerd/io.containerd.grpc.v1.cri/sandboxes/{SANDBOX}/shm");
            binds.extend([
                bind(&format!("{engine}/hostname"), "/etc/hostname", mode),
                bind(&format!("{engine}/resolv.conf"), "/etc/resolv.conf", mode),
                bind(&shm, "/dev/shm", "rw"),
            ]);
        }
        // As engines do, so that none hides another.
        let depth =
            |mount: &Value| mount["destination"].as_str().unwrap().trim_end_matches('/').matches('/').count();
        binds.sort_by_key(depth);
        mounts.append(&mut binds);
        std::mem::take(mounts)
    }

    fn masked_paths(self) -> Value {
        let mut paths = json!([
            "/proc/asound",
            "/proc/acpi",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/proc/sched_debug",
            "/proc/scsi",
            "/sys/firmware"
        ]);
        if self == Self::Containerd23 {
            add(
                &mut paths,
                [
                    "/proc/interrupts",
                    "/sys/devices/virtual/powercap",
                    "/sys/devices/system/cpu/cpu0/thermal_throttle",
                ]
                .map(Value::from),
            );
        }
        paths
    }

    fn seccomp(self) -> Value {
        let text = match self {
            Self::Containerd1 => include_str!("../pods/seccomp-1.7.json"),
            Self::Containerd2 | Self::Crio => include_str!("../pods/seccomp-2.1.json"),
            Self::Containerd23 => include_str!("../pods/seccomp-2.3.json"),
        };
        serde_json::from_str(text).unwrap()
    }

    /// The engine's specification of a container.
    fn spec(self, own: &Own) -> Value {
        let mut spec = json!({
            "ociVersion": "1.2.1",
            "process": {
                "user": {"uid": 0, "gid": 0, "additionalGids": [0, 2000]},
                "env": [PATH, "HOSTNAME=web-0"],
                "cwd": "/",
                "capabilities": self.usual_capabilities(),
                "apparmorProfile": "cri-containerd.apparmor.d",
                "oomScoreAdj": 985,
            },
            "root": {"path": "rootfs", "readonly": own.read_only},
            "mounts": self.mounts(own),
            "hooks": {"createRuntime": [{"path": "/usr/bin/nvidia-ctk-hook"}]},
            "annotations": self.annotations(own),
            "linux": {
                "resources": {
                    "devices": [
                        {"allow": false, "access": "rwm"},
                        {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
                        {"allow": true, "type": "c", "major": 5, "minor": 2, "access": "rwm"},
                        {"allow": true, "type": "c", "major": 136, "access": "rwm"},
                    ],
                    "memory": {"limit": 536_870_912, "swap": 536_870_912},
                    "cpu": {"shares": 1024, "quota": 100_000, "period": 100_000},
                    "pids": {"limit": 4096},
                    "blockIO": {"weight": 500},
                },
                "cgroupsPath": "kubepods-burstable-pod8c5d9a1e.slice:cri-containerd:x",
                "namespaces": [
                    {"type": "pid"},
                    {"type": "ipc", "path": "/proc/4711/ns/ipc"},
                    {"type": "uts", "path": "/proc/4711/ns/uts"},
                    {"type": "mount"},
                    {"type": "network", "path": "/var/run/netns/cni-1234"},
                ],
                "devices": [{"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 438}],
                "maskedPaths": self.masked_paths(),
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            },
        });
        if own.seccomp {
            spec["linux"]["seccomp"] = self.seccomp();
        }
        for (field, value) in own.process.as_object().into_iter().flatten() {
            spec["process"][field] = value.clone();
        }
        spec
    }

    /// The shim's request for it.
    pub(crate) fn request(self, own: &Own) -> Value {
        let rootfs = if own.pulled { GuestRootfs::Pulled(own.image.clone()) } else { layered(own.layers) };
        json_of(&created_in(false, own.id, self.spec(own), &rootfs, &own.models, &own.devices))
    }
}

fn stat(path: &Path) -> Option<HostFile> {
    let path = path.to_string_lossy();
    // For a volume of an image containerd copies the image's directory, and CRI-O makes one of root's.
    let volumes = [("/volumes/new", DATA), ("/userdata/mounts/new", EmptyDirectory::NEW)];
    if let Some((_, like)) = volumes.into_iter().find(|(place, _)| path.ends_with(place)) {
        let EmptyDirectory { gid, mode, .. } = like;
        return Some(HostFile { kind: FileKind::Directory, gid, mode, medium: None, empty: Some(like) });
    }
    // Of the volume with a subPath: a secret, and nothing else.
    if path.ends_with("/key") && !path.contains("~secret") {
        return None;
    }
    let kind = if path.contains("/volumes/") { FileKind::Directory } else { FileKind::File };
    let medium = path.ends_with("~empty-dir/quick").then_some(Medium::Memory(4096));
    Some(HostFile { kind, gid: 2000, mode: 0o777, medium, empty: None })
}

pub(crate) fn created(
    id: &str,
    spec: Value,
    layers: &[u8],
    models: &[ModelMount],
    devices: &[PassedDevice],
) -> CreateContainerRequest {
    created_in(false, id, spec, &layered(layers), models, devices)
}

fn layered(layers: &[u8]) -> GuestRootfs {
    GuestRootfs::Layers(layers.iter().copied().map(layer).collect())
}

/// In a VM that has a scratch disk, or has none.
fn created_in(
    scratch: bool,
    id: &str,
    spec: Value,
    rootfs: &GuestRootfs,
    models: &[ModelMount],
    devices: &[PassedDevice],
) -> CreateContainerRequest {
    let spec: Spec = serde_json::from_value(spec).unwrap();
    let sandbox = SandboxFacts { namespace: "k8s.io", seccomp: true, scratch, volumes: VolumeJudge::Engine };
    let mut guest = translate(id, &spec, &sandbox, rootfs, &stat).unwrap();
    guest.mount_models(id, models);
    guest.pass(devices);
    guest.into_request(id)
}

fn add(list: &mut Value, items: impl IntoIterator<Item = Value>) {
    list.as_array_mut().unwrap().extend(items);
}

fn reference(name: &str, digest: &str) -> String {
    format!("registry.example.com/{name}@sha256:{}", digest.repeat(64 / digest.len()))
}

impl Engine {
    /// The sandbox's own container, of which the engine's image and rights do not matter.
    pub(crate) fn pause(self) -> Value {
        let mut spec = self.spec(&Own { id: SANDBOX, read_only: true, ..Own::default() });
        spec["hostname"] = "web-0".into();
        spec["process"]["args"] = json!(["/anything"]);
        spec["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "0"});
        json_of(&created(SANDBOX, spec, &[], &[], &[]))
    }

    fn prepare_with(volumes: &[&str]) -> Own {
        let mount =
            |name| bind(&format!("{POD}/volumes/kubernetes.io~empty-dir/{name}"), &format!("/{name}"), "rw");
        Own {
            id: PREPARE,
            name: "prepare",
            image: reference("tools", "0123456789abcdef"),
            layers: &[1, 2],
            process: json!({ "args": ["/bin/prepare"] }),
            mounts: volumes.iter().map(mount).collect(),
            ..Own::default()
        }
    }

    pub(crate) fn prepare(self) -> Value {
        self.request(&Self::prepare_with(&["cache"]))
    }

    /// The same, where the guest pulls the image.
    pub(crate) fn prepare_pulled(self) -> Value {
        self.request(&Own { pulled: true, ..Self::prepare_with(&["cache"]) })
    }

    /// With a directory of the engine's at the place of a volume of the image (CRI-O: `addImageVolumes` of
    /// `server/container_create.go`).
    fn with_volume(self, place: &str) -> Own {
        let mut mount = bind(&format!("/var/lib/engine/containers/{PREPARE}/volumes/new"), place, "rw");
        if self.is_crio() {
            let run = "/run/containers/storage/overlay-containers";
            mount["source"] = format!("{run}/{PREPARE}/userdata/mounts/new").into();
            mount["options"] = json!(["private", "rw"]);
        }
        let mut own = Self::prepare_with(&["cache"]);
        own.mounts.push(mount);
        own
    }

    /// The container `prepare` with such a directory, at a place where the image has one like it.
    pub(crate) fn prepare_with_volume(self) -> Value {
        self.request(&self.with_volume(if self.is_crio() { "/var/new" } else { "/var/data/" }))
    }

    /// The same, where the guest pulls the image, with such a directory at `place`.
    pub(crate) fn prepare_pulled_with_volume(self, place: &str) -> Value {
        self.request(&Own { pulled: true, ..self.with_volume(place) })
    }

    /// In a VM that has a scratch disk, with an emptyDir in memory besides.
    pub(crate) fn prepare_in_scratch(self) -> Value {
        let own = Self::prepare_with(&["cache", "quick"]);
        json_of(&created_in(true, own.id, self.spec(&own), &layered(own.layers), &[], &[]))
    }

    pub(crate) fn proxy(self) -> Value {
        self.request(&Own {
            id: PROXY,
            name: "proxy",
            image: reference("proxy", "89abcdef01234567"),
            layers: &[3],
            process: json!({
                "user": {"uid": 1000, "gid": 1000, "additionalGids": [1000, 44, 2000]},
                "args": ["/bin/proxy", "--quiet"],
            }),
            ..Own::default()
        })
    }

    pub(crate) fn web_own(self) -> Own {
        let mut app = bind(&format!("{POD}/volumes/kubernetes.io~configmap/app"), "/etc/app/", "ro");
        app["options"][1] = "rslave".into();
        Own {
            id: WEB,
            name: "web",
            image: reference("web:v7", "fedcba9876543210"),
            layers: &[4, 5, 6],
            process: web_process(),
            mounts: vec![
                app,
                bind(&format!("{POD}/volume-subpaths/key/web/1"), "/etc/key/token", "ro"),
                bind(&format!("{POD}/volumes/kubernetes.io~empty-dir/cache"), "/cache", "rw"),
            ],
            read_only: true,
            seccomp: true,
            ..Own::default()
        }
    }

    pub(crate) fn web(self) -> Value {
        self.request(&self.web_own())
    }

    /// With two GPUs and an NVSwitch.
    pub(crate) fn gpu(self) -> Value {
        let device = |number, host: &str, guest: &str, gpu| PassedDevice {
            number,
            host: host.to_owned(),
            guest: guest.to_owned(),
            gpu,
        };
        self.request(&Own {
            id: GPU,
            name: "gpu",
            image: reference("gpu", "00112233445566778899aabbccddeeff"),
            layers: &[7],
            process: json!({
                "terminal": true,
                "args": ["/bin/infer", "--listen", "10.4.0.5:80"],
                // containerd leaves what the image has of a variable before what the manifest has.
                "env": [PATH, "TERM=xterm", "HOSTNAME=web-0", "MODE=image", "POD_IP=10.4.0.5", "MODE=own",
                    "PCIDEVICE_NVIDIA_COM_PGPU=0000:41:00.0,0000:61:00.0"],
            }),
            devices: vec![
                device(3, "0000:41:00.0", "09/00", Some(0)),
                device(7, "0000:61:00.0", "0a/00", Some(1)),
                device(9, "0000:81:00.0", "0b/00", None),
            ],
            models: vec![ModelMount { destination: "/models".into(), root: layer(9), options: Vec::new() }],
            ..Own::default()
        })
    }
}

/// In containerd's terms.
pub(crate) fn web_process() -> Value {
    let bind_service = ["CAP_NET_BIND_SERVICE"];
    json!({
        "user": {"uid": 1000, "gid": 1000, "additionalGids": [1000, 44, 2000]},
        "args": ["/bin/serve", "--port", "8080"],
        "env": [PATH, "HOSTNAME=web-0", "PORT=8080", "TOKEN=whatever is in the secret",
            "KUBERNETES_SERVICE_HOST=10.96.0.1", "KUBERNETES_SERVICE_PORT=443",
            "KUBERNETES_SERVICE_PORT_HTTPS=443", "KUBERNETES_PORT=tcp://10.96.0.1:443",
            "KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443", "KUBERNETES_PORT_443_TCP_PROTO=tcp",
            "KUBERNETES_PORT_443_TCP_PORT=443", "KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1",
            "DB_SERVICE_HOST=fd00::7", "DB_SERVICE_PORT=5432", "DB_PORT=tcp://[fd00::7]:5432"],
        "cwd": "/srv",
        "capabilities": {"bounding": bind_service, "effective": bind_service, "permitted": bind_service},
        "noNewPrivileges": true,
        "oomScoreAdj": 985,
    })
}
