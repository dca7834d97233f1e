//! A pod's network namespace as a CNI bridge plugin leaves it, with a second one for the other end.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::root_or_skip;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The pod's namespace, `/run/netns/coffer-test-...`, removed when dropped.
pub struct Pod {
    pub path: PathBuf,
    name: String,
    peer: String,
}

impl Pod {
    /// `eth0` with 10.88.0.2/24, its peer with 10.88.0.1. `None`, loudly, without root.
    pub fn make() -> Option<Self> {
        if !root_or_skip() {
            return None;
        }
        let name = format!("coffer-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let peer = format!("{name}-peer");
        command("ip", &["netns", "add", &name]);
        command("ip", &["netns", "add", &peer]);
        let pod = Self { path: PathBuf::from("/run/netns").join(&name), name, peer };
        pod.ip(&format!("link add eth0 type veth peer name eth0 netns {}", pod.peer));
        pod.ip("link set lo up");
        for (netns, ip) in [(&pod.name, "10.88.0.2/24"), (&pod.peer, "10.88.0.1/24")] {
            command("ip", &["-n", netns, "addr", "add", ip, "dev", "eth0"]);
            command("ip", &["-n", netns, "link", "set", "eth0", "up"]);
        }
        pod.connected();
        Some(pod)
    }

    /// Waits for the carrier, which a busy kernel tells of later than `ip` returns.
    #[expect(clippy::disallowed_methods, reason = "no runtime runs yet")]
    fn connected(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.ip("-o link show eth0").contains(" state UP ") {
            assert!(Instant::now() < deadline, "eth0 has no carrier");
            sleep(Duration::from_millis(10));
        }
    }

    /// Runs `ip` in the pod's namespace.
    #[track_caller]
    pub fn ip(&self, arguments: &str) -> String {
        self.run("ip", arguments)
    }

    /// Runs `tc` in the pod's namespace.
    #[track_caller]
    pub fn tc(&self, arguments: &str) -> String {
        self.run("tc", arguments)
    }

    #[track_caller]
    fn run(&self, program: &str, arguments: &str) -> String {
        let mut all = vec!["-n", self.name.as_str()];
        all.extend(arguments.split_ascii_whitespace());
        command(program, &all)
    }

    /// A link's address as `ip` prints it.
    pub fn mac(&self, link: &str) -> String {
        let line = self.ip(&format!("-o link show {link}"));
        line.split_once("link/ether ").unwrap().1.split_once(' ').unwrap().0.to_owned()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        for name in [&self.name, &self.peer] {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// Runs a program that must succeed.
#[track_caller]
pub fn command(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}
