//! A call that blocks, on a thread of its own.

use std::io;

use tokio::sync::oneshot;

/// Runs `work` on a thread made for it. A caller that stops waiting does not stop the work.
///
/// # Errors
/// No thread could be made, or the work panicked.
pub(crate) async fn off_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (send, receive) = oneshot::channel();
    // Nobody may be waiting any more: the result is dropped then.
    std::thread::Builder::new().name(name.to_owned()).spawn(move || drop(send.send(work())))?;
    receive.await.map_err(|_| io::Error::other("the thread panicked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error() {
        assert_eq!(off_thread("test", || 7).await.unwrap(), 7);
        assert!(off_thread("test", || panic!("as planned")).await.is_err());
    }
}
