//! Where output goes: a fifo, a file, or nowhere.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;

/// A stream of the engine's that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be opened.
    #[error("cannot open {}", .path.display())]
    Open {
        /// The fifo or file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A program that takes output cannot be started.
    #[error("cannot start the logging program {}", .path.display())]
    Logger {
        /// The program.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The engine asks for what Coffer has not.
    #[error("output to {scheme}:// is not supported; use a fifo, file://, binary:// or binary-v2://")]
    Scheme {
        /// The URI's scheme.
        scheme: String,
    },
}

/// Opens a log file; `None` for the one that keeps nothing. No other kind is opened: a fifo waits for its reader, and with it
/// everything that the shim does.
fn log_file(path: &str) -> io::Result<Option<File>> {
    if Path::new(path) == Path::new("/dev/null") {
        return Ok(None);
    }
    let options = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = File::options().create(true).append(true).custom_flags(options.bits()).open(path);
    let is_file = |file: &File| file.metadata().map(|metadata| metadata.is_file());
    match file {
        Ok(file) if is_file(&file)? => Ok(Some(file)),
        Err(error) if error.raw_os_error() != Some(Errno::ENXIO as i32) => Err(error),
        Ok(_) | Err(_) => Err(io::Error::other("it is no regular file; a fifo is fifo://")),
    }
}

/// An engine's end of an output stream.
#[derive(Debug)]
pub enum Sink {
    /// Nobody wants it; it is read all the same, so that the process is not held up.
    Nowhere,
    /// The engine's fifo.
    Fifo(pipe::Sender),
    /// A log file, appended to.
    File(File),
}

impl Sink {
    /// Opens a path or URI; empty is nowhere.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(uri: &str) -> Result<Self, OpenError> {
        let failed = |path: &str| {
            let path = PathBuf::from(path);
            move |source| OpenError::Open { path, source }
        };
        match uri.split_once("://") {
            None if uri.is_empty() => Ok(Self::Nowhere),
            // Read and write: an engine that restarts is no broken pipe.
            None => {
                let opened = pipe::OpenOptions::new().read_write(true).open_sender(uri);
                opened.map(Self::Fifo).map_err(failed(uri))
            }
            Some(("fifo", path)) => Self::open(path),
            Some(("file", path)) => {
                log_file(path).map(|file| file.map_or(Self::Nowhere, Self::File)).map_err(failed(path))
            }
            Some((scheme, _)) => Err(OpenError::Scheme { scheme: scheme.chars().take(16).collect() }),
        }
    }

    /// Writes all of `chunk`; waits while a fifo is full.
    ///
    /// # Errors
    /// The fifo or file refuses.
    pub async fn write_all(&mut self, chunk: &[u8]) -> io::Result<()> {
        match self {
            Self::Nowhere => Ok(()),
            Self::Fifo(fifo) => fifo.write_all(chunk).await,
            Self::File(file) => file.write_all(chunk),
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    /// A fifo without a reader would be waited for, on the one thread.
    #[tokio::test]
    async fn a_log_file_is_a_regular_one() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| format!("file://{}", dir.path().join(name).display());
        let mut sink = Sink::open(&at("log")).unwrap();
        sink.write_all(b"one").await.unwrap();
        Sink::open(&at("log")).unwrap().write_all(b" two").await.unwrap();
        assert_eq!(std::fs::read(dir.path().join("log")).unwrap(), b"one two");
        mkfifo(&dir.path().join("fifo"), Mode::S_IRWXU).unwrap();
        let error = Sink::open(&at("fifo")).unwrap_err();
        let text = crate::api::one_line(&error);
        assert!(text.contains("/fifo: it is no regular file; a fifo is fifo://"), "{text}");
        // With a reader it can be opened, and is none still.
        let reader = pipe::OpenOptions::new().open_receiver(dir.path().join("fifo")).unwrap();
        assert!(Sink::open(&at("fifo")).is_err());
        drop(reader);
        assert!(Sink::open("file:///dev/zero").is_err());
        assert!(matches!(Sink::open("file:///dev/null"), Ok(Sink::Nowhere)));
    }
}
