//! How many files the shim may have open.
//!
//! Each layer of a container is one, and so is each stream of a process: a pod of 30 containers has more than the 1024 that
//! a service has unless it is told otherwise (systemd's `DefaultLimitNOFILE`). The engine's own shims have as many as they may
//! (Go's runtime raises the limit, and gives programs that it starts the old one).

use std::sync::OnceLock;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

/// The limit that the shim was started with.
static BEFORE: OnceLock<Rlimit> = OnceLock::new();

/// Raises the limit as far as it may be raised. QEMU's is the jail's to set; what else the shim starts for itself does not
/// mind.
pub fn raise() {
    let before = BEFORE.get_or_init(|| getrlimit(Resource::Nofile));
    let _ = setrlimit(Resource::Nofile, Rlimit { current: before.maximum, ..*before });
}

/// Gives a started program of somebody else's the limit of before: with more, select(2) writes beyond its sets.
pub fn restore(pid: Option<u32>) {
    let pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    if let (Some(pid), Some(before)) = (pid, BEFORE.get()) {
        // Or it has ended.
        let _ = prlimit(Some(pid), Resource::Nofile, *before);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_shim_has_all_that_it_may_and_programs_what_they_had() {
        let may = getrlimit(Resource::Nofile).maximum;
        let before = Rlimit { current: Some(512), maximum: may };
        setrlimit(Resource::Nofile, before).unwrap();
        raise();
        raise();
        let now = getrlimit(Resource::Nofile);
        assert_eq!((now.current, now.maximum), (may, may));
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        restore(Some(child.id()));
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert_eq!(line.split_whitespace().nth(3), Some("512"), "{line}");
    }
}
