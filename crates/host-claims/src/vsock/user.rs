//! vhost-user-vsock: the program `vhost-device-vsock`, one per VM, with its sockets in a directory of its own.

use std::collections::VecDeque;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jail::{UserId, apart};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, Command};

use super::{
    END, Error, GATE_SOCKET, GateListener, HYBRID_SOCKET, Kept, VHOST_USER_SOCKET, VsockRecord,
    remove_sockets,
};
use crate::process::{self, Identity};

/// The guest's context id. It is the guest's own business: each program serves one VM, so all may have the same. PID 1
/// connects to the port of that number, and the program to its socket's path with `_<port>` (its README). A number that
/// the program never comes to: it counts its own ports up from 0, one for each of our connections, and connects nobody
/// any more when the next one is a port that the guest has connected to (version 0.3.0, `allocate_local_port`).
const GUEST_CID: &str = "1073741824";
/// How long the program may take until its sockets are there.
const START: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(5);
/// How much of its last words is kept.
const KEPT: usize = 2048;

/// Looks for an executable file `name` in directories, in their order.
///
/// # Errors
/// [`Error::NoProgram`].
pub fn find_program(name: &str, search: &[PathBuf]) -> Result<PathBuf, Error> {
    let executable =
        |path: &PathBuf| path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok();
    let found = search.iter().map(|dir| dir.join(name)).find(executable);
    found.ok_or_else(|| Error::NoProgram { program: name.to_owned(), searched: search.to_vec() })
}

/// A running program. It ignores SIGTERM and does not mind QEMU's end, so it is killed.
#[derive(Debug)]
#[must_use = "dropping it kills the program"]
pub struct UserVsock {
    program: PathBuf,
    state_dir: PathBuf,
    child: Child,
    identity: Identity,
    stderr: Arc<Mutex<VecDeque<u8>>>,
    pub(super) gate: Option<GateListener>,
}

impl UserVsock {
    pub(super) async fn start(
        program: PathBuf,
        state_dir: PathBuf,
        kept: Option<Kept<'_>>,
    ) -> Result<Self, Error> {
        remove_sockets(&state_dir)?;
        let path = state_dir.join(GATE_SOCKET);
        let listening = GateListener::unix(&state_dir, GATE_SOCKET)
            // Another user than ours connects to it; who may at all is said by the directory.
            .and_then(|gate| fs::set_permissions(&path, Permissions::from_mode(0o666)).map(|()| gate));
        let gate = Some(listening.map_err(|source| Error::Listen { path, source })?);
        let spawn = |source| Error::Spawn { program: program.clone(), source };
        let no_jail = |error| spawn(io::Error::other(error));
        let command = match kept {
            Some(Kept { jail, jailer, .. }) => jail.command(jailer, &program).map_err(no_jail)?,
            None => std::process::Command::new(&program),
        };
        let mut command = Command::from(command);
        command.args(["--guest-cid", GUEST_CID, "--socket", VHOST_USER_SOCKET, "--uds-path", HYBRID_SOCKET]);
        command.current_dir(&state_dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        let mut child = match kept {
            Some(_) => apart(|| command.spawn()).map_err(no_jail)?,
            None => command.spawn(),
        }
        .map_err(spawn)?;
        let stderr = Arc::new(Mutex::new(VecDeque::new()));
        if let Some(pipe) = child.stderr.take() {
            tokio::spawn(keep_last(pipe, Arc::clone(&stderr)));
        }
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
        // Not reaped by anyone but us, so the pid is the child's even if it has ended.
        let identity = Identity::of(pid).map_err(Error::End)?.unwrap_or(Identity { pid, start: 0 });
        let mut started = Self { program, state_dir, child, identity, stderr, gate };
        let ready = started.ready().await;
        match ready.and_then(|()| kept.map_or(Ok(()), |kept| started.give_socket(kept.qemu))) {
            Ok(()) => Ok(started),
            Err(e) => {
                let _ = started.release().await;
                Err(e)
            }
        }
    }

    /// Both sockets are there and listened on.
    async fn ready(&mut self) -> Result<(), Error> {
        let deadline = tokio::time::Instant::now() + START;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                // What it wrote last may still be in the pipe.
                tokio::time::sleep(STEP).await;
                return Err(Error::Ended {
                    program: self.program.clone(),
                    status,
                    stderr: self.last_words(),
                });
            }
            // The hybrid socket is made first, the other one last; a probing connection would be taken for QEMU's.
            if self.vhost_user_socket().exists() && self.hybrid_socket().exists() {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                let socket = self.vhost_user_socket();
                let stderr = self.last_words();
                return Err(Error::NotReady {
                    program: self.program.clone(),
                    socket,
                    timeout: START,
                    stderr,
                });
            }
            tokio::time::sleep(STEP).await;
        }
    }

    /// Lets QEMU connect, and nobody else. The program may have put anything there; whatever it is, was its own.
    fn give_socket(&self, qemu: UserId) -> Result<(), Error> {
        let path = self.vhost_user_socket();
        lchown(&path, Some(qemu.get()), Some(qemu.get())).map_err(|source| Error::GiveSocket { path, source })
    }

    /// For QEMU.
    #[must_use]
    pub fn vhost_user_socket(&self) -> PathBuf {
        self.state_dir.join(VHOST_USER_SOCKET)
    }

    /// For us.
    #[must_use]
    pub fn hybrid_socket(&self) -> PathBuf {
        self.state_dir.join(HYBRID_SOCKET)
    }

    /// Which process it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The last of what the program wrote to stderr.
    #[must_use]
    pub fn last_words(&self) -> String {
        let kept = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: Vec<u8> = kept.iter().copied().collect();
        match String::from_utf8_lossy(&bytes).trim() {
            "" => "nothing".to_owned(),
            words => words.to_owned(),
        }
    }

    pub(super) fn record(&self) -> VsockRecord {
        VsockRecord::User { state_dir: self.state_dir.clone(), process: Some(self.identity) }
    }

    pub(super) async fn release(mut self) -> Result<(), Error> {
        let _ = self.child.start_kill();
        let timeout = |_| Error::End(process::Error::Unkillable { pid: self.identity.pid, timeout: END });
        let _ = tokio::time::timeout(END, self.child.wait()).await.map_err(timeout)?;
        remove_sockets(&self.state_dir)
    }
}

