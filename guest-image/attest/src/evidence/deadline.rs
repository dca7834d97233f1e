//! A limit for a call that may hang: a driver's.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// The answer of `call`, unless it takes longer. A call that hangs keeps its thread; nobody can end it.
pub fn within<T: Send + 'static>(limit: Duration, call: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, receiver) = channel();
    thread::Builder::new().spawn(move || sender.send(call())).ok()?;
    receiver.recv_timeout(limit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_hangs_is_left() {
        assert_eq!(within(Duration::from_secs(60), || 7), Some(7));
        assert_eq!(within(Duration::from_millis(10), thread::park), None);
    }
}
