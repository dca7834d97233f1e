//! The program as a process: it waits, and it ends in order.

#![allow(clippy::unwrap_used)]

use std::process::{Child, Command};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn pause() -> Child {
    Command::new(env!("CARGO_BIN_EXE_pause")).spawn().unwrap()
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().unwrap())
}

/// Waits until the process has blocked the signals that it waits for.
fn ready(child: &Child) {
    let wanted = 1u64 << (libc::SIGTERM - 1);
    let path = format!("/proc/{}/status", child.id());
    loop {
        let status = std::fs::read_to_string(&path).unwrap();
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        if u64::from_str_radix(blocked.trim(), 16).unwrap() & wanted != 0 {
            return;
        }
        std::thread::yield_now();
    }
}

#[test]
fn it_runs_until_it_is_asked_to_end() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut child = pause();
        ready(&child);
        kill(pid(&child), Signal::SIGCHLD).unwrap();
        assert!(child.try_wait().unwrap().is_none());
        kill(pid(&child), signal).unwrap();
        assert!(child.wait().unwrap().success());
    }
}
