//! The agent as a child of PID 1.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
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

/// Starts the agent at `path`, with an environment that holds what is named here and nothing else. What the agent
/// prints goes to the console.
///
/// # Errors
///
/// When the agent does not start.
pub fn start(path: &Path) -> Result<Pid, AgentError> {
    let mut command = Command::new(path);
    command.env_clear().env("PATH", PATH).env("HOME", "/root").current_dir("/").stdin(Stdio::null());
    let child = command.spawn().map_err(|source| AgentError::Spawn { path: path.to_owned(), source })?;
    let id = i32::try_from(child.id()).map_err(|_| AgentError::Id(child.id()))?;
    Ok(Pid::from_raw(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_from_each_other() {
        assert_eq!(AgentEnd::Killed(Signal::SIGSEGV).to_string(), "was killed by SIGSEGV");
        assert_eq!(AgentEnd::Exited(0).to_string(), "exited with status 0");
    }

    #[test]
    fn a_missing_agent_is_named() {
        let error = start(Path::new("/no/such/agent")).unwrap_err();
        assert_eq!(error.to_string(), "cannot start the agent /no/such/agent");
    }
}
