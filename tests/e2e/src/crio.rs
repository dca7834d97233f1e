//! What CRI-O writes before it calls a shim: a pod's files, and the specification of its sandbox or of a container
//! (`server/sandbox_run_linux.go`, `server/container_create.go` and `internal/factory/container` of CRI-O 1.24 to 1.37).

use std::fs;
use std::path::{Path, PathBuf};

use k8s_cri::v1::Mount;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Map, Value, json};

use crate::bundle;
use crate::or_fail::OrFail;

/// containers/storage: what stays, and what goes with the node's end.
const GRAPH_ROOT: &str = "/run/e2e/storage/lib";
const RUN_ROOT: &str = "/run/e2e/storage/run";

/// A container's directory in one of them.
fn userdata(root: &str, id: &str) -> PathBuf {
    Path::new(root).join("overlay-containers").join(id).join("userdata")
}

/// The specification of a sandbox, whose files are made, or of a container in it. `by_author` are the pod's own annotations.
pub(crate) fn spec(
    id: &str,
    sandbox: &str,
    command: &[&str],
    mounts: &[Mount],
    by_author: &[(&str, &str)],
) -> String {
    if id == sandbox {
        make_files(id);
    }
    let annotations = annotations(id, sandbox, by_author);
    let mut spec: Value = serde_json::from_str(&bundle::spec(command, annotations)).or_fail("a spec");
    let all = spec["mounts"].as_array_mut().or_fail("mounts");
    // What `generate.New` of runtime-tools has besides, and the cgroup's.
    let safe = ["nosuid", "noexec", "nodev"];
    all.extend([
        json!({ "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": safe }),
        json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] }),
        json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] }),
    ]);
    let file = |root, destination: &str, options: &[&str]| {
        let name = destination.rsplit('/').next().unwrap_or_default();
        let source = userdata(root, sandbox).join(name);
        json!({ "destination": destination, "type": "bind", "source": source, "options": options })
    };
    all.push(file(RUN_ROOT, "/dev/shm", &["rw", "bind"]));
    if id == sandbox {
        all.push(file(RUN_ROOT, "/etc/hostname", &["ro", "bind", "nodev", "nosuid", "noexec"]));
    } else {
        all.extend([
            file(RUN_ROOT, "/etc/resolv.conf", &["rw", "bind", "nodev", "nosuid", "noexec"]),
            file(RUN_ROOT, "/etc/hostname", &["rw", "bind"]),
            file(GRAPH_ROOT, "/run/.containerenv", &["rw", "bind"]),
        ]);
    }
    for mount in mounts {
        all.push(json!({
            "destination": mount.container_path,
            "type": "bind",
            "source": mount.host_path,
            "options": ["rbind", "rprivate", if mount.readonly { "ro" } else { "rw" }, "bind"],
        }));
    }
    spec.to_string()
}

/// In the order in which CRI-O writes them: what comes later replaces what is there.
fn annotations(id: &str, sandbox: &str, by_author: &[(&str, &str)]) -> Value {
    let is_sandbox = id == sandbox;
    let uid = format!("uid-{sandbox}");
    let own = [
        ("io.kubernetes.cri-o.ContainerType", if is_sandbox { "sandbox" } else { "container" }),
        ("io.kubernetes.cri-o.SandboxID", sandbox),
        ("io.kubernetes.cri-o.SandboxName", "e2e"),
        ("io.kubernetes.cri-o.ContainerID", id),
        ("io.container.manager", "cri-o"),
    ];
    let labels = [
        ("io.kubernetes.container.name", if is_sandbox { "POD" } else { id }),
        ("io.kubernetes.pod.name", sandbox),
        ("io.kubernetes.pod.namespace", "default"),
        ("io.kubernetes.pod.uid", &uid),
    ];
    let order = if is_sandbox { [&own[..], by_author, &labels] } else { [by_author, &own, &labels] };
    let all = order.concat().into_iter().map(|(name, value)| (name.to_owned(), value.into()));
    Value::Object(all.collect::<Map<_, _>>())
}

/// A sandbox's files, as each of its containers has them.
fn make_files(sandbox: &str) {
    let (run, lib) = (userdata(RUN_ROOT, sandbox), userdata(GRAPH_ROOT, sandbox));
    fs::create_dir_all(run.join("shm")).or_fail("make the pod's run directory");
    fs::create_dir_all(&lib).or_fail("make the pod's directory");
    fs::write(run.join("hostname"), "e2e\n").or_fail("write hostname");
    fs::write(run.join("resolv.conf"), "nameserver 192.0.2.53\n").or_fail("write resolv.conf");
    fs::write(lib.join(".containerenv"), "").or_fail("write .containerenv");
    let options = Some("mode=1777,size=65536k");
    mount(Some("shm"), &run.join("shm"), Some("tmpfs"), MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID, options)
        .or_fail("mount the pod's shared memory");
}

/// Takes away what was made for a sandbox, where it is one.
pub(crate) fn forget(sandbox: &str) {
    let _ = umount2(&userdata(RUN_ROOT, sandbox).join("shm"), MntFlags::MNT_DETACH);
    for root in [RUN_ROOT, GRAPH_ROOT] {
        let _ = fs::remove_dir_all(Path::new(root).join("overlay-containers").join(sandbox));
    }
}
