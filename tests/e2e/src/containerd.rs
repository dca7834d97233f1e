//! A private containerd: one per test binary, with the CRI plugin and Coffer's runtime handlers.

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::UnixStream;

use crate::artefacts::{Artefacts, workspace};
use crate::images::PAUSE;
use crate::or_fail::OrFail;
use crate::wait::until;

/// containerd's gRPC socket.
pub const SOCKET: &str = "/run/containerd/containerd.sock";
/// containerd's ttrpc socket, where shims send their events.
pub const TTRPC_SOCKET: &str = "/run/containerd/containerd.sock.ttrpc";
/// The containerd namespace of everything a test runs: the one that CRI uses.
pub const NAMESPACE: &str = "k8s.io";

const CONFIG: &str = "/run/e2e/containerd.toml";
const CNI: &str = "/run/e2e/cni/10-e2e.conflist";

/// A running containerd.
#[derive(Debug)]
pub struct Containerd {
    child: Child,
    shim: PathBuf,
    log: PathBuf,
}

impl Containerd {
    /// Makes a network for pods, writes the configuration, starts containerd and waits until it serves.
    pub async fn start(artefacts: &Artefacts) -> Self {
        write(CNI, BRIDGE);
        make_bridge();
        Self::start_without_network(artefacts).await
    }

    /// The same without the network, which not every kernel has the parts of.
    pub async fn start_without_network(artefacts: &Artefacts) -> Self {
        write(CONFIG, &configuration());
        let log = log_path();
        // The log is appended to, so that a restart does not hide what led to it.
        let _ = fs::remove_file(&log);
        let mut containerd = Self { child: spawn(&artefacts.shim, &log), shim: artefacts.shim.clone(), log };
        containerd.wait_ready().await;
        containerd
    }

    /// Kills containerd with SIGKILL, as a crash would.
    pub fn crash(&mut self) {
        self.child.kill().or_fail("kill containerd");
        self.child.wait().or_fail("wait for containerd");
    }

    /// Starts containerd again after a [`crash`](Self::crash) and waits until it serves.
    pub async fn restart(&mut self) {
        self.child = spawn(&self.shim, &self.log);
        self.wait_ready().await;
    }

