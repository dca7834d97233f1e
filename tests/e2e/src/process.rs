//! The processes of the rig's PID namespace, read from /proc.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::or_fail::OrFail;

/// One process as /proc shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Process id in the rig.
    pub pid: i32,
    /// Parent's process id.
    pub parent: i32,
    /// `comm`: at most 15 characters of the program's name.
    pub name: String,
    /// The command line, or the name alone where there is none (a zombie).
    pub command: String,
    /// State letter of /proc/PID/stat, for example `S` or `Z`.
    pub state: char,
}

impl Process {
    /// Sends SIGKILL; a process that is already gone is no error.
    pub fn kill(&self) {
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
    }

    /// A field of /proc/PID/status or of smaps_rollup, in KiB.
    pub fn kib(&self, file: &str, field: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/{file}", self.pid)).or_fail(file);
        let line = text.lines().find_map(|line| line.strip_prefix(field)).or_fail(field);
        line.trim_start_matches(':').trim().trim_end_matches(" kB").trim().parse().or_fail(field)
    }
}

/// In the flags of /proc/PID/stat: a thread of the kernel (`PF_KTHREAD`, include/linux/sched.h).
const KERNEL_THREAD: u32 = 0x20_0000;

/// All processes of the rig but this one. Without a PID namespace around it the kernel's threads are in /proc, too; they come
/// and go, and are left out.
pub fn processes() -> Vec<Process> {
    let own = nix::unistd::getpid().as_raw();
    let mut all: Vec<Process> = fs::read_dir("/proc")
        .or_fail("/proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own)
        .filter_map(read)
        .collect();
    all.sort_by_key(|process| process.pid);
    all
}

/// `None` for a thread of the kernel, and when the process ended while it was looked at.
fn read(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold both spaces and parentheses.
    let (head, tail) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let mut fields = tail.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let flags: u32 = fields.nth(4)?.parse().ok()?;
    if flags & KERNEL_THREAD != 0 {
        return None;
    }
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
    let command = if command.is_empty() { format!("[{name}]") } else { command };
    Some(Process { pid, parent, name, command, state })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_parent_but_not_this_process() {
        let own = nix::unistd::getpid().as_raw();
        let parent = nix::unistd::getppid().as_raw();
        let all = processes();
        assert!(all.iter().any(|process| process.pid == parent || process.pid == 1));
        assert!(all.iter().all(|process| process.pid != own));
    }

    #[test]
    fn a_name_with_parentheses_is_read_whole() {
        let own = read(nix::unistd::getpid().as_raw()).unwrap();
        assert_eq!(own.state, own.state.to_ascii_uppercase());
        assert!(!own.command.is_empty());
    }
}
