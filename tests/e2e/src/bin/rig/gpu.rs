//! The demonstration's pod with a GPU: set, verified, assigned, and given back.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use e2e::{Artefacts, BUSYBOX, Containerd, Gpus, NodeConfig, OrFail, Run, until};

use crate::steps::{Line, Steps};

/// What the shim says of GPUs while it starts a pod and ends it.
const LINES: [&str; 6] =
    ["GPU assigned", "GPUs are set", "GPU: writing", "GPU: reset", "GPUs are verified", "GPU is free"];

/// Runs one container with a GPU from start to end.
pub async fn demo(containerd: &Containerd, artefacts: &Artefacts, steps: &mut Steps) {
    println!(
        "\nA pod with a GPU. There is no GPU here: an emulated H100 stands in for it, a program that answers as a GPU's\n\
         registers do, with a boot that takes as long as hardware's. It computes nothing, and what it shows is no\n\
         measurement of hardware. A node's shim does not know such GPUs; this demonstration's is built for rigs."
    );
    let gpus = Gpus::h100_in_real_time(1);
    let config = NodeConfig::of_rig(artefacts).set("cc_mode", "\"manage\"").set("gpu_mode", "\"on\"");
    let config = config.write("demo-gpu");
    steps.done("emulated H100 runs, its confidential computing off");
    list(&artefacts.shim);

    let annotation = Gpus::annotation(1);
    println!(
        "\n$ ctr -n k8s.io run -d --runtime io.containerd.coffer.v2 --annotation {annotation} --snapshotter erofs {BUSYBOX} demo-gpu \
         sleep 1000"
    );
    let mark = containerd.log_mark();
    let run = Run::new("demo-gpu", BUSYBOX, &["sleep", "1000"]).config(&config);
    let container = run.flag("--annotation").flag(&annotation).start().await;
    steps.done("pod runs with its GPU");
    println!("\n  the GPU's way to the pod (cc_mode = \"manage\", gpu_mode = \"on\"), from the shim's log:");
    tell(&containerd.log_since(mark));

    let ids = "grep PCI_ID=10DE /sys/bus/pci/devices/*/uevent";
    println!("\n$ ctr -n k8s.io task exec demo-gpu sh -c '{ids}'");
    let seen = container.exec(&["sh", "-c", ids]).await.succeeded();
    println!("  {}", seen.trim());
    assert!(seen.contains("=10DE:2330"), "the guest does not see the GPU");
    steps.done("the guest sees 10de:2330");
    list(&artefacts.shim);

    let mark = containerd.log_mark();
    container.remove().await;
    gpus.free(0).await;
    let log = until("the shim's word that the GPU is free", Duration::from_secs(10), async || {
        Some(containerd.log_since(mark)).filter(|log| log.contains("GPU is free"))
    });
    let log = log.await;
    steps.done("\npod removed, its GPU reset and free");
    tell(&log);
    list(&artefacts.shim);
    assert_eq!(gpus.quarantined(0), None, "the demonstration's GPU is in quarantine");
}

/// Prints what there is, by the command that is built beside this shim.
fn list(shim: &Path) {
    let output = Command::new(shim.with_file_name("coffer")).args(["gpu", "list"]).output();
    let output = output.or_fail("coffer gpu list");
    assert!(output.status.success(), "coffer gpu list: {}", String::from_utf8_lossy(&output.stderr));
    println!("\n$ coffer gpu list");
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        println!("  {line}");
    }
}

fn tell(log: &str) {
    let lines: Vec<Line> =
        log.lines().filter_map(Line::parse).filter(|line| matters(line.message())).collect();
    for line in &lines {
        let words: Vec<String> = ["gpu", "mode", "by", "phase", "exit"]
            .iter()
            .filter_map(|key| Some(format!("{key} {}", line.value(key)?)))
            .collect();
        println!("  {:>7} ms  {}  {}", line.since(&lines[0]), line.message(), words.join(", "));
    }
}

fn matters(message: &str) -> bool {
    LINES.iter().any(|start| message.starts_with(start)) || ["boot phase", "VM stopped"].contains(&message)
}
