//! The shim's requests for the pod.

use std::path::Path;

use ::agent::proto::agent::{CopyFileRequest, CreateContainerRequest};
use guest_spec::{FileKind, GuestRootfs, HostFile, LunAddress, SandboxFacts, translate};
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

pub(crate) const PAUSE: &str = "5a0db0f00d";
pub(crate) const PREPARE: &str = "c0ffee00";
pub(crate) const WEB: &str = "c0ffee01";
pub(crate) const GPU: &str = "c0ffee02";

const POD: &str = "/var/lib/kubelet/pods/8c5d9a1e";
const USUAL: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

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

fn bind(source: &str, destination: &str, mode: &str) -> Value {
    json!({ "destination": destination, "type": "bind", "source": source, "options": ["rbind", "rprivate", mode] })
}

/// containerd's specification of a container that asks for nothing.
fn spec(role: &str, name: &str, image: &str) -> Value {
    let engine = "/var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/f00d";
    let mut mounts = json!([
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
    ]);
    let list = mounts.as_array_mut().unwrap();
    if role == "container" {
        list.push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}));
        list.push(bind(&format!("{POD}/etc-hosts"), "/etc/hosts", "rw"));
        list.push(bind(&format!("{POD}/containers/{name}/6a2f10c3"), "/dev/termination-log", "rw"));
        list.push(bind(&format!("{engine}/hostname"), "/etc/hostname", "rw"));
        list.push(bind(
            &format!("{POD}/volumes/kubernetes.io~projected/kube-api-access-x2x9k"),
            "/var/run/secrets/kubernetes.io/serviceaccount",
            "ro",
        ));
    }
    list.push(bind(&format!("{engine}/resolv.conf"), "/etc/resolv.conf", "ro"));
    list.push(bind("/run/containerd/io.containerd.grpc.v1.cri/sandboxes/f00d/shm", "/dev/shm", "rw"));
    let mut annotations = json!({
        "io.kubernetes.cri.container-type": role,
        "io.kubernetes.cri.sandbox-id": "f00d",
        "io.kubernetes.cri.sandbox-name": "web-0",
        "io.kubernetes.cri.sandbox-namespace": "default",
        "io.kubernetes.cri.sandbox-uid": "8c5d9a1e",
    });
    if role == "container" {
        annotations["io.kubernetes.cri.container-name"] = name.into();
        annotations["io.kubernetes.cri.image-name"] = image.into();
    }
    json!({
        "ociVersion": "1.2.1",
        "process": {
            "user": {"uid": 0, "gid": 0, "additionalGids": [0, 2000]},
            "args": ["/pause"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": {"bounding": USUAL, "effective": USUAL, "permitted": USUAL},
            "apparmorProfile": "cri-containerd.apparmor.d",
            "oomScoreAdj": 985,
        },
        "root": {"path": "rootfs", "readonly": role == "sandbox"},
        "mounts": mounts,
        "hooks": {"createRuntime": [{"path": "/usr/bin/nvidia-ctk-hook"}]},
        "annotations": annotations,
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
            "maskedPaths": ["/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

fn stat(path: &Path) -> Option<HostFile> {
    let kind =
        if path.to_string_lossy().contains("/volumes/") { FileKind::Directory } else { FileKind::File };
    Some(HostFile { kind, gid: 2000 })
}

fn created(id: &str, spec: Value, luns: &[u16]) -> CreateContainerRequest {
    let spec: Spec = serde_json::from_value(spec).unwrap();
    let layers = luns.iter().map(|lun| LunAddress { target: 0, lun: *lun }).collect();
    let sandbox = SandboxFacts { namespace: "k8s.io", seccomp: true };
    translate(id, &spec, &sandbox, &GuestRootfs { layers }, &stat).unwrap().into_request(id)
}

fn add(list: &mut Value, items: impl IntoIterator<Item = Value>) {
    list.as_array_mut().unwrap().extend(items);
}

pub(crate) fn pause() -> Value {
    let mut spec = spec("sandbox", "", "");
    spec["process"]["user"] = json!({"uid": 65535, "gid": 65535});
    spec["process"]["noNewPrivileges"] = true.into();
    spec["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "0"});
    json_of(&created(PAUSE, spec, &[0]))
}

pub(crate) fn prepare() -> Value {
    let digest = "0123456789abcdef".repeat(4);
    let mut spec = spec("container", "prepare", &format!("registry.example.com/tools@sha256:{digest}"));
    spec["process"]["args"] = json!(["/bin/prepare"]);
    add(&mut spec["process"]["env"], [json!("HOSTNAME=web-0"), json!("KUBERNETES_SERVICE_HOST=10.96.0.1")]);
    add(&mut spec["mounts"], [bind(&format!("{POD}/volumes/kubernetes.io~empty-dir/cache"), "/cache", "rw")]);
    json_of(&created(PREPARE, spec, &[1, 2]))
}

pub(crate) fn web() -> Value {
    web_of(WEB)
}

pub(crate) fn web_of(id: &str) -> Value {
    let digest = "fedcba9876543210".repeat(4);
    let mut spec = spec("container", "web", &format!("registry.example.com/web@sha256:{digest}"));
    spec["process"] = web_process();
    spec["root"]["readonly"] = true.into();
    add(
        &mut spec["mounts"],
        [
            bind(&format!("{POD}/volumes/kubernetes.io~configmap/app"), "/etc/app", "ro"),
            bind(&format!("{POD}/volume-subpaths/key/web/1"), "/etc/key/token", "ro"),
            bind(&format!("{POD}/volumes/kubernetes.io~empty-dir/cache"), "/cache", "rw"),
        ],
    );
    json_of(&created(id, spec, &[3, 4, 5]))
}

/// In containerd's terms.
pub(crate) fn web_process() -> Value {
    let bind_service = ["CAP_NET_BIND_SERVICE"];
    json!({
        "user": {"uid": 1000, "gid": 1000, "additionalGids": [1000, 2000]},
        "args": ["/bin/serve", "--port", "8080"],
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=web-0", "PORT=8080",
            "TOKEN=whatever is in the secret", "KUBERNETES_SERVICE_HOST=10.96.0.1", "KUBERNETES_SERVICE_PORT=443",
            "KUBERNETES_SERVICE_PORT_HTTPS=443", "KUBERNETES_PORT=tcp://10.96.0.1:443",
            "KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443", "KUBERNETES_PORT_443_TCP_PROTO=tcp",
            "KUBERNETES_PORT_443_TCP_PORT=443", "KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1", "DB_SERVICE_HOST=fd00::7"],
        "cwd": "/srv",
        "capabilities": {"bounding": bind_service, "effective": bind_service, "permitted": bind_service},
        "noNewPrivileges": true,
        "oomScoreAdj": 985,
    })
}

/// With two GPUs, as kata-agent takes them.
pub(crate) fn gpu() -> Value {
    let digest = "00112233445566778899aabbccddeeff".repeat(2);
    let mut spec = spec("container", "gpu", &format!("registry.example.com/gpu@sha256:{digest}"));
    spec["process"]["args"] = json!(["/bin/infer"]);
    add(&mut spec["process"]["env"], [json!("PCIDEVICE_NVIDIA_COM_PGPU=0000:41:00.0,0000:61:00.0")]);
    let mut request = json_of(&created(GPU, spec, &[6]));
    for (rank, (id, host, guest)) in
        [("vfio3", "0000:41:00.0", "09/00"), ("vfio7", "0000:61:00.0", "0a/00")].into_iter().enumerate()
    {
        add(
            &mut request["devices"],
            [
                json!({"id": id, "type_": "vfio-pci-gk", "vm_path": "", "container_path": format!("/dev/vfio/devices/{id}"),
                "options": [format!("{host}={guest}")]}),
            ],
        );
        request["OCI"]["Annotations"][format!("cdi.k8s.io/{id}")] = format!("nvidia.com/gpu={rank}").into();
    }
    request
}
