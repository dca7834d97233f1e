//! What the machine holds, before a test and after it.
//!
//! A difference is a leak. What ends a moment after containerd answered (a shim on its way out) is given time.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::or_fail::OrFail;
use crate::process::{Process, processes};

/// How long a test's last effects may take to go away.
const SETTLE: Duration = Duration::from_secs(15);

/// Directories below which every path counts. containerd's own directories are checked where shims have theirs.
const TREES: [&str; 8] = [
    "/run/coffer",
    "/run/containerd/s",
    "/run/containerd/fifo",
    "/run/containerd/io.containerd.runtime.v2.task",
    "/run/netns",
    "/run/e2e/ipam",
    "/var/lib/coffer",
    "/dev/shm",
];

/// One line per process, mount, network device, socket and file that a test could leave behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    lines: BTreeSet<String>,
}

impl Machine {
    /// Looks at everything.
    pub fn now() -> Self {
        let mut lines = BTreeSet::new();
        lines.extend(running());
        lines.extend(mounts());
        lines.extend(network());
        lines.extend(sockets());
        for tree in TREES {
            walk(Path::new(tree), &mut lines);
        }
        cgroups(Path::new("/sys/fs/cgroup"), 0, &mut lines);
        Self { lines }
    }

    /// What is here and not in `before`.
    pub fn beyond(&self, before: &Self) -> Vec<String> {
        self.lines.difference(&before.lines).cloned().collect()
    }

    /// Waits until nothing is left beyond what there was; fails the test with the list of what is.
    pub async fn back_to(before: &Self) {
        let end = Instant::now() + SETTLE;
        loop {
            let left = Self::now().beyond(before);
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "the test left behind:\n  {}", left.join("\n  "));
            sleep(Duration::from_millis(100)).await;
        }
    }
}

fn running() -> Vec<String> {
    // A test may have restarted it.
    let is_containerd = |process: &Process| process.name == "containerd";
    let others = processes().into_iter().filter(|process| !is_containerd(process));
    others.map(|process| format!("process {} {}", process.pid, process.command)).collect()
}

fn mounts() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").or_fail("mounts");
    let mount = |line: &str| {
        // proc_pid_mountinfo(5): the fifth field is the mount point, the type follows the lone dash.
        let (fields, kind) = line.split_once(" - ")?;
        Some(format!("mount {} ({})", fields.split(' ').nth(4)?, kind.split(' ').next()?))
    };
    // containerd keeps a layer mounted for as long as it knows the image.
    let is_layer = |line: &String| line.contains("/snapshots/") && line.ends_with("/fs (erofs)");
    table.lines().filter_map(mount).filter(|line| !is_layer(line)).collect()
}

/// Links, queueing disciplines and filters of every named network namespace and of the rig's own.
fn network() -> Vec<String> {
    let mut lines = network_of("", &[]);
    for name in named_namespaces() {
        lines.extend(network_of(&name, &["ip", "netns", "exec", &name]));
    }
    let spaces = Command::new("lsns").args(["-n", "-t", "net", "-o", "NS"]).output().or_fail("lsns");
    lines.extend(
        String::from_utf8_lossy(&spaces.stdout).lines().map(|id| format!("network namespace {}", id.trim())),
    );
    lines
}

fn named_namespaces() -> Vec<String> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

fn network_of(name: &str, enter: &[&str]) -> Vec<String> {
    let run = |words: &[&str]| {
        let line = [enter, words].concat();
        let output = Command::new(line[0]).args(&line[1..]).output().or_fail(line.join(" "));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let mut lines = Vec::new();
    for link in run(&["ip", "-o", "link", "show"]).lines() {
        let device = link.split(':').nth(1).unwrap_or_default().trim();
        let device = device.split('@').next().unwrap_or_default();
        lines.push(format!("link {name}/{device}"));
    }
    for rule in run(&["tc", "qdisc", "show"]).lines() {
        let words: Vec<&str> = rule.split_whitespace().collect();
        let device = words.iter().skip_while(|word| **word != "dev").nth(1).unwrap_or(&"");
        lines.push(format!("qdisc {name}/{device} {}", words.get(1).unwrap_or(&"")));
    }
    lines
}

/// Unix sockets that have a path, open in the rig's network namespace.
fn sockets() -> Vec<String> {
    let table = fs::read_to_string("/proc/net/unix").or_fail("unix sockets");
    let path = |line: &str| line.split_whitespace().nth(7).map(|path| format!("unix socket {path}"));
    // Connections to containerd come and go; only what names Coffer or a shim counts.
    table
        .lines()
        .skip(1)
        .filter_map(path)
        .filter(|line| line.contains("coffer") || line.contains("/s/"))
        .collect()
}

fn walk(directory: &Path, lines: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if is_meant_to_stay(&path) {
            continue;
        }
        lines.insert(format!("file {}", path.display()));
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, lines);
        }
    }
}

