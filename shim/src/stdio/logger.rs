//! A program that takes a container's output (`binary://`, `binary-v2://`), as containerd's own shim runs it: `nerdctl run -d` names one.
//!
//! What it is given (containerd, `cmd/containerd-shim-runc-v2/process/io.go` and `pkg/shim`'s `NewBinaryCmd`): the URI's
//! query as arguments, key and value by turns; the container's id and namespace in its environment; stdout's pipe as
//! descriptor 3, stderr's as 4, and as 5 a pipe that it closes when it is ready. By the second scheme (since containerd 2.2)
//! it writes a byte before, without which it counts as having ended.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::sink::{OpenError, Sink};
use crate::files;

/// How long it may take to be ready.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take with the rest, once there is no more output.
const END_PATIENCE: Duration = Duration::from_secs(10);
/// And how long to end when it is asked to.
const TERM_PATIENCE: Duration = Duration::from_secs(2);

/// How such a URI begins, and whether the program says with a byte that it is ready.
const SCHEMES: [(&str, bool); 2] = [("binary://", false), ("binary-v2://", true)];

/// The program of one process's output.
#[derive(Debug)]
pub struct Logger {
    path: PathBuf,
    child: Child,
    ready: pipe::Receiver,
    says_so: bool,
}

/// Why output goes nowhere.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// It ended, or closed all, without a word.
    #[error("the logging program {} was not ready within {} s", .0.display(), START_PATIENCE.as_secs())]
    Slow(PathBuf),
    /// It ended, or closed its pipe, without the byte that it owes.
    #[error("the logging program {} did not say that it is ready; has it ended?", .0.display())]
    Ended(PathBuf),
    /// Its pipe failed.
    #[error("cannot hear whether the logging program {} is ready", .0.display())]
    Pipe(PathBuf, #[source] io::Error),
}

/// Whether output is for a program.
pub fn is_wanted(uri: &str) -> bool {
    SCHEMES.iter().any(|(scheme, _)| uri.starts_with(scheme))
}

