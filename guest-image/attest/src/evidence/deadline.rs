//! A limit for calls that may hang: a driver's.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// One call at a time. One that hangs keeps its thread, which nobody can end; so it is the last one.
#[derive(Debug, Default)]
pub struct Deadline {
    turn: Mutex<()>,
    hangs: Arc<AtomicBool>,
}

/// Says that a call came back, however it did.
struct Back(Arc<AtomicBool>);

impl Drop for Back {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Deadline {
    /// The answer of `call`, unless it takes longer, or an earlier one still does.
    pub fn within<T: Send + 'static>(
        &self,
        limit: Duration,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if self.hangs.swap(true, Ordering::AcqRel) {
            return None;
        }
        let back = Back(self.hangs.clone());
        let (sender, receiver) = channel();
        let asked = thread::Builder::new().spawn(move || {
            let answer = call();
            drop(back);
            sender.send(answer)
        });
        asked.ok()?;
        receiver.recv_timeout(limit).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_hangs_is_left_and_is_the_last_one() {
        let deadline = Deadline::default();
        for answer in [7, 8] {
            assert_eq!(deadline.within(Duration::from_secs(60), move || answer), Some(answer));
        }
        let (end, ended) = channel::<()>();
        assert_eq!(deadline.within(Duration::from_millis(10), move || ended.recv().is_ok()), None);
        assert_eq!(deadline.within(Duration::from_secs(60), || 9), None);
        drop(end);
    }

    #[test]
    fn a_call_that_panics_is_not_the_last_one() {
        let deadline = Deadline::default();
        assert_eq!(deadline.within(Duration::from_secs(60), || panic!("a driver")), None::<()>);
        assert_eq!(deadline.within(Duration::from_secs(60), || 7), Some(7));
    }
}
