//! How much memory the service takes while nobody asks it anything: the program itself, in namespaces of its own.

use std::io::{BufRead as _, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::{fs, thread};

/// Anonymous memory, in KiB.
const MOST: u64 = 4 << 10;
/// Makes the guest's directories and loopback, then becomes the service. Nobody is at the broker's address.
const GUEST: &str = "mount -t tmpfs tmpfs /run && ip link set lo up && mkdir -p /run/confidential-containers/initdata && \
    cd /run/confidential-containers/initdata && touch initdata.toml && \
    printf '[token_configs.kbs]\\nurl = \"http://127.0.0.1:1\"\\n' >aa.toml && exec \"$0\" none 0 0";

#[test]
fn an_idle_service_has_little_memory_of_its_own() {
    let unshared = ["--user", "--map-root-user", "--mount", "--net"];
    let can = Command::new("unshare").args(unshared).args(["sh", "-c", "ip link set lo up"]).output();
    if !can.is_ok_and(|done| done.status.success()) {
        eprintln!("skipped: this host lets nobody have namespaces, or has no unshare and ip");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let agents = UnixListener::bind(directory.path().join("cdh.sock")).unwrap();
    let mut service = Command::new("unshare")
        .args(unshared)
        .args(["sh", "-c", GUEST, env!("CARGO_BIN_EXE_coffer-attest")])
        .stdin(OwnedFd::from(agents))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(service.stderr.take().unwrap()).read_line(&mut said).unwrap();
    let id = service.id();
    let status = || fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let number = |status: &str, name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    // The line comes before the last thread, the one that the agent is answered by.
    while said.contains("keys come from")
        && service.try_wait().unwrap().is_none()
        && number(&status(), "Threads:") < 2
    {
        thread::yield_now();
    }
    let idle = number(&status(), "RssAnon:");
    service.kill().unwrap();
    service.wait().unwrap();
    assert!(said.contains("keys come from http://127.0.0.1:1"), "{said}");
    println!("anonymous memory of the idle service: {idle} KiB");
    assert!(idle <= MOST, "{idle} KiB");
}
