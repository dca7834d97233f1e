//! The library forks, which a program with an event loop must not do: so it runs in a fresh process of this binary.
//!
//! The helper's stdin, stdout and stderr become the container process's. It answers with one line on an inherited
//! descriptor and ends; the container process then becomes the agent's child.

use std::env;
use std::ffi::{CString, OsString};
use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{Gid, Pid, execvp, setgroups};
use oci_spec::runtime::Spec;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::error::{Error, Result};
use crate::streams::ChildEnds;
use crate::sys;

/// First argument that makes this binary a helper.
pub const COMMAND: &str = "container-helper";
/// Where the library keeps its state.
pub const STATE: &str = "/run/agent-standin";

/// What the helper does.
#[derive(Debug, Clone)]
pub enum Task {
    /// Creates a container from its bundle.
    Create {
        /// Directory that holds `config.json`.
        bundle: PathBuf,
    },
    /// Runs a further process in a running container.
    Exec {
        /// File that describes it.
        process: PathBuf,
    },
}

/// Runs a helper; returns the process it made, which is in these groups beyond its first.
pub async fn run(
    container: &str,
    task: &Task,
    groups: &[u32],
    ends: Option<ChildEnds>,
    console: Option<&Path>,
) -> Result<Pid> {
    // Not close-on-exec: the helper inherits its end. Helpers are started one at a time, from one thread.
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())
        .map_err(Error::system("make a socket pair"))?;
    let (verb, path) = match task {
        Task::Create { bundle } => ("create", bundle),
        Task::Exec { process } => ("exec", process),
    };
    let mut command = Command::new("/proc/self/exe");
    command.arg0("agent-standin").arg(COMMAND).arg(verb).arg(theirs.as_raw_fd().to_string());
    let groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
    command.arg(groups.join(",")).arg(container).arg(path).args(console).current_dir("/").env_clear();
    match ends {
        Some(ends) => command.stdin(ends.stdin).stdout(ends.stdout).stderr(ends.stderr),
        None => command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()),
    };
    close_on_exec(&ours)?;
    // The reaper collects the helper, too.
    command.spawn().map_err(Error::system("start the container helper"))?;
    drop(command);
    drop(theirs);
    answer(container, ours).await
}

fn close_on_exec(fd: &OwnedFd) -> Result<()> {
    nix::fcntl::fcntl(fd, nix::fcntl::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))
        .map(drop)
        .map_err(Error::system("set close-on-exec"))
}

async fn answer(container: &str, ours: OwnedFd) -> Result<Pid> {
    let stream = net::UnixStream::from(ours);
    stream.set_nonblocking(true).map_err(Error::system("set non-blocking"))?;
    let mut stream = UnixStream::from_std(stream).map_err(Error::system("watch the container helper"))?;
    let mut text = Vec::new();
    // The container's first process may hold a copy of the descriptor: the line ends the answer, not the stream.
    while !text.ends_with(b"\n") {
        let count =
            stream.read_buf(&mut text).await.map_err(Error::system("read from the container helper"))?;
        if count == 0 {
            break;
        }
    }
    let text = String::from_utf8_lossy(&text);
    let failed = |message: &str| Error::Runtime { container: container.into(), message: message.into() };
    match text.trim_end().split_once(' ') {
        Some(("ok", pid)) => pid.parse().map(Pid::from_raw).map_err(|_| failed("helper gave no process id")),
        Some(("failed", message)) => Err(failed(message)),
        _ => Err(failed("helper ended without an answer")),
    }
}

