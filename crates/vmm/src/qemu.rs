//! The QEMU process: spawned with exactly the descriptors it needs, its stderr kept, killed and reaped on drop.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use host_claims::process;
use slog::{Logger, error};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::lines::{Tail, follow};
use crate::progress::Activity;

/// How long a killed process may take to go before that is told.
const KILL_PATIENCE: Duration = Duration::from_secs(20);

/// QEMU could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// There is no such program, or it may not be executed.
    #[error(
        "cannot execute {}: install QEMU 11 or newer, or set `qemu` in the node's configuration",
        .program.display()
    )]
    Execute {
        /// The program that was to run.
        program: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Two descriptors were planned for one number in QEMU.
    #[error("the VM description gives two descriptors the same number in QEMU")]
    Descriptors,
    /// The process ended before its id could be read.
    #[error("{} ended as it started", .program.display())]
    Gone {
        /// The program that ran.
        program: PathBuf,
    },
}

/// A running QEMU. Dropping it kills the process; tokio reaps it.
#[derive(Debug)]
pub struct Qemu {
    child: Child,
    pid: u32,
    stderr: Tail,
    log: Logger,
}

impl Qemu {
    /// Starts `program` by `command` with `args` besides, each descriptor under the number it is paired with.
    ///
    /// # Errors
    /// See [`SpawnError`].
    pub fn spawn(
        program: &Path,
        command: std::process::Command,
        args: &[String],
        fds: Vec<(OwnedFd, i32)>,
        log: &Logger,
        activity: &Activity,
    ) -> Result<Self, SpawnError> {
        let mappings =
            fds.into_iter().map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd }).collect();
        let mut command = Command::from(command);
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .fd_mappings(mappings)
            .map_err(|_| SpawnError::Descriptors)?;
        let failed = |source| SpawnError::Execute { program: program.to_owned(), source };
        let mut child = command.spawn().map_err(failed)?;
        let (Some(pid), Some(stderr)) = (child.id(), child.stderr.take()) else {
            return Err(SpawnError::Gone { program: program.to_owned() });
        };
        let stderr = stderr.into_owned_fd().map_err(failed)?;
        let stderr = follow(stderr, "qemu", log.clone(), activity.clone());
        Ok(Self { child, pid, stderr, log: log.clone() })
    }

    /// The process id, in the shim's PID namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What QEMU said on stderr lately.
    pub fn stderr(&self) -> &Tail {
        &self.stderr
    }

    /// Waits for the process to end. tokio watches it through a pidfd and reaps it. May be dropped and called
    /// again.
    pub async fn wait(&mut self) -> Exit {
        let status = self.child.wait().await;
        // The pipe's end follows the process's by a moment; a message without its last lines helps nobody.
        self.stderr.ended(Duration::from_millis(500)).await;
        match status {
            Ok(status) => Exit::Status(status),
            Err(error) => Exit::Unknown(error.to_string()),
        }
    }

    /// Kills the process and waits until it is reaped, however long that is: what it has may not be given back before.
    pub async fn kill(&mut self) -> Exit {
        let _ = self.child.start_kill();
        self.killed().await
    }

    /// Waits for the end of the killed process, and says once that it does not come.
    async fn killed(&mut self) -> Exit {
        if let Ok(exit) = timeout(KILL_PATIENCE, self.wait()).await {
            return exit;
        }
        let pid = i32::try_from(self.pid).unwrap_or(i32::MAX);
        let hangs = process::Error::Unkillable { pid, timeout: KILL_PATIENCE };
        error!(self.log, "QEMU does not end; it is waited for"; "error" => %hangs);
        self.wait().await
    }
}