impl Drop for UserVsock {
    fn drop(&mut self) {
        // The child itself is killed, and reaped by the runtime, when its field is dropped.
        let _ = remove_sockets(&self.state_dir);
    }
}

async fn keep_last(mut pipe: ChildStderr, kept: Arc<Mutex<VecDeque<u8>>>) {
    let mut buffer = [0; 512];
    while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(&buffer[..length]);
        let surplus = kept.len().saturating_sub(KEPT);
        kept.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::process::Process;

    fn program(dir: &Path, script: &str) -> PathBuf {
        let path = dir.join(super::super::PROGRAM);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn the_program_is_found_in_the_order_of_the_directories() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(first.path().join("vhost-device-vsock"), "not executable").unwrap();
        let found = program(second.path(), "");
        let search = [first.path().to_owned(), second.path().to_owned()];
        assert_eq!(find_program(super::super::PROGRAM, &search).unwrap(), found);
        assert!(
            matches!(find_program("other", &search), Err(Error::NoProgram { searched, .. }) if searched.len() == 2)
        );
    }

    #[test]
    fn pid_1_connects_to_where_we_listen() {
        assert_eq!(super::super::GATE_SOCKET, format!("{HYBRID_SOCKET}_{GUEST_CID}"));
    }

    #[tokio::test]
    async fn a_program_that_ends_is_named_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let program = program(dir.path(), "echo no such group >&2; exit 3");
        let error = UserVsock::start(program, dir.path().to_owned(), None).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("vhost-device-vsock") && text.contains("no such group"), "{text}");
    }

    #[tokio::test]
    async fn it_runs_in_the_state_directory_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let program = program(dir.path(), "trap '' TERM; : > vsock.sock; : > vhost.sock; exec sleep 600");
        let started = UserVsock::start(program, dir.path().to_owned(), None).await.unwrap();
        assert!(started.hybrid_socket().starts_with(dir.path()));
        let record = started.record();
        let identity = started.identity();
        assert!(Process::open(identity).unwrap().is_some());
        started.release().await.unwrap();
        assert!(Process::open(identity).unwrap().is_none());
        assert!(!dir.path().join("vsock.sock").exists());
        assert!(!dir.path().join(super::super::GATE_SOCKET).exists());
        record.release().await.unwrap();
    }

    #[tokio::test]
    async fn a_record_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        let program = program(dir.path(), ": > vsock.sock; : > vhost.sock; exec sleep 600");
        let started = UserVsock::start(program, dir.path().to_owned(), None).await.unwrap();
        started.record().release().await.unwrap();
        assert!(!dir.path().join("vhost.sock").exists());
        started.release().await.unwrap();
    }
}
