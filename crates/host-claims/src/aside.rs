//! Work that may wait for a disk or for somebody's server, beside the one thread that everything else needs.

use std::io;

use tokio::sync::oneshot;

/// Has `work` done by a thread of its own, which is called `name`, and waits for it. Whoever stops waiting leaves it behind:
/// it ends when what it waits for does.
///
/// # Errors
/// The thread cannot be started, or panicked.
pub async fn aside<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    let work = move || {
        let _ = done.send(work());
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
    result.await.map_err(|_| io::ErrorKind::BrokenPipe.into())
}
