//! The socket of a sandbox: where it lies, and who may bind it.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use containerd_shim::StartOpts;
use nix::fcntl::{Flock, FlockArg};

use crate::sandbox::api::{ContainerId, Namespace};

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
        let lock = File::open(dir).map_err(fail("open directory", dir))?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, errno)| fail("lock directory", dir)(errno.into()))?;
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
