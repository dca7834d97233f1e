//! The socket of a sandbox: where it lies, and who may bind it.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{process, thread};

use containerd_shim::StartOpts;

use crate::api::{ContainerId, Namespace};

const SCHEME: &str = "unix://";

/// Address of a sandbox's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(PathBuf);

/// A socket that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct Error {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Address {
    /// The address that the engine's own rule gives sandbox `group`: a hash of the engine's address,
    /// the namespace and the sandbox.
    pub fn of(params: &StartOpts, namespace: &Namespace, group: &ContainerId) -> Self {
        let rule = StartOpts {
            address: params.address.clone(),
            namespace: namespace.to_string(),
            socket_dir: params.socket_dir.clone(),
            ..StartOpts::default()
        };
        let text = rule.socket_address(group.as_str());
        Self(PathBuf::from(text.strip_prefix(SCHEME).unwrap_or(&text)))
    }

    /// The address recorded in a bundle, if it is sandbox `id`'s own.
    pub fn recorded(text: &str, engine: &str, namespace: &Namespace, id: &ContainerId) -> Option<Self> {
        let path = Path::new(text.trim().strip_prefix(SCHEME)?);
        let params = StartOpts { address: engine.to_owned(), ..StartOpts::default() };
        let own = Self::of(&params, namespace, id);
        (path.is_absolute() && path.file_name() == own.0.file_name()).then(|| Self(path.to_owned()))
    }

    /// Binds the socket, or returns none when a server is alive behind it. A dead one's is replaced.
    ///
    /// # Errors
    /// [`Error`] when the directory or the socket cannot be made.
    pub fn claim(&self) -> Result<Option<UnixListener>, Error> {
        let fail = |action, path: &Path| {
            let path = path.to_owned();
            move |source| Error { action, path, source }
        };
        let dir = self.0.parent().unwrap_or_else(|| Path::new("/"));
        fs::create_dir_all(dir).map_err(fail("make directory", dir))?;
        // Two starts of one pod must not both take the socket for dead and bind it.
        let lock = self.0.with_extension("lock");
        let _lock = StartLock::take(&lock).map_err(fail("lock", &lock))?;
        if UnixStream::connect(&self.0).is_ok() {
            return Ok(None);
        }
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(fail("remove the dead socket", &self.0)(error))
            }
            _ => UnixListener::bind(&self.0).map(Some).map_err(fail("bind", &self.0)),
        }
    }

    /// Removes the socket, if it is there.
    pub fn remove(&self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// How long another start of the same pod is waited for; it makes a socket, and is done.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// Between two tries.
const STEP: Duration = Duration::from_millis(10);

/// The right to look at a socket and to replace it. Its file goes when it is dropped, and is root's alone meanwhile: who can
/// open it can lock it, as the directory of the sockets.
#[derive(Debug)]
struct StartLock {
    path: PathBuf,
    _file: File,
}

impl StartLock {
    fn take(path: &Path) -> io::Result<Self> {
        let start = Instant::now();
        loop {
            let mut options = OpenOptions::new();
            let mut file =
                options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
            match file.try_lock() {
                // Whoever had it has removed it meanwhile: a lock on that file protects nothing.
                Ok(()) if file.metadata()?.nlink() == 0 => continue,
                Ok(()) => {
                    file.set_len(0)?;
                    write!(file, "process {}", process::id())?;
                    return Ok(Self { path: path.to_owned(), _file: file });
                }
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => {}
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    let _ = file.take(64).read_to_string(&mut holder);
                    let waited = PATIENCE.as_secs();
                    return Err(io::Error::other(format!("{holder:?} has had it for {waited} s: end it")));
                }
            }
            // Nobody unparks this thread; a sleep that ends early does no harm.
            thread::park_timeout(STEP);
        }
    }
}

impl Drop for StartLock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.0.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> (Namespace, ContainerId) {
        (Namespace::new("default").unwrap(), ContainerId::new("123").unwrap())
    }

    fn params(dir: &Path) -> StartOpts {
        StartOpts { socket_dir: Some(dir.display().to_string()), ..StartOpts::default() }
    }

    #[test]
    fn a_start_waits_for_another_one_no_longer_than_it_may_take() {
        let dir = tempfile::tempdir().unwrap();
        let (namespace, id) = ids();
        let address = Address::of(&params(dir.path()), &namespace, &id);
        // Locks on the directory, which anybody can open, are nobody's business.
        let sockets = address.0.parent().unwrap();
        fs::create_dir_all(sockets).unwrap();
        let opened = File::open(sockets).unwrap();
        opened.lock().unwrap();
        let listener = address.claim().unwrap().expect("free");
        drop(listener);
        let lock = StartLock::take(&address.0.with_extension("lock")).unwrap();
        let error = address.claim().unwrap_err();
        let source = error.source.to_string();
        assert!(source.contains(&format!("process {}", process::id())), "{source}");
        drop(lock);
        drop(address.claim().unwrap().expect("free again"));
        assert!(!address.0.with_extension("lock").exists());
    }

    #[test]
    fn the_address_is_the_one_containerd_computes() {
        let (namespace, id) = ids();
        let params = StartOpts { address: "/run/containerd/containerd.sock".into(), ..StartOpts::default() };
        assert_eq!(
            Address::of(&params, &namespace, &id).to_string(),
            "unix:///run/containerd/s/0ddfbd72d02b3551e75f3a0ed90b9965b533401be618f43a568bc522764e0ad0"
        );
    }

    #[test]
    fn a_live_server_is_left_alone_and_a_dead_ones_socket_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (namespace, id) = ids();
        let address = Address::of(&params(dir.path()), &namespace, &id);
        let listener = address.claim().unwrap().expect("free");
        assert!(address.claim().unwrap().is_none(), "alive");
        drop(listener);
        assert!(address.claim().unwrap().is_some(), "dead");
        address.remove();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_a_sandboxs_own_socket_is_recognised() {
        let dir = tempfile::tempdir().unwrap();
        let (namespace, id) = ids();
        let address = Address::of(&params(dir.path()), &namespace, &id).to_string();
        let other = ContainerId::new("456").unwrap();
        assert!(Address::recorded(&address, "", &namespace, &id).is_some());
        assert!(Address::recorded(&address, "", &namespace, &other).is_none());
        assert!(Address::recorded("unix://relative", "", &namespace, &id).is_none());
        assert!(Address::recorded("", "", &namespace, &id).is_none());
    }
}
