//! A container with a shim of its own, driven as containerd drives it but without containerd in between.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use containerd_shim_protos::types::mount::Mount;
use e2e::{Api, Artefacts, Bundle, OrFail, Process, ShimProcess, Task, Victim, within};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::stat::Mode;
use nix::sys::time::TimeVal;
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::{Pid, mkfifo};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;

/// What the containers do.
const FOREVER: [&str; 2] = ["sleep", "100000"];

/// A container, its shim and the call path to it.
#[derive(Debug)]
pub struct Lone {
    /// The container's and the sandbox's id.
    pub id: String,
    /// The bundle.
    pub bundle: Bundle,
    /// Calls on the shim.
    pub task: Task,
    /// CPU time of the `start` action, which is over.
    pub start_cpu: Duration,
    shim: ShimProcess,
    root: Vec<Mount>,
}

impl Lone {
    /// Starts the shim; there is no VM yet.
    pub async fn new(artefacts: &Artefacts, id: &str) -> Self {
        let bundle = Bundle::new(id, &FOREVER);
        let layer = Mount {
            type_: "erofs".to_owned(),
            source: layer(&bundle).display().to_string(),
            options: vec!["ro".to_owned()],
            ..Mount::default()
        };
        Self::start_shim(artefacts, bundle, vec![layer]).await
    }

    /// The same for a container with another root file system: the mounts that containerd names.
    pub async fn with_root(artefacts: &Artefacts, id: &str, root: Vec<Mount>) -> Self {
        Self::start_shim(artefacts, Bundle::new(id, &FOREVER), root).await
    }

    async fn start_shim(artefacts: &Artefacts, bundle: Bundle, root: Vec<Mount>) -> Self {
        let shim = ShimProcess::new(artefacts, e2e::NAMESPACE, &bundle);
        let before = children();
        let address = shim.start().await.bare_address();
        let start_cpu = children().saturating_sub(before);
        let task = Task::connect(&address, Api::V3).await;
        Self { id: bundle.id.clone(), bundle, task, start_cpu, shim, root }
    }

    /// Create: returns when the container exists in the guest.
    pub async fn create(&self) {
        self.task.create_with(&self.bundle, self.root.clone(), None).await.or_fail("Create");
    }

    /// Start.
    pub async fn start(&self) {
        self.task.start(&self.id, "").await.or_fail("Start");
    }

    /// A container that runs.
    pub async fn running(artefacts: &Artefacts, id: &str) -> Self {
        let lone = Self::new(artefacts, id).await;
        lone.create().await;
        lone.start().await;
        lone
    }

    /// Runs a process in the container from its begin to its removal.
    pub async fn exec(&self, exec: &str, command: &[&str]) {
        self.task.exec(&self.id, exec, command).await.or_fail("Exec");
        self.task.start(&self.id, exec).await.or_fail("Start of an exec");
        self.task.wait(&self.id, exec).await.or_fail("Wait for an exec");
        self.task.delete(&self.id, exec).await.or_fail("Delete of an exec");
    }

    /// The shim's process: there is only one at a time.
    pub fn process(&self) -> Process {
        let all = Victim::Shim.processes();
        assert_eq!(all.len(), 1, "one shim runs: {all:?}");
        all.into_iter().next().or_fail("the shim")
    }

    /// Removes everything.
    pub async fn remove(self) {
        self.task.remove(&self.id).await;
        // The shim's answer may get lost with the shim.
        let _ = self.task.shutdown(&self.id).await;
        Victim::Shim.gone().await;
        self.shim.delete().await;
    }

    /// Reads the shim's log until it has had each of these words, in their order; returns when each was there.
    pub async fn logged<const N: usize>(&self, words: [&str; N]) -> [Instant; N] {
        let log = pipe::OpenOptions::new().open_receiver(self.bundle.path.join("log")).or_fail("the log");
        let mut lines = BufReader::new(log).lines();
        let mut times = [Instant::now(); N];
        for (words, time) in words.into_iter().zip(&mut times) {
            *time = within(words, Duration::from_secs(60), async {
                while let Some(line) = lines.next_line().await.or_fail("the log") {
                    if line.contains(words) {
                        break;
                    }
                }
                Instant::now()
            })
            .await;
        }
        times
    }
}

/// The bundle's root file system as a layer of containerd's EROFS snapshotter would be, with its tree.
fn layer(bundle: &Bundle) -> PathBuf {
    let image = bundle.path.join("layer.erofs");
    let mut mkfs = Command::new("mkfs.erofs");
    let output = mkfs.arg("--quiet").arg(&image).arg(bundle.image()).output().or_fail("mkfs.erofs");
    assert!(output.status.success(), "mkfs.erofs: {}", String::from_utf8_lossy(&output.stderr));
    with_tree(&image);
    image
}

/// Appends the hash tree to an EROFS image, and writes the file beside it by which containerd says so.
pub fn with_tree(image: &Path) {
    let bytes = fs::metadata(image).or_fail("an image").len();
    let mut file = File::options().read(true).write(true).open(image).or_fail("an image");
    let root = verity::append(&mut file, [0; 16]).or_fail("a hash tree");
    let text = json!({ "roothash": root.to_string(), "hashoffset": bytes }).to_string();
    fs::write(image.with_extension("erofs.dmverity"), text).or_fail("the file beside an image");
}

/// CPU time of all children of this process that have ended.
fn children() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).or_fail("getrusage");
    let time = |time: TimeVal| {
        Duration::new(time.tv_sec().cast_unsigned(), 0)
            + Duration::from_micros(time.tv_usec().cast_unsigned())
    };
    time(usage.user_time()) + time(usage.system_time())
}

/// CPU time of a living process, its ended threads included.
pub fn cpu(process: &Process) -> Duration {
    let clock: ClockId = clock_getcpuclockid(Pid::from_raw(process.pid)).or_fail("the process's clock");
    clock.now().or_fail("the process's clock").into()
}

/// A fifo in a directory.
pub fn fifo(directory: &Path, name: &str) -> PathBuf {
    let path = directory.join(name);
    mkfifo(&path, Mode::S_IRWXU).or_fail("make a fifo");
    path
}