/// How QEMU ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// The process's status.
    Status(ExitStatus),
    /// The status could not be had.
    Unknown(String),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            // "exit status: 1" or "signal: 9 (SIGKILL)"
            Self::Status(status) => write!(f, "{status}"),
            Self::Unknown(error) => write!(f, "unknown status: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use slog::{Discard, Drain, KV, Key, Never, OwnedKVList, Record, Serializer, o};
    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

    use super::*;

    fn spawn(script: &str, fds: Vec<(OwnedFd, i32)>) -> Result<Qemu, SpawnError> {
        spawn_with(script, fds, Logger::root(Discard, o!()))
    }

    fn spawn_with(script: &str, fds: Vec<(OwnedFd, i32)>, log: Logger) -> Result<Qemu, SpawnError> {
        let args = ["-c".to_owned(), script.to_owned()];
        let shell = Path::new("/bin/sh");
        Qemu::spawn(shell, std::process::Command::new(shell), &args, fds, &log, &Activity::default())
    }

    #[tokio::test]
    async fn stderr_and_status_are_told() {
        let mut qemu = spawn("echo no such machine >&2; exit 3", Vec::new()).unwrap();
        assert_eq!(qemu.wait().await.to_string(), "exit status: 3");
        assert_eq!(qemu.stderr().lines(), ["no such machine"]);
    }

    #[tokio::test]
    async fn descriptors_arrive_under_their_numbers() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut qemu = spawn("echo hello >&7", vec![(theirs.into(), 7)]).unwrap();
        qemu.wait().await;
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello\n");
    }

    #[tokio::test]
    async fn a_kill_is_seen() {
        let mut qemu = spawn("sleep 60", Vec::new()).unwrap();
        assert_eq!(qemu.kill().await.to_string(), "signal: 9 (SIGKILL)");
    }

    /// Nothing that a test can start outlives SIGKILL: it is one that nobody killed.
    #[tokio::test(start_paused = true)]
    async fn one_that_outlives_its_kill_is_told_of_once_and_waited_for() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (log, mut lines) = told();
        let mut qemu = spawn_with("read go <&7; exit 3", vec![(theirs.into(), 7)], log).unwrap();
        let pid = qemu.pid();
        let first = async {
            let first = lines.recv().await.unwrap();
            // Long after it was told; then it goes.
            tokio::time::sleep(KILL_PATIENCE * 9).await;
            drop(ours);
            first
        };
        let (exit, first) = tokio::join!(qemu.killed(), first);
        assert_eq!(exit.to_string(), "exit status: 3");
        for words in ["ERRO QEMU does not end", &format!("/proc/{pid}/stack")] {
            assert!(first.contains(words), "{words:?} is not in {first:?}");
        }
        assert!(lines.try_recv().is_err());
    }

    /// A log, and its lines.
    fn told() -> (Logger, UnboundedReceiver<String>) {
        struct Lines(UnboundedSender<String>);
        impl Drain for Lines {
            type Ok = ();
            type Err = Never;

            fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
                struct Text(String);
                impl Serializer for Text {
                    fn emit_arguments(&mut self, _: Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
                        self.0.push_str(&format!(" {value}"));
                        Ok(())
                    }
                }
                let mut text = Text(format!("{} {}", record.level().as_short_str(), record.msg()));
                record.kv().serialize(record, &mut text).unwrap();
                let _ = self.0.send(text.0);
                Ok(())
            }
        }
        let (sender, lines) = unbounded_channel();
        (Logger::root(Lines(sender), o!()), lines)
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let log = Logger::root(Discard, o!());
        let (program, command) = (Path::new("/no/qemu"), std::process::Command::new("/no/qemu"));
        let error = Qemu::spawn(program, command, &[], Vec::new(), &log, &Activity::default()).unwrap_err();
        assert!(error.to_string().contains("/no/qemu"), "{error}");
    }

    #[tokio::test]
    async fn one_number_for_two_descriptors_is_refused() {
        let (one, two) = UnixStream::pair().unwrap();
        let error = spawn("true", vec![(one.into(), 7), (two.into(), 7)]).unwrap_err();
        assert!(matches!(error, SpawnError::Descriptors));
    }
}