    /// Stops (`true`) or continues containerd's threads: a stopped one reads nothing, the log fifo least of all.
    pub fn freeze(&self, frozen: bool) {
        let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
        kill(Pid::from_raw(self.pid().cast_signed()), signal).or_fail("signal containerd");
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The log of containerd and, copied by it, of every shim.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Where the log ends now; [`log_since`](Self::log_since) takes it.
    pub fn log_mark(&self) -> u64 {
        fs::metadata(&self.log).or_fail("containerd's log").len()
    }

    /// What was logged after `mark`.
    pub fn log_since(&self, mark: u64) -> String {
        let file = File::open(&self.log).or_fail("containerd's log");
        let length = usize::try_from(self.log_mark().saturating_sub(mark)).or_fail("length of the log");
        let mut text = vec![0; length];
        file.read_exact_at(&mut text, mark).or_fail("read containerd's log");
        String::from_utf8_lossy(&text).into_owned()
    }

    async fn wait_ready(&mut self) {
        let log = self.log.clone();
        until("containerd to serve", Duration::from_secs(60), async || {
            if let Some(status) = self.child.try_wait().or_fail("containerd") {
                panic!("containerd ended with {status}; its log is {}", log.display());
            }
            // The socket is bound before the plugins behind it are ready; `ctr` calls wait for them.
            UnixStream::connect(SOCKET).await.ok()
        })
        .await;
    }
}

fn spawn(shim: &Path, log: &Path) -> Child {
    let log = File::options().create(true).append(true).open(log).or_fail("containerd's log");
    // Where the shim is looked for, and by it the command that converts layers.
    let coffer = Artefacts::coffer();
    let path = format!(
        "{}:{}:{}",
        shim.parent().or_fail("the shim's directory").display(),
        coffer.parent().or_fail("the command's directory").display(),
        env::var("PATH").or_fail("PATH")
    );
    Command::new("containerd")
        .args(["--config", CONFIG])
        .env("PATH", path)
        .stdin(Stdio::null())
        .stdout(log.try_clone().or_fail("containerd's log"))
        .stderr(log)
        .spawn()
        .or_fail("start containerd")
}

/// The log outlives the rig: it is what a failed run is read from.
fn log_path() -> PathBuf {
    let directory = workspace().join("build/test-logs");
    fs::create_dir_all(&directory).or_fail("directory of the logs");
    let program = env::current_exe().or_fail("own path");
    let name = program.file_stem().or_fail("own name").to_string_lossy().into_owned();
    // Cargo appends a hash to the name of a test binary.
    let name = name.rsplit_once('-').map_or(name.as_str(), |(name, _)| name);
    directory.join(format!("{name}.log"))
}

pub(crate) fn write(path: &str, text: &str) {
    let path = Path::new(path);
    fs::create_dir_all(path.parent().or_fail("parent directory")).or_fail("make a directory");
    fs::write(path, text).or_fail(path.display());
}

/// Makes CNI's bridge and the mount behind `ip netns` before a test does, so that they are no difference that it left.
pub(crate) fn make_bridge() {
    let script = "ip link show e2e0 >/dev/null 2>&1 || ip link add e2e0 type bridge; ip link set e2e0 up; \
                  ip addr replace 10.99.0.1/24 dev e2e0; ip -6 addr replace fd99::1/64 dev e2e0 nodad; \
                  ip netns add e2e-first; ip netns del e2e-first";
    let status = Command::new("sh").args(["-c", script]).status().or_fail("sh");
    assert!(status.success(), "cannot make the bridge e2e0: {status}");
}

fn configuration() -> String {
    format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
address = "{SOCKET}"

[ttrpc]
address = "{TTRPC_SOCKET}"

[debug]
level = "debug"

[plugins.'io.containerd.service.v1.diff-service']
default = ["erofs", "walking"]

# Same layer, same image: without the options the time of the conversion is in it.
[plugins.'io.containerd.differ.v1.erofs']
mkfs_options = ["-T0", "--mkfs-time", "--sort=none"]

[plugins.'io.containerd.cri.v1.images']
snapshotter = "erofs"

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{PAUSE}"

# A rig in a container may not lower the score.
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true

[plugins.'io.containerd.cri.v1.runtime'.cni]
conf_dir = "/run/e2e/cni"

[plugins.'io.containerd.cri.v1.runtime'.containerd]
default_runtime_name = "coffer"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.coffer]
runtime_type = "io.containerd.coffer.v2"
snapshotter = "erofs"
sandboxer = "podsandbox"
privileged_without_host_devices = true
pod_annotations = ["io.katacontainers.*", "cdi.k8s.io/*"]

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.coffer-sandbox]
runtime_type = "io.containerd.coffer.v2"
snapshotter = "erofs"
sandboxer = "shim"
privileged_without_host_devices = true

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.coffer-configured]
runtime_type = "io.containerd.coffer.v2"
snapshotter = "erofs"
sandboxer = "podsandbox"
privileged_without_host_devices = true

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.coffer-configured.options]
ConfigPath = "/run/e2e/handler.toml"
"#
    )
}

/// A bridge with one IPv4 and one IPv6 address per pod, as the simplest clusters have it.
pub(crate) const BRIDGE: &str = r#"{
  "cniVersion": "1.0.0",
  "name": "e2e",
  "plugins": [{
    "type": "bridge",
    "bridge": "e2e0",
    "isGateway": true,
    "ipMasq": false,
    "mtu": 1400,
    "ipam": {
      "type": "host-local",
      "dataDir": "/run/e2e/ipam",
      "ranges": [[{ "subnet": "10.99.0.0/24" }], [{ "subnet": "fd99::/64" }]],
      "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]
    }
  }]
}
"#;
