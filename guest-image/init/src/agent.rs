//! The agent as a child of PID 1, and the orphans that its containers leave behind.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why the agent could not be run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The program did not start.
    #[error("cannot start the agent {}", path.display())]
    Spawn {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The kernel has no number for it that fits a process id.
    #[error("the agent's process id {0} is out of range")]
    Id(u32),
    /// Its end cannot be observed.
    #[error("cannot wait for the agent")]
    Wait(#[source] Errno),
}

/// How the agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentEnd {
    /// With an exit status.
    Exited(i32),
    /// By a signal.
    Killed(Signal),
}

impl fmt::Display for AgentEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AgentEnd::Exited(status) => write!(f, "exited with status {status}"),
            AgentEnd::Killed(signal) => write!(f, "was killed by {signal}"),
        }
    }
}

/// Runs the agent at `path` until it ends, and reaps every other process that ends meanwhile. What the agent
/// prints goes to the console.
///
/// # Errors
///
/// When the agent does not start, or the kernel does not say how it ended.
pub fn run(path: &Path) -> Result<AgentEnd, AgentError> {
    let child = Command::new(path)
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/root")
        .current_dir("/")
        .stdin(Stdio::null())
        .spawn()
        .map_err(|source| AgentError::Spawn { path: path.to_owned(), source })?;
    let id = i32::try_from(child.id()).map_err(|_| AgentError::Id(child.id()))?;
    reap_until(Pid::from_raw(id), || waitpid(None::<Pid>, None))
}

/// Takes the ends of children from `next` until it is `agent`'s.
fn reap_until(
    agent: Pid,
    mut next: impl FnMut() -> Result<WaitStatus, Errno>,
) -> Result<AgentEnd, AgentError> {
    loop {
        match next() {
            Ok(WaitStatus::Exited(pid, status)) if pid == agent => return Ok(AgentEnd::Exited(status)),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == agent => return Ok(AgentEnd::Killed(signal)),
            // EINVAL: an orphan died of a real-time signal, for which nix has no name; it is reaped all the same.
            Ok(_) | Err(Errno::EINTR | Errno::EINVAL) => {}
            Err(errno) => return Err(AgentError::Wait(errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(list: Vec<Result<WaitStatus, Errno>>) -> Result<AgentEnd, AgentError> {
        let mut list = list.into_iter();
        reap_until(Pid::from_raw(7), || list.next().unwrap_or(Err(Errno::ECHILD)))
    }

    #[test]
    fn orphans_are_reaped_until_the_agent_ends() {
        let end = ends(vec![
            Ok(WaitStatus::Exited(Pid::from_raw(9), 1)),
            Err(Errno::EINTR),
            Err(Errno::EINVAL),
            Ok(WaitStatus::Signaled(Pid::from_raw(10), Signal::SIGKILL, false)),
            Ok(WaitStatus::Exited(Pid::from_raw(7), 3)),
        ]);
        assert_eq!(end.unwrap(), AgentEnd::Exited(3));
    }

    #[test]
    fn a_killed_agent_is_told_from_one_that_exits() {
        let end = ends(vec![Ok(WaitStatus::Signaled(Pid::from_raw(7), Signal::SIGSEGV, true))]).unwrap();
        assert_eq!(end.to_string(), "was killed by SIGSEGV");
        assert_eq!(AgentEnd::Exited(0).to_string(), "exited with status 0");
    }

    #[test]
    fn losing_the_agent_is_an_error_not_a_loop() {
        assert!(matches!(ends(Vec::new()), Err(AgentError::Wait(Errno::ECHILD))));
    }

    #[test]
    fn a_missing_agent_is_named() {
        let error = run(Path::new("/no/such/agent")).unwrap_err();
        assert_eq!(error.to_string(), "cannot start the agent /no/such/agent");
    }
}