/// Files that outlive a pod on purpose: the cache of EROFS images, what IPAM remembers, and the namespaces'
/// directories of containerd and Coffer, which the first pod makes.
fn is_meant_to_stay(path: &Path) -> bool {
    let text = path.to_string_lossy();
    let is_temporary = text.contains("tmp") || text.contains("partial");
    (text.starts_with("/var/lib/coffer/") && !is_temporary)
        || text.ends_with("/lock")
        || text.contains("/last_reserved_ip")
        || text == "/run/e2e/ipam/e2e"
        || text == "/run/coffer/kvm.json" // what the KVM probe found out of this host
        || text == "/run/coffer/reaper.log" // what was released after its shim had died
        || text == "/run/coffer/images-cleaned" // that images were looked after once
        || path.file_name().is_some_and(|name| name == crate::NAMESPACE || name == "default")
            && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// Control groups with Coffer's or the tests' name in their path. The one that carries the containerd namespace's
/// name is made for the first container and stays.
fn cgroups(directory: &Path, depth: usize, lines: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        let path = entry.path();
        let text = path.to_string_lossy();
        let is_ours = text.contains("coffer") || text.contains("e2e") || text.contains(crate::NAMESPACE);
        if is_ours && !text.ends_with(crate::NAMESPACE) {
            lines.insert(format!("cgroup {text}"));
        }
        if depth < 5 {
            cgroups(&path, depth + 1, lines);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tells this thread's marks from those of another run on the same machine.
    fn own_name(kind: &str) -> String {
        format!("coffer-e2e-selftest-{kind}-{}", nix::unistd::getpid())
    }

    #[test]
    fn a_quiet_machine_has_no_leak() {
        let before = Machine::now();
        assert_eq!(before.beyond(&before), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_process_is_a_leak() {
        let before = Machine::now();
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let seen = || {
            let left = Machine::now().beyond(&before);
            left.iter().any(|line| line.starts_with("process ") && line.contains("sleep"))
        };
        // One that has only begun to be `sleep` has no command line yet.
        let end = Instant::now() + Duration::from_secs(5);
        while !seen() && Instant::now() < end {
            sleep(Duration::from_millis(10)).await;
        }
        let seen = seen();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(seen);
    }

    #[test]
    fn a_file_below_run_coffer_is_a_leak_and_a_cached_image_is_not() {
        let before = Machine::now();
        let name = own_name("file");
        fs::create_dir_all("/run/coffer/x").unwrap();
        fs::create_dir_all("/var/lib/coffer/erofs").unwrap();
        fs::write(format!("/run/coffer/x/{name}"), "").unwrap();
        fs::write(format!("/var/lib/coffer/erofs/{name}"), "").unwrap();
        let left = Machine::now().beyond(&before);
        fs::remove_dir_all("/run/coffer/x").unwrap();
        fs::remove_dir_all("/var/lib/coffer/erofs").unwrap();
        assert!(left.contains(&format!("file /run/coffer/x/{name}")), "{left:?}");
        assert!(!left.iter().any(|line| line.contains("/var/lib/coffer")), "{left:?}");
    }

    #[test]
    fn a_tap_in_a_pods_namespace_is_a_leak() {
        let before = Machine::now();
        let space = own_name("netns");
        let script = format!(
            "ip netns add {space}; ip netns exec {space} ip tuntap add tap0 mode tap; \
             ip netns exec {space} tc qdisc add dev tap0 ingress"
        );
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
        let left = Machine::now().beyond(&before);
        assert!(Command::new("ip").args(["netns", "del", &space]).status().unwrap().success());
        for expected in [format!("link {space}/tap0"), format!("qdisc {space}/tap0 ingress")] {
            assert!(left.contains(&expected), "{left:?}");
        }
    }

    #[test]
    fn a_mount_is_a_leak() {
        let before = Machine::now();
        let directory = tempfile::tempdir().unwrap();
        assert!(
            Command::new("mount")
                .args(["-t", "tmpfs", "e2e"])
                .arg(directory.path())
                .status()
                .unwrap()
                .success()
        );
        let left = Machine::now().beyond(&before);
        assert!(Command::new("umount").arg(directory.path()).status().unwrap().success());
        assert!(left.contains(&format!("mount {} (tmpfs)", directory.path().display())), "{left:?}");
    }
}
