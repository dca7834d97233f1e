//! Where output goes: a fifo, a file, or nowhere.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

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
    #[error("output to {scheme}:// is not supported; use a fifo, file:// or binary://")]
    Scheme {
        /// The URI's scheme.
        scheme: String,
    },
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
                let opened = File::options().create(true).append(true).open(path);
                opened.map(Self::File).map_err(failed(path))
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
