//! A container's termination message, written to where kubelet and CRI-O read it.
//!
//! The message is the guest's word, and the file's path goes through directories of a pod. So the file has to be there
//! already, a regular one, reached without any link below the pod's own directory of kubelet; and it takes only so much.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

/// Bytes that are written at most: what kubelet keeps of a whole pod's messages
/// (`MaxPodTerminationMessageLogLength` in its `pkg/kubelet/container/runtime.go`).
pub const MOST: usize = 12 << 10;

/// A message that was not written.
#[derive(Debug, thiserror::Error)]
#[error(
    "Cannot write the termination message to {path:?}: it must be a regular file, with no link on its way"
)]
pub struct Error {
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Writes the beginning of `message` into the file at `path`, which must be there. What it held before is gone.
///
/// # Errors
/// [`Error`]; nothing was written then.
pub fn write(path: &Path, message: &[u8]) -> Result<(), Error> {
    let fail = |source| Error { path: path.to_owned(), source };
    let mut file = open(path).map_err(fail)?;
    let message = &message[..message.len().min(MOST)];
    file.set_len(0).and_then(|()| file.write_all(message)).map_err(fail)
}

/// Links above the pod's directory are the node's own affair: kubelet's root may be one.
fn open(path: &Path) -> io::Result<File> {
    // `<pod>/containers/<name>/<id>`, or a file that root of this host has named.
    let mut names = path.iter().rev().skip(2);
    let above = if names.next().is_some_and(|name| name == "containers") { 3 } else { 1 };
    let trusted = path.ancestors().nth(above).unwrap_or_else(|| Path::new("/"));
    let below = path.strip_prefix(trusted).map_err(io::Error::other)?;
    let directory = File::open(trusted)?;
    // A pipe must not block, and a terminal not become ours.
    let how = OpenHow::new()
        .flags(OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
        .mode(Mode::empty())
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let file = File::from(openat2(directory.as_fd(), below, how)?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_message_is_cut_and_replaces_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("pods/8c5d/containers/app");
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("1a2b");
        fs::write(&path, "a longer text than the next").unwrap();
        write(&path, b"bye").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"bye");
        write(&path, &vec![b'x'; 1 << 20]).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), MOST as u64);
        // kubelet's root may be a link.
        symlink(dir.path().join("pods"), dir.path().join("linked")).unwrap();
        write(&dir.path().join("linked/8c5d/containers/app/1a2b"), b"by a link of the node").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"by a link of the node");
    }

    #[test]
    fn what_is_no_regular_file_of_the_pods_directory_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        fs::write(&secret, "of the host").unwrap();
        let pod = dir.path().join("pods/8c5d");
        fs::create_dir_all(pod.join("containers/app")).unwrap();
        symlink(&secret, pod.join("containers/app/linked")).unwrap();
        symlink(dir.path(), pod.join("containers/other")).unwrap();
        fs::create_dir(pod.join("containers/app/directory")).unwrap();
        nix::unistd::mkfifo(&pod.join("containers/app/pipe"), Mode::S_IRWXU).unwrap();
        for name in ["app/linked", "other/secret", "app/directory", "app/pipe", "app/missing"] {
            let error = write(&pod.join("containers").join(name), b"x").unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
        symlink(&secret, dir.path().join("last")).unwrap();
        write(&dir.path().join("last"), b"x").unwrap_err();
        assert_eq!(fs::read(&secret).unwrap(), b"of the host");
        assert!(!pod.join("containers/app/missing").exists());
    }
}
