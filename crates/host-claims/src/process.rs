//! Which process a number means: pid and start time, and signals that can never reach a recycled pid.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::sys;

/// What can go wrong with a process that we watch or end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `/proc/<pid>/stat` is there and cannot be read or understood.
    #[error("cannot read the start time of process {pid} from {path}")]
    Stat {
        /// The process.
        pid: i32,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No pidfd for a process that exists.
    #[error("cannot open a pidfd for process {pid}")]
    Open {
        /// The process.
        pid: i32,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The signal was refused.
    #[error("cannot send {signal} to process {pid}")]
    Signal {
        /// The process.
        pid: i32,
        /// The signal.
        signal: Signal,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The pidfd cannot be waited on.
    #[error("cannot wait for process {pid} to end")]
    Wait {
        /// The process.
        pid: i32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// SIGKILL was sent, the process is still there.
    #[error(
        "process {pid} still exists {timeout:?} after SIGKILL; it hangs in the kernel, see /proc/{pid}/stack"
    )]
    Unkillable {
        /// The process.
        pid: i32,
        /// How long we waited.
        timeout: Duration,
    },
}

/// A process as it is written down: a pid means nothing without the time at which it was given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Process id, in our own PID namespace.
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks between boot and the process's start.
    pub start: u64,
}

impl Identity {
    /// The identity of the process that has this pid now; `None` when there is none.
    ///
    /// # Errors
    /// [`Error::Stat`] when procfs is missing or unreadable.
    pub fn of(pid: i32) -> Result<Option<Self>, Error> {
        Self::of_in(Path::new("/proc"), pid)
    }

    fn of_in(proc: &Path, pid: i32) -> Result<Option<Self>, Error> {
        let path = proc.join(pid.to_string()).join("stat");
        let fail = |source| Error::Stat { pid, path: path.clone(), source };
        match std::fs::read_to_string(&path) {
            Ok(stat) => {
                let start = start_time(&stat).ok_or_else(|| fail(io::ErrorKind::InvalidData.into()))?;
                Ok(Some(Self { pid, start }))
            }
            Err(e) if gone(&e) => Ok(None),
            Err(e) => Err(fail(e)),
        }
    }
}

/// procfs says ENOENT before and ESRCH while a process goes away.
fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ESRCH as i32)
}

/// Field 22 of a stat line; the command's name, field 2, may hold blanks and parentheses.
fn start_time(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// A handle on one process, never on a later one with the same pid.
#[derive(Debug)]
pub struct Process {
    identity: Identity,
    pidfd: OwnedFd,
}

impl Process {
    /// Opens the process that `identity` names. `None` when it has ended and been reaped,
    /// also when its pid has meanwhile been given to another.
    ///
    /// # Errors
    /// [`Error::Open`], [`Error::Stat`].
    pub fn open(identity: Identity) -> Result<Option<Self>, Error> {
        let pid = identity.pid;
        let pidfd = match sys::pidfd_open(pid) {
            Ok(fd) => fd,
            Err(Errno::ESRCH) => return Ok(None),
            Err(source) => return Err(Error::Open { pid, source }),
        };
        // Only now: what the descriptor stands for cannot change any more.
        Ok((Identity::of(pid)? == Some(identity)).then_some(Self { identity, pidfd }))
    }

    /// Which process this is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Sends a signal. A process that has ended already is no error.
    ///
    /// # Errors
    /// [`Error::Signal`].
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        match sys::pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(source) => Err(Error::Signal { pid: self.identity.pid, signal, source }),
        }
    }

    /// Waits until the process has ended (it may be a zombie that its parent has yet to reap).
    ///
    /// # Errors
    /// [`Error::Wait`].
    pub async fn ended(&self) -> Result<(), Error> {
        let fail = |source| Error::Wait { pid: self.identity.pid, source };
        // A descriptor of its own: the runtime takes ownership, and several may wait.
        let pidfd = self.pidfd.try_clone().map_err(fail)?;
        let watched = sys::watch(pidfd).map_err(fail)?;
        watched.readable().await.map_err(fail)?.retain_ready();
        Ok(())
    }

    /// SIGKILL, then waits for the end.
    ///
    /// # Errors
    /// [`Error::Unkillable`] when the process outlives `timeout`; else as [`Self::signal`] and [`Self::ended`].
    pub async fn end(&self, timeout: Duration) -> Result<(), Error> {
        self.signal(Signal::SIGKILL)?;
        let unkillable = |_| Error::Unkillable { pid: self.identity.pid, timeout };
        tokio::time::timeout(timeout, self.ended()).await.map_err(unkillable)?
    }
}

/// Ends the recorded process if it still exists. Safe to repeat.
///
/// # Errors
/// As [`Process::open`] and [`Process::end`].
pub async fn end_recorded(identity: Identity, timeout: Duration) -> Result<(), Error> {
    match Process::open(identity)? {
        Some(process) => process.end(timeout).await,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn sleeper() -> std::process::Child {
        Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap()
    }

    fn pid_of(child: &std::process::Child) -> i32 {
        i32::try_from(child.id()).unwrap()
    }

    #[test]
    fn a_hostile_command_name_does_not_shift_the_fields() {
        let mut fields: Vec<String> = (3..=52).map(|n| n.to_string()).collect();
        fields[0] = "S".into();
        let stat = format!("7 (a) b) 9 9 9) {}", fields.join(" "));
        assert_eq!(start_time(&stat), Some(22));
        assert_eq!(start_time("7 (a) S 1 2"), None);
        assert_eq!(start_time(""), None);
    }

    #[test]
    fn a_missing_process_has_no_identity_and_a_broken_stat_is_an_error() {
        let proc = tempfile::tempdir().unwrap();
        assert_eq!(Identity::of_in(proc.path(), 4).unwrap(), None);
        std::fs::create_dir(proc.path().join("5")).unwrap();
        std::fs::write(proc.path().join("5/stat"), "5 (x) S").unwrap();
        assert!(matches!(Identity::of_in(proc.path(), 5), Err(Error::Stat { pid: 5, .. })));
    }

    #[test]
    fn a_recycled_pid_is_not_the_recorded_process() {
        let own = Identity::of(i32::try_from(std::process::id()).unwrap()).unwrap().unwrap();
        assert!(Process::open(own).unwrap().is_some());
        assert!(Process::open(Identity { start: own.start + 1, ..own }).unwrap().is_none());
    }

    #[tokio::test]
    async fn killing_by_record_ends_the_process_and_can_be_repeated() {
        let mut child = sleeper();
        let identity = Identity::of(pid_of(&child)).unwrap().unwrap();
        end_recorded(identity, LIMIT).await.unwrap();
        end_recorded(identity, LIMIT).await.unwrap(); // a zombie now
        assert!(!child.wait().unwrap().success());
        end_recorded(identity, LIMIT).await.unwrap(); // gone now
    }

    #[tokio::test]
    async fn a_record_with_another_start_time_kills_nobody() {
        let mut child = sleeper();
        let identity = Identity::of(pid_of(&child)).unwrap().unwrap();
        end_recorded(Identity { start: identity.start - 1, ..identity }, LIMIT).await.unwrap();
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn ended_waits_for_the_end() {
        let mut child = sleeper();
        let process = Process::open(Identity::of(pid_of(&child)).unwrap().unwrap()).unwrap().unwrap();
        tokio::select! {
            biased;
            _ = process.ended() => panic!("a sleeping process has not ended"),
            () = tokio::task::yield_now() => {}
        }
        child.kill().unwrap();
        process.ended().await.unwrap();
        child.wait().unwrap();
    }
}
