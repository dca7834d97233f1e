//! Each stage of a boot fails in turn, over programs that are played; nothing is left of any.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use slog::{Discard, Logger, o};
use tempfile::TempDir;
use vmm_config::config::NodeConfig;
use vmm_config::image::ImageManifest;
use vmm_config::request::{OciLimits, PodRequest};
use vmm_config::tee::HostTee;

use super::{BootError, Phase, Planned, Request};
use crate::devices::DevicesRequest;

/// Speaks QMP as a QEMU that is new enough, and ends a second later.
const QMP: &str = r#"[[ "$*" =~ id=qmp,fd=([0-9]+) ]] || exit 2
qmp=${BASH_REMATCH[1]}
version='{"qemu": {"micro": 0, "minor": 0, "major": 99}, "package": "fake, for tests"}'
echo "{\"QMP\": {\"version\": $version, \"capabilities\": []}}" >&"$qmp"
read -r command <&"$qmp"
[[ "$command" =~ \"id\":\ *([0-9]+) ]] && echo "{\"return\": {}, \"id\": ${BASH_REMATCH[1]}}" >&"$qmp"
sleep 1"#;
/// Has the sockets of vhost-device-vsock, and nobody behind them.
const VSOCK: &str = ": > vsock.sock; : > vhost.sock; exec sleep 600";

/// Has no jail, and starts the program that it is told to.
const JAILER: &str = r#"[ "$1" = jail ] && shift 2 && exec "$@""#;

/// A host of which a boot takes what it needs.
struct Rig(TempDir);

impl Rig {
    fn new() -> Self {
        let rig = Self(tempfile::tempdir().unwrap());
        rig.program("vhost-device-vsock", VSOCK);
        rig.program("jailer", JAILER);
        rig
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.path(name);
        std::fs::write(&path, format!("#!/bin/bash\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    }

    fn planned(&self) -> Planned {
        let text = format!(
            "accel = \"tcg\"\nimage = {:?}\nqemu = {:?}\nvhost_device_vsock = {:?}\n",
            self.path("image"),
            self.path("qemu"),
            self.path("vhost-device-vsock"),
        );
        let config = NodeConfig::parse(&text, "test").unwrap();
        let pod = PodRequest::new(&config, "pod", [], OciLimits::default()).unwrap();
        let request = Request {
            namespace: "k8s.io".to_owned(),
            sandbox: "pod".to_owned(),
            config,
            tee: HostTee::Absent { reason: "a test".to_owned() },
            image: image(),
            pod,
            netns: None,
            cgroup: None,
            limited: false,
            devices: DevicesRequest::default(),
            jailer: self.path("jailer").into(),
            state_root: self.0.path().join("run"),
        };
        Planned::new(request, &Logger::root(Discard, o!()))
    }

    /// Boots as far as it goes.
    async fn boot(&self) -> BootError {
        let boot = async {
            let spawned = self.planned().claim().await?.spawn().await?;
            spawned.qmp().await?.agent().await.map(drop)
        };
        let booted = tokio::time::timeout(Duration::from_secs(60), boot).await.unwrap();
        booted.unwrap_err()
    }

    /// Whether state directory and processes are gone.
    fn is_clean(&self) -> bool {
        let run = self.0.path().join("run");
        let left = std::fs::read_dir(&run).map_or(0, Iterator::count);
        left == 0 && !runs_in(self.0.path())
    }
}

/// Whether a process has its working directory, or its program, below this path.
fn runs_in(path: &Path) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| std::fs::read_link(process.path().join("cwd")).ok())
        .any(|directory| directory.starts_with(path))
}

fn image() -> ImageManifest {
    let (root, salt) = ("aa".repeat(32), "bb".repeat(32));
    let verity = json!({ "root_hash": root, "salt": salt, "data_blocks": 1000, "hash_start_block": 1000,
        "block_size": 4096, "algorithm": "sha256" });
    let cmdline = format!(
        "console=ttyS0 quiet panic=-1 dm-mod.create=\"root,,,ro,0 8000 verity 1 /dev/vda /dev/vda 4096 4096 1000 1000 \
         sha256 {root} {salt}\" root=/dev/dm-0 rootfstype=erofs ro"
    );
    let manifest = json!({
        "format": 1, "name": "coffer-guest-dev", "profile": "dev", "agent": "kata-agent 4.1.0",
        "agent_sha256": "03".repeat(32),
        "kernel": { "file": "vmlinuz", "sha256": "01".repeat(32), "release": "7.2.12-coffer" },
        "root": { "file": "root.img", "sha256": "02".repeat(32), "verity": verity },
        "packages": {}, "cmdline": cmdline,
    });
    ImageManifest::parse(manifest.to_string().as_bytes()).unwrap()
}

#[tokio::test]
async fn a_boot_that_fails_at_any_stage_leaves_nothing() {
    let cases: [(&str, Option<&str>, Phase, &str); 4] = [
        ("no vsock", Some("exit 1"), Phase::Claimed, "vhost-device-vsock"),
        ("no QEMU", None, Phase::Spawned, "qemu"),
        ("QEMU ends at once", Some("echo no such device >&2; exit 3"), Phase::Qmp, "no such device"),
        ("QEMU ends in the boot", Some(QMP), Phase::Agent, "QEMU ended"),
    ];
    for (name, qemu, phase, part) in cases {
        let rig = Rig::new();
        if let Some(script) = qemu {
            rig.program("qemu", script);
        }
        if phase == Phase::Claimed {
            std::fs::remove_file(rig.path("vhost-device-vsock")).unwrap();
        }
        if Path::new("/dev/vhost-vsock").exists() && phase == Phase::Claimed {
            continue; // the kernel has what is missing here
        }
        let error = rig.boot().await;
        assert_eq!(error.phase, phase, "{name}: {error}");
        assert!(error.to_string().contains(part), "{name}: {error}");
        assert!(rig.is_clean(), "{name}: something is left");
    }
}
