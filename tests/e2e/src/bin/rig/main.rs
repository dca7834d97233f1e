//! The rig for people: a demonstration, and a shell beside a private containerd. Run by `make demo` and `make shell`.

mod bound;
mod gpu;
mod inference;
mod steps;

use std::env;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use e2e::{Artefacts, BUSYBOX, Containerd, Machine, NodeConfig, OrFail, Run, import_images, until};

use steps::{Line, Steps};

const SHELL_HELP: &str = "\
This is a private containerd with Coffer beside it; it goes when you leave. Try:

  ctr -n k8s.io run --rm -t --runtime io.containerd.coffer.v2 --snapshotter erofs localhost/busybox:test c1 sh
  echo hello | ctr -n k8s.io run --rm --runtime io.containerd.coffer.v2 --snapshotter erofs localhost/busybox:test c2 cat
  ctr -n k8s.io run --rm --runtime io.containerd.coffer.v2 --snapshotter erofs localhost/busybox:test c3 sh -c 'exit 7'; echo $?
  coffer config
";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match env::args().nth(1).as_deref() {
        Some("demo") => demo().await,
        Some("shell") => shell().await,
        _ => {
            eprintln!("usage: tools/enter target/debug/rig demo|shell");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// containerd with the images of the tests.
async fn set_up(artefacts: &Artefacts) -> Containerd {
    NodeConfig::of_rig(artefacts).install();
    let containerd = Containerd::start(artefacts).await;
    import_images().await;
    containerd
}

/// Runs one container from start to end, and one with a GPU, each step with its time.
async fn demo() {
    let (mut steps, begin) = (Steps::begin(), Instant::now());
    // One shim for all of it: the released one takes longer to build than all that is shown here takes to run.
    let artefacts = Artefacts::with_gpus();
    let mut containerd = set_up(&artefacts).await;
    steps.done("containerd serves, busybox is imported into its EROFS snapshotter");
    let before = Machine::now();
    let mark = containerd.log_mark();

    println!(
        "\n$ ctr -n k8s.io run -d --runtime io.containerd.coffer.v2 --snapshotter erofs {BUSYBOX} demo sleep 1000"
    );
    let container = Run::new("demo", BUSYBOX, &["sleep", "1000"]).start().await;
    steps.done("container runs in a VM of its own");
    println!("\n  boot timeline, from the shim's log:");
    let log = containerd.log_since(mark);
    for line in log.lines().filter_map(Line::parse).filter(|line| line.message() == "boot phase") {
        let value = |key| line.value(key).unwrap_or_default();
        println!("  {:>7} ms  {}", value("ms"), value("phase"));
    }

    for command in [["uname", "-a"].as_slice(), &["cat", "/proc/meminfo"], &["ps"]] {
        println!("\n$ ctr -n k8s.io task exec demo {}", command.join(" "));
        let output = container.exec(command).await.succeeded();
        for line in output.lines().take(4) {
            println!("  {line}");
        }
    }
    steps.done("executed in the guest");
    let host = Command::new("uname").arg("-r").output().or_fail("uname");
    println!("  (the host's kernel is {})", String::from_utf8_lossy(&host.stdout).trim());

    container.remove().await;
    steps.done("\ncontainer removed");
    bound::demo(&containerd, &mut steps).await;
    inference::demo(&artefacts, &mut steps).await;
    gpu::demo(&containerd, &artefacts, &mut steps).await;
    Machine::back_to(&before).await;
    steps.done("\nno process, mount, tap, socket or file is left");
    containerd.crash();
    println!("\nAll of it took {:.1} s. Go on by hand: make shell", begin.elapsed().as_secs_f64());
}

/// A shell with everything in place.
async fn shell() {
    let mut containerd = set_up(&Artefacts::find()).await;
    // The shim as it is released comes first; `coffer` is built for the rigs only, elsewhere.
    let programs = [Artefacts::find().shim, Artefacts::coffer()];
    let folders =
        programs.iter().filter_map(|program| program.parent()).map(|folder| folder.display().to_string());
    let path = folders.chain([env::var("PATH").unwrap_or_default()]).collect::<Vec<_>>().join(":");
    println!("{SHELL_HELP}");
    let status = Command::new("bash").arg("--norc").env("PATH", path).env("PS1", "coffer# ").status();
    status.or_fail("bash");
    for id in e2e::ctr(&["tasks", "ls", "-q"]).await.stdout.lines() {
        e2e::ctr(&["tasks", "rm", "-f", id]).await;
    }
    until("the VMs to end", Duration::from_secs(30), async || {
        e2e::Victim::Qemu.processes().is_empty().then_some(())
    })
    .await;
    containerd.crash();
}