impl Logger {
    /// Starts the program of `uri`; returns it with what stdout and stderr are written to.
    ///
    /// # Errors
    /// It cannot be executed, or there are no pipes left.
    pub fn start(uri: &str, namespace: &str, container: &str) -> Result<(Self, Sink, Sink), OpenError> {
        let known = SCHEMES.iter().find_map(|(scheme, says_so)| Some((uri.strip_prefix(scheme)?, *says_so)));
        let (rest, says_so) = known.unwrap_or((uri, false));
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = PathBuf::from(path);
        let failed = |source: io::Error| OpenError::Logger { path: path.clone(), source };
        let (stdout, to_stdout) = io::pipe().map_err(failed)?;
        let (stderr, to_stderr) = io::pipe().map_err(failed)?;
        let (ready, is_ready) = io::pipe().map_err(failed)?;
        let given: [OwnedFd; 3] = [stdout.into(), stderr.into(), is_ready.into()];
        let mappings = (3..).zip(given).map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd });
        let mut command = Command::new(&path);
        command
            .args(arguments(query))
            .env_clear()
            .env("CONTAINER_ID", container)
            .env("CONTAINER_NAMESPACE", namespace)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.fd_mappings(mappings.collect()).map_err(|error| failed(io::Error::other(error)))?;
        let child = command.spawn().map_err(failed)?;
        files::restore(child.id());
        drop(command); // and with it our copies of the program's ends
        let sink =
            |end: io::PipeWriter| pipe::Sender::from_owned_fd(end.into()).map(Sink::Fifo).map_err(failed);
        let (stdout, stderr) = (sink(to_stdout)?, sink(to_stderr)?);
        let ready = pipe::Receiver::from_owned_fd(ready.into()).map_err(failed)?;
        Ok((Self { path, child, ready, says_so }, stdout, stderr))
    }

    /// Waits until it is ready, which it says by a byte, or of the first kind also by closing the pipe.
    ///
    /// # Errors
    /// It takes too long, or does not say so; it is killed then.
    pub async fn ready(&mut self) -> Result<(), NotReady> {
        let failure = match timeout(START_PATIENCE, self.ready.read(&mut [0])).await {
            Ok(Ok(0)) if self.says_so => NotReady::Ended(self.path.clone()),
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => NotReady::Pipe(self.path.clone(), error),
            Err(_) => NotReady::Slow(self.path.clone()),
        };
        // Nobody else ends one that does not even look at its pipes.
        let _ = self.child.start_kill();
        Err(failure)
    }

    /// Waits for its end, after that of the output; ends it where it does not come.
    pub async fn finish(mut self) {
        if timeout(END_PATIENCE, self.child.wait()).await.is_ok() {
            return;
        }
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        if timeout(TERM_PATIENCE, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

/// `key=value&key` as words.
fn arguments(query: &str) -> Vec<String> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.flat_map(|pair| pair.splitn(2, '=').map(decoded).collect::<Vec<_>>()).collect()
}

/// The text of a part of a query: `+` is a space, `%` comes before two hexadecimal digits.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..2).and_then(|digits| str::from_utf8(digits).ok());
        let byte = digits.filter(|_| *first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_query_is_words() {
        assert_eq!(
            arguments("_NERDCTL_INTERNAL_LOGGING=%2Fvar%2Flib%2Fn"),
            ["_NERDCTL_INTERNAL_LOGGING", "/var/lib/n"]
        );
        assert_eq!(arguments("a=b+c&d&e="), ["a", "b c", "d", "e", ""]);
        assert_eq!(decoded("%zz%4"), "%zz%4");
        assert!(arguments("").is_empty());
    }

    /// A program that does as nerdctl's does: it reads both streams to their end.
    #[tokio::test]
    async fn a_program_gets_the_output_and_ends_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("logger");
        let script = "#!/bin/sh\nexec 5>&-\necho \"$@ $CONTAINER_ID $CONTAINER_NAMESPACE\" > $2/who\n\
            cat <&3 > $2/out &\ncat <&4 > $2/err\nwait\n";
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let uri = format!("binary://{}?dir={}", program.display(), dir.path().display());
        // Another thread's fork may hold the script open for writing for a moment.
        let started = loop {
            match Logger::start(&uri, "ns", "c1") {
                Err(OpenError::Logger { source, .. })
                    if source.kind() == io::ErrorKind::ExecutableFileBusy => {}
                started => break started.unwrap(),
            }
        };
        let (mut logger, mut stdout, mut stderr) = started;
        logger.ready().await.unwrap();
        stdout.write_all(b"to stdout").await.unwrap();
        stderr.write_all(b"to stderr").await.unwrap();
        drop((stdout, stderr));
        timeout(Duration::from_secs(5), logger.finish()).await.unwrap();
        let text = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!((text("out").as_str(), text("err").as_str()), ("to stdout", "to stderr"));
        assert_eq!(text("who"), format!("dir {} c1 ns\n", dir.path().display()));
    }

    /// A closed pipe is ready for the first scheme; for the second it is a program that has failed.
    #[tokio::test]
    async fn by_the_second_scheme_a_program_says_that_it_is_ready() {
        for (uri, ready) in [
            ("binary:///bin/sh?-c=exit", true),
            ("binary-v2:///bin/sh?-c=exit", false),
            ("binary-v2:///bin/sh?-c=printf+x+%3E%265", true),
        ] {
            assert!(is_wanted(uri));
            let (mut logger, ..) = Logger::start(uri, "ns", "c1").unwrap();
            match logger.ready().await {
                Ok(()) => assert!(ready, "{uri}"),
                Err(NotReady::Ended(path)) => {
                    assert!(!ready && path == std::path::Path::new("/bin/sh"), "{uri}")
                }
                Err(other) => panic!("{uri}: {other}"),
            }
            logger.finish().await;
        }
        assert!(!is_wanted("binary-v3:///bin/sh"));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_never_ready_is_killed() {
        let (mut logger, ..) = Logger::start("binary:///usr/bin/tail?-f=/dev/null", "ns", "c1").unwrap();
        assert!(matches!(logger.ready().await, Err(NotReady::Slow(_))));
        assert_eq!(logger.child.wait().await.unwrap().signal(), Some(9));
    }

    #[tokio::test]
    async fn one_that_is_not_there_is_named() {
        let error = Logger::start("binary:///no/such/logger", "ns", "c1").unwrap_err();
        assert!(error.to_string().contains("/no/such/logger"), "{error}");
    }
}
