//! The wrapper around every test, and what a test has in its hands.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Builder;

use crate::artefacts::Artefacts;
use crate::cgroup;
use crate::containerd::{Containerd, NAMESPACE};
use crate::cri::Cri;
use crate::ctr::ctr;
use crate::faults::Victim;
use crate::gpus;
use crate::images;
use crate::leaks::Machine;
use crate::node_config::NodeConfig;
use crate::or_fail::OrFail;
use crate::pod::PodRequest;
use crate::wait::{until, within};

/// No test takes longer, but for [`e2e_that_takes`].
const LIMIT: Duration = Duration::from_secs(600);

/// containerd serves all tests of a binary; the lock makes them take turns whatever `--test-threads` says.
static CONTAINERD: Mutex<Option<Containerd>> = Mutex::new(None);

/// What a test works with.
#[derive(Debug)]
pub struct Rig<'a> {
    /// The parts under test.
    pub artefacts: Artefacts,
    /// The private containerd.
    pub containerd: &'a mut Containerd,
    mark: u64,
}

impl Rig<'_> {
    /// A connection to containerd's CRI service.
    pub async fn cri(&self) -> Cri {
        Cri::connect().await
    }

    /// A pod to be, run by the handler `coffer`.
    pub async fn pod(&self, name: &str) -> PodRequest {
        PodRequest::new(self.cri().await, name)
    }

    /// A node configuration that differs from the installed one where the test says so.
    pub fn config(&self) -> NodeConfig {
        NodeConfig::of_rig(&self.artefacts)
    }

    /// What containerd and the shims logged since the test began.
    pub fn log(&self) -> String {
        self.containerd.log_since(self.mark)
    }

    /// Waits until a line of the log has every one of `words`; returns the line.
    pub async fn logged(&self, words: &[&str]) -> String {
        until(format!("a log line with {words:?}"), Duration::from_secs(30), async || {
            self.log().lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned)
        })
        .await
    }

    /// Forgets what was logged until now.
    pub fn forget_log(&mut self) {
        self.mark = self.containerd.log_mark();
    }

    /// Waits until a boot entered `phase`; returns at once when one did since the test began or forgot.
    pub async fn phase(&self, phase: &str) -> String {
        self.logged(&[&format!("phase={phase}")]).await
    }
}

/// Runs one test: with containerd up, under a time limit, and with the machine as it was afterwards.
#[track_caller]
pub fn e2e(test: impl AsyncFnOnce(&mut Rig<'_>)) {
    run(&Artefacts::find(), Setting::Node, LIMIT, test);
}

/// The same for a test that is many in one.
#[track_caller]
pub fn e2e_that_takes(limit: Duration, test: impl AsyncFnOnce(&mut Rig<'_>)) {
    run(&Artefacts::find(), Setting::Node, limit, test);
}

/// The same in the outer VM, where making the images that its tests do not use takes minutes: there is
/// [`crate::BUSYBOX`] only, and no network for pods.
#[track_caller]
pub fn e2e_in_outer_vm(test: impl AsyncFnOnce(&mut Rig<'_>)) {
    run(&Artefacts::find(), Setting::OuterVm, LIMIT, test);
}

/// The same with the shim that knows emulated GPUs. A test binary has tests of one kind only.
#[track_caller]
pub fn e2e_with_gpus(test: impl AsyncFnOnce(&mut Rig<'_>)) {
    run(&Artefacts::with_gpus(), Setting::Node, LIMIT, test);
}

/// What there is beside containerd.
#[derive(Debug, Clone, Copy)]
enum Setting {
    /// All images, and a network for pods.
    Node,
    /// [`crate::BUSYBOX`].
    OuterVm,
}

#[track_caller]
fn run(artefacts: &Artefacts, setting: Setting, limit: Duration, test: impl AsyncFnOnce(&mut Rig<'_>)) {
    assert_in_rig();
    let mut containerd = CONTAINERD.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = Builder::new_current_thread().enable_all().build().or_fail("runtime");
    if containerd.is_none() {
        *containerd = Some(runtime.block_on(set_up(artefacts, setting)));
    }
    let containerd = containerd.as_mut().or_fail("containerd");
    let mark = containerd.log_mark();
    let before = Machine::now();
    let mut rig = Rig { artefacts: artefacts.clone(), containerd, mark };
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            within("the test", limit, test(&mut rig)).await;
            Machine::back_to(&before).await;
        });
    }));
    cgroup::remove_empty_parents();
    if let Err(reason) = outcome {
        explain(&rig);
        runtime.block_on(clean_up(&mut rig));
        resume_unwind(reason);
    }
}

async fn set_up(artefacts: &Artefacts, setting: Setting) -> Containerd {
    NodeConfig::of_rig(artefacts).install();
    match setting {
        Setting::Node => {
            let containerd = Containerd::start(artefacts).await;
            images::import().await;
            containerd
        }
        Setting::OuterVm => {
            let containerd = Containerd::start_without_network(artefacts).await;
            images::import_busybox().await;
            containerd
        }
    }
}

/// The rig's private containerd must never be another one's: it is told by the name `tools/enter` gives it.
pub(crate) fn assert_in_rig() {
    let name = nix::unistd::gethostname().or_fail("host name");
    assert_eq!(
        name, "coffer-rig",
        "end-to-end tests run in the rig: use `make test`, or run this program by tools/enter"
    );
}

/// Prints what the log tells about a failed test: the shims' lines and what containerd complained about.
fn explain(rig: &Rig<'_>) {
    let log = rig.log();
    let matters =
        |line: &&str| !line.contains("level=debug") || line.contains("phase=") || line.contains("coffer");
    let lines: Vec<&str> = log.lines().filter(matters).collect();
    let path = rig.containerd.log_path().display();
    eprintln!(
        "--- the last lines of this test's log; the whole of it is in {path} from byte {} on",
        rig.mark
    );
    for line in lines.iter().skip(lines.len().saturating_sub(60)) {
        eprintln!("{}", line.chars().take(600).collect::<String>());
    }
}

/// After a failure: everything of the test goes, so that the next one starts clean.
async fn clean_up(rig: &mut Rig<'_>) {
    rig.containerd.freeze(false);
    for victim in [Victim::Shim, Victim::Qemu, Victim::VsockDevice] {
        victim.kill();
    }
    for command in [["tasks", "ls", "-q"], ["containers", "ls", "-q"]] {
        let ids = ctr(&command).await.stdout;
        for id in ids.lines() {
            let remove: &[&str] =
                if command[0] == "tasks" { &["tasks", "rm", "-f", id] } else { &["containers", "rm", id] };
            ctr(remove).await;
        }
    }
    for directory in ["/run/coffer", "/run/e2e/ipam/e2e"].map(|root| PathBuf::from(root).join(NAMESPACE)) {
        let _ = std::fs::remove_dir_all(directory);
    }
    // A shim whose emulated GPUs went with the test has put them into quarantine.
    let _ = std::fs::remove_dir_all(gpus::STATE);
}
