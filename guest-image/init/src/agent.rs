//! The agent as a child of PID 1.

use std::fmt;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// The agent's variable for the file of its policy (kata-agent 4.1.0, `src/agent/src/config.rs`).
const POLICY: &str = "KATA_AGENT_POLICY_FILE";
/// Where kata-agent, at log level debug, appends each request that it asks its policy about (4.1.0,
/// `src/agent/policy/src/policy.rs`).
const REQUESTS: &str = "tmp/policy.jsonl";
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
    /// Its record of requests would fill the memory.
    #[error("cannot make {}, which discards the agent's record of requests", path.display())]
    Requests {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
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

/// Discards the agent's record of requests. In memory it would grow with each container until none is left.
///
/// # Errors
///
/// When there is something in its place.
pub fn discard_requests(root: &Path) -> Result<(), AgentError> {
    let path = root.join(REQUESTS);
    symlink("/dev/null", &path).map_err(|source| AgentError::Requests { path, source })
}

/// Starts the agent at `path`, with an environment that holds what is named here and nothing else, so that the kernel's
/// command line cannot give it anything by that way. A `policy` is read instead of the image's own. What the agent prints goes
/// to the console.
///
/// # Errors
///
/// When the agent does not start.
pub fn start(path: &Path, policy: Option<&Path>) -> Result<Pid, AgentError> {
    let mut command = Command::new(path);
    command.env_clear().env("PATH", PATH).env("HOME", "/root").current_dir("/").stdin(Stdio::null());
    command.envs(policy.map(|policy| (POLICY, policy)));
    let child = command.spawn().map_err(|source| AgentError::Spawn { path: path.to_owned(), source })?;
    Ok(Pid::from_raw(child.id().cast_signed()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use nix::sys::wait::waitpid;

    use super::*;

    #[test]
    fn ends_are_told_from_each_other() {
        assert_eq!(AgentEnd::Killed(Signal::SIGSEGV).to_string(), "was killed by SIGSEGV");
        assert_eq!(AgentEnd::Exited(0).to_string(), "exited with status 0");
    }

    #[test]
    fn a_missing_agent_is_named() {
        let error = start(Path::new("/no/such/agent"), None).unwrap_err();
        assert_eq!(error.to_string(), "cannot start the agent /no/such/agent");
    }

    #[test]
    fn its_record_of_requests_goes_nowhere() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("tmp")).unwrap();
        discard_requests(root.path()).unwrap();
        let record = root.path().join("tmp/policy.jsonl");
        fs::OpenOptions::new().append(true).create(true).open(&record).unwrap().write_all(b"{}").unwrap();
        assert_eq!(fs::read_to_string(&record).unwrap(), "");
        let error = discard_requests(root.path()).unwrap_err();
        assert!(error.to_string().contains("policy.jsonl"), "{error}");
    }

    #[test]
    fn its_environment_is_what_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let (agent, said) = (directory.path().join("agent"), directory.path().join("said"));
        fs::write(&agent, format!("#!/bin/sh\nenv > {}\n", said.display())).unwrap();
        fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).unwrap();
        let names = |policy| {
            let pid = start(&agent, policy).unwrap();
            waitpid(pid, None).unwrap();
            let said = fs::read_to_string(&said).unwrap();
            // What the shell itself sets.
            let own = ["PWD", "OLDPWD", "SHLVL", "_"];
            let lines = said.lines().map(str::to_owned);
            let mut lines: Vec<_> =
                lines.filter(|line| !own.contains(&line.split('=').next().unwrap())).collect();
            lines.sort();
            lines
        };
        let usual = ["HOME=/root".to_owned(), format!("PATH={PATH}")];
        assert_eq!(names(None), usual);
        let with = names(Some(Path::new("/run/coffer/policy.rego")));
        assert_eq!(with[0], "HOME=/root");
        assert_eq!(with[1], "KATA_AGENT_POLICY_FILE=/run/coffer/policy.rego");
        assert_eq!(with.len(), 3);
    }
}
