//! Asynchronous clients for threads that read: one runtime, and streams as readers.

use std::future::Future;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

use crate::error::Error;

/// Chunks that may wait: with those of registries some hundred kilobytes, with containerd's a few megabytes.
const AHEAD: usize = 8;

/// A runtime with a thread of its own.
#[derive(Debug, Clone)]
pub(crate) struct Background(Arc<Runtime>);

impl Background {
    pub(crate) fn new() -> Result<Self, Error> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Ok(Self(Arc::new(runtime.map_err(Error::file("start a thread for", "downloads"))?)))
    }

    /// Waits for an answer, but not for ever; `None` when it did not come in time.
    pub(crate) fn wait<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        self.0.block_on(async { tokio::time::timeout(limit, work).await.ok() })
    }

    /// Runs a download, which gives its chunks to the reader that is returned. It ends when nobody reads any more.
    pub(crate) fn reader<F>(&self, download: impl FnOnce(Sender) -> F) -> Box<dyn Read + Send>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(AHEAD);
        self.0.spawn(download(Sender(sender)));
        Box::new(Reader { receiver, chunk: Bytes::new(), _runtime: self.clone() })
    }
}

/// Where a download gives its chunks.
pub(crate) struct Sender(mpsc::Sender<Result<Bytes, Error>>);

impl Sender {
    /// `false` when nobody wants any more.
    pub(crate) async fn send(&self, chunk: Result<Bytes, Error>) -> bool {
        self.0.send(chunk).await.is_ok()
    }
}

struct Reader {
    receiver: mpsc::Receiver<Result<Bytes, Error>>,
    chunk: Bytes,
    _runtime: Background,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = chunk.map_err(io::Error::other)?,
                None => return Ok(0),
            }
        }
        let length = self.chunk.len().min(buffer.len());
        self.chunk.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}
