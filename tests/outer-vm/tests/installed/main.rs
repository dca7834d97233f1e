//! A whole life of Coffer on a node with KVM, an IOMMU and a GPU: installed, a pod that kubelet gave a GPU, its start as a
//! picture, an upgrade below it, and away again. One pod, for its start takes half a minute here. It has a VM of its own: its
//! containerd is not the one of the other tests.

#![allow(clippy::unwrap_used, reason = "all of it is tests")]

#[allow(dead_code, reason = "the other tests need more of it")]
#[path = "../host/gpus.rs"]
mod gpus;
#[allow(dead_code, reason = "the other tests need more of it")]
#[path = "../host/nudge.rs"]
mod nudge;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use e2e::{
    Artefacts, BARE_NODE_LOG, BUSYBOX, BareNode, Cri, GpuNode, OrFail, PodRequest, Victim, import_busybox,
    import_pause, until, workspace,
};
use outer_vm::Product;

use gpus::Bound;

/// Where the bundles are made of.
const PROGRAMS: &str = "/run/e2e/programs";

/// What is installed: the shim as it is released, the command, and the plain guest image.
fn bundle(version: &str) -> PathBuf {
    let directory = PathBuf::from(format!("/run/e2e/bundle-{version}"));
    let artefacts = Artefacts::find();
    let _ = fs::remove_dir_all(PROGRAMS);
    fs::create_dir_all(PROGRAMS).or_fail(PROGRAMS);
    for program in [&artefacts.shim, &Artefacts::coffer()] {
        let name = program.file_name().or_fail("its name");
        symlink(program, Path::new(PROGRAMS).join(name)).or_fail("a program");
    }
    let mut command = Command::new(workspace().join("tools/bundle"));
    command.args([&directory, &artefacts.image]).arg("-");
    command.env("COFFER_BUNDLE_VERSION", version);
    command.env("COFFER_BUNDLE_PROGRAMS", PROGRAMS);
    let output = command.output().or_fail("tools/bundle");
    assert!(output.status.success(), "{}", said(&output));
    directory
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs `coffer`, which must succeed, and tells how long it took.
#[track_caller]
fn coffer(node: &BareNode, bundle: &Path, arguments: &[&str]) -> String {
    let start = Instant::now();
    let output = node.run(&bundle.join("bin/coffer"), arguments);
    println!("coffer {}: {} ms", arguments.join(" "), start.elapsed().as_millis());
    assert!(output.status.success(), "coffer {arguments:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_pod_with_a_gpu_lives_through_an_upgrade_and_the_node_is_as_before() {
    BareNode::test_in_outer_vm(2, async |node| {
        nudge::keep_awake();
        let gpus = Bound::first(1, Product::H200);
        gpus.cdi();
        let address = gpus.slots()[0].address();
        let (first, second) = (bundle("1.0"), bundle("2.0"));
        let before = node.tree();

        let told = coffer(node, &first, &["install"]);
        assert!(
            told.contains("coffer       registered") && told.contains("coffer-snp   left out: "),
            "{told}"
        );
        assert!(told.contains("GPUs         12 GPUs, 4 NVSwitches: "), "{told}");
        let status = coffer(node, &first, &["status"]);
        assert!(status.contains("version      1.0-") && status.contains("handler      coffer\n"), "{status}");

        import_pause().await;
        import_busybox().await;
        let _kubelet = GpuNode::new("gpu", "uid-gpu", "0", Duration::ZERO);
        let start = Instant::now();
        let request = PodRequest::new(Cri::connect().await, "gpu").resources(64 << 20, 1);
        let mut pod = request.start().await;
        println!("the pod runs after {} ms", start.elapsed().as_millis());
        assert_eq!(gpus.holders(), [Some(pod.id.clone())]);
        let container =
            pod.try_run_with_device("web", BUSYBOX, &["sleep", "100000"], "nvidia.com/pgpu=0").await;
        let container = container.or_fail("a container with the GPU");
        let seen = container.exec(&["sh", "-c", "cat /sys/bus/pci/devices/*/vendor"]).await;
        assert!(seen.contains("0x10de"), "{seen}");

        let rows: serde_json::Value =
            serde_json::from_str(&coffer(node, &first, &["pods", "--output", "json"])).unwrap();
        assert_eq!(
            (&rows[0]["sandbox"], &rows[0]["state"]),
            (&pod.id.clone().into(), &"running".into()),
            "{rows}"
        );
        assert_eq!(rows[0]["devices"], serde_json::json!([address]), "{rows}");
        let svg = coffer(node, &first, &["timeline", &pod.id[..12], "--log", BARE_NODE_LOG, "--svg"]);
        for words in ["<svg ", "Start of ", "planned", "claimed", "agent", "running", &address] {
            assert!(svg.contains(words), "{words} is not in {svg}");
        }
        // To be looked at.
        let logs = workspace().join("build/test-logs");
        fs::create_dir_all(&logs).or_fail("where the picture goes");
        fs::write(logs.join("outer-timeline.svg"), svg).or_fail("the picture");

        let sandbox = pod.id[..12].to_owned();
        assert!(coffer(node, &first, &["logs", &sandbox, "--log", BARE_NODE_LOG]).contains("boot phase"));
        let report = "/run/e2e/report.tar";
        let packed = coffer(node, &first, &["debug", &sandbox, "--log", BARE_NODE_LOG, "--out", report]);
        for part in ["log.txt", "timeline.json", "record.json", "qemu.txt", "doctor.json", "status.json"] {
            assert!(packed.contains(part), "{part} is not in {packed}");
        }
        fs::remove_file(report).or_fail("the report");
        let metrics = coffer(node, &first, &["metrics", "--log", BARE_NODE_LOG]);
        for sample in [
            "coffer_sandboxes{state=\"running\"} 1\n",
            "coffer_boot_phase_seconds_count{phase=\"all\"} 1\n",
            "coffer_boot_failures_total{phase=\"agent\"} 0\n",
        ] {
            assert!(metrics.contains(sample), "{sample} is not in {metrics}");
        }
        assert!(!metrics.contains("coffer_gpu_resets_total 0\n"), "{metrics}");

        coffer(node, &second, &["install"]);
        assert_eq!(container.exec(&["echo", "still"]).await, "still\n", "its pod keeps the old version");
        let status = coffer(node, &second, &["status"]);
        assert!(status.contains("version      2.0-") && status.contains("1 with version 1.0-"), "{status}");
        let refused = node.run(&second.join("bin/coffer"), &["uninstall"]);
        assert!(said(&refused).contains("[pods-run]: 1 pods"), "{}", said(&refused));

        pod.remove().await;
        gpus.free().await;
        Victim::Shim.gone().await;
        coffer(node, &second, &["sweep"]);
        coffer(node, &second, &["uninstall"]);
        let after = node.tree();
        assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
        assert!(after == before, "a file has another content than before");
        until("the handler to be gone", Duration::from_secs(10), async || {
            let handlers = Cri::connect().await.handlers().await;
            (!handlers.iter().any(|found| found == "coffer") && handlers.iter().any(|found| found == "runc"))
                .then_some(())
        })
        .await;
        for made in [&first, &second, Path::new(PROGRAMS)] {
            fs::remove_dir_all(made).or_fail("remove what the test made");
        }
    });
}
