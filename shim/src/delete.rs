//! `delete`: what an engine runs when a container's server is gone, or was never there.
//!
//! It may be run at any moment and any number of times, and always has an answer: a container whose server
//! is gone was killed. What takes longer than an engine waits is finished after the answer (`reap`).

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use containerd_shim::{DeleteResponse, Flags};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use protobuf::Message;

use crate::api::{ContainerId, Namespace};
use crate::bootstrap;
use crate::reap;
use crate::wire::timestamp;

/// 128 + SIGKILL.
const KILLED: u32 = 137;
/// How long what the sandbox left may take before the answer goes without it: containerd's
/// `io.containerd.timeout.shim.cleanup` is 5 s, and the process that releases it goes on.
const PATIENCE: Duration = Duration::from_millis(3500);
/// Most mounts that may lie on top of each other on a root file system.
const MAX_STACKED: usize = 64;

/// A failed cleanup.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A malformed identifier.
    #[error(transparent)]
    Sandbox(#[from] crate::api::Error),
    /// A resource that could not be released.
    #[error(transparent)]
    Release(#[from] reap::Error),
    /// No bundle.
    #[error("cannot find the bundle")]
    Bundle(#[source] io::Error),
    /// A mount that stays.
    #[error("cannot unmount {}", path.display())]
    Unmount {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The answer.
    #[error("cannot encode the answer")]
    Encode(#[source] protobuf::Error),
}

/// Releases everything that `flags.id` left on the host, and returns the answer for standard output.
///
/// # Errors
/// [`Error`] when something could not be released; what could be was.
pub fn delete(flags: &Flags) -> Result<Vec<u8>, Error> {
    let namespace = Namespace::new(flags.namespace.as_str())?;
    let id = ContainerId::new(flags.id.as_str())?;
    let bundle = if flags.bundle.is_empty() {
        std::env::current_dir().map_err(Error::Bundle)?
    } else {
        PathBuf::from(&flags.bundle)
    };
    cleanup(&namespace, &id, &bundle, &flags.address)?;
    DeleteResponse {
        exit_status: KILLED,
        exited_at: timestamp(SystemTime::now()),
        ..DeleteResponse::default()
    }
    .write_to_bytes()
    .map_err(Error::Encode)
}

/// Each step is done whatever became of the others; the first failure is reported.
fn cleanup(namespace: &Namespace, id: &ContainerId, bundle: &Path, engine: &str) -> Result<(), Error> {
    // First what runs, so that nobody is behind the socket or on the mounts any more.
    let released = reap::release(namespace, id, PATIENCE);
    bootstrap::remove_socket(bundle, engine, namespace, id);
    unmount(&bundle.join("rootfs"))?;
    Ok(released?)
}

/// Unmounts everything that is mounted on `path`. Nothing there is success.
fn unmount(path: &Path) -> Result<(), Error> {
    let mut flags = MntFlags::UMOUNT_NOFOLLOW;
    for _ in 0..MAX_STACKED {
        match umount2(path, flags) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR) => break,
            // Someone has a file open on it. It disappears now and is gone with the last of them.
            Err(Errno::EBUSY) if !flags.contains(MntFlags::MNT_DETACH) => flags |= MntFlags::MNT_DETACH,
            Err(source) => return Err(Error::Unmount { path: path.to_owned(), source }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(bundle: &Path) -> Flags {
        Flags {
            namespace: "test-delete".into(),
            id: "web".into(),
            bundle: bundle.display().to_string(),
            ..Flags::default()
        }
    }

    #[test]
    fn a_bundle_that_is_gone_is_deleted_with_success() {
        let dir = tempfile::tempdir().unwrap();
        for bundle in [dir.path().to_owned(), dir.path().join("nowhere")] {
            let answer = delete(&flags(&bundle)).unwrap();
            let answer = DeleteResponse::parse_from_bytes(&answer).unwrap();
            assert_eq!((answer.exit_status, answer.exited_at.seconds > 0), (KILLED, true));
        }
    }

    #[test]
    fn another_sandboxs_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("sock");
        std::fs::write(&socket, "").unwrap();
        std::fs::write(dir.path().join("address"), format!("unix://{}", socket.display())).unwrap();
        delete(&flags(dir.path())).unwrap();
        assert!(socket.exists());
    }

    #[test]
    fn malformed_ids_touch_nothing() {
        let error = delete(&Flags { id: "../etc".into(), ..flags(Path::new("/")) }).unwrap_err();
        assert!(error.to_string().contains("invalid id"), "{error}");
    }
}