/// The helper's own main function; `args` are those after [`COMMAND`]. Returns whether it succeeded.
pub fn main(args: &[OsString]) -> bool {
    let text: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    let [verb, fd, groups, container, path, console @ ..] = text.as_slice() else { return false };
    let Ok(fd) = fd.parse() else { return false };
    let groups: std::result::Result<Vec<Gid>, _> =
        groups.split_terminator(',').map(|group| group.parse().map(Gid::from_raw)).collect();
    // Inherited by the container's process.
    if !groups.is_ok_and(|groups| setgroups(&groups).is_ok()) {
        return false;
    }
    let mut reply = fs::File::from(sys::inherited(fd));
    let console = console.first().map(PathBuf::from);
    let result = perform(verb, container, Path::new(path), console);
    let line = match &result {
        Ok(pid) => format!("ok {pid}\n"),
        Err(error) => format!("failed {}\n", chain(error).replace('\n', " ")),
    };
    reply.write_all(line.as_bytes()).is_ok() && result.is_ok()
}

fn perform(
    verb: &str,
    id: &str,
    path: &Path,
    console: Option<PathBuf>,
) -> std::result::Result<i32, LibcontainerError> {
    let builder = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_executor(LooseExecutor)
        .with_root_path(STATE)?
        .with_console_socket(console);
    if verb == "exec" {
        return builder
            .as_tenant()
            .with_detach(true)
            .with_process(Some(path))
            .build()
            .map(|pid| pid.as_raw());
    }
    let container = builder.as_init(path).with_systemd(false).with_detach(true).build()?;
    container
        .pid()
        .map(|pid| pid.as_raw())
        .ok_or_else(|| LibcontainerError::Other("container has no process".into()))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// The library's executor, as kata-agent 4.1.0 (rustjail's `do_init_child` and `do_exec`): `PATH` need not be set, a file that is
/// there is enough, and one that cannot be executed ends with the error's number.
#[derive(Clone)]
struct LooseExecutor;

impl Executor for LooseExecutor {
    fn exec(&self, spec: &Spec) -> std::result::Result<(), ExecutorError> {
        let args = spec.process().as_ref().and_then(|process| process.args().as_deref());
        let words: Vec<CString> = args
            .unwrap_or_default()
            .iter()
            .map(|arg| CString::new(arg.as_str()).unwrap_or_default())
            .collect();
        let program = words.first().ok_or(ExecutorError::InvalidArg)?;
        let Err(errno) = execvp(program, &words);
        #[allow(clippy::disallowed_methods, reason = "the container's process has nothing to release")]
        std::process::exit(errno as i32)
    }

    fn validate(&self, spec: &Spec) -> std::result::Result<(), ExecutorValidationError> {
        let process = spec.process().as_ref();
        let program = process.and_then(|process| process.args().as_ref()?.first());
        let environment = process.and_then(|process| process.env().as_deref()).unwrap_or_default();
        let path = environment.iter().find_map(|entry| entry.strip_prefix("PATH="));
        match program {
            Some(program) if is_there(program, path) => Ok(()),
            Some(program) => Err(ExecutorValidationError::ArgValidationError(format!(
                "no file {program:?} in the container"
            ))),
            None => Err(ExecutorValidationError::ArgValidationError("no program is named".into())),
        }
    }
}

fn is_there(program: &str, path: Option<&str>) -> bool {
    let in_path = |path: &str| env::split_paths(path).any(|directory| directory.join(program).is_file());
    Path::new(program).exists() || path.is_some_and(in_path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_a_file_that_is_there() {
        assert!(is_there("/bin/sh", None));
        assert!(is_there("sh", Some("/nowhere:/bin")));
        assert!(!is_there("sh", Some("/nowhere")) && !is_there("sh", None));
        assert!(is_there("/etc/passwd", None), "whoever may execute it");
        assert!(!is_there("/no/such", Some("/bin")));
    }

    #[tokio::test]
    async fn a_silent_helper_is_an_error() {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC).unwrap();
        drop(theirs);
        assert!(matches!(answer("abc", ours).await, Err(Error::Runtime { .. })));
    }

    #[tokio::test]
    async fn the_line_ends_the_answer() {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC).unwrap();
        nix::unistd::write(&theirs, b"ok 42\n").unwrap();
        assert_eq!(answer("abc", ours).await.unwrap(), Pid::from_raw(42));
    }
}
