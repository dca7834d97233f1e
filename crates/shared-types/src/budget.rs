//! How much of something somebody else causes is let through: a burst, and so much more each second.

use std::mem;
use std::time::Instant;

/// A token bucket that counts what it refused. The clock is its user's.
#[derive(Debug, Clone)]
pub struct Budget {
    most: u64,
    a_second: u64,
    left: u64,
    refilled: Instant,
    dropped: u64,
}

impl Budget {
    /// Full at `now`: `most` at once, and `a_second` more for each second since.
    #[must_use]
    pub fn new(most: u64, a_second: u64, now: Instant) -> Self {
        Self { most, a_second, left: most, refilled: now, dropped: 0 }
    }

    /// `None` where this is too much at `now`; else how often that was so since the last time that it was not.
    pub fn take(&mut self, amount: u64, now: Instant) -> Option<u64> {
        let seconds = now.saturating_duration_since(self.refilled).as_secs();
        if seconds > 0 {
            self.left = self.left.saturating_add(seconds.saturating_mul(self.a_second)).min(self.most);
            self.refilled = now;
        }
        if let Some(left) = self.left.checked_sub(amount) {
            self.left = left;
            return Some(mem::take(&mut self.dropped));
        }
        self.dropped += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_too_much_is_dropped_and_counted() {
        let begin = Instant::now();
        let mut budget = Budget::new(1000, 200, begin);
        assert_eq!(budget.take(1000, begin), Some(0));
        assert_eq!((budget.take(100, begin), budget.take(100, begin)), (None, None));
        let later = begin + Duration::from_secs(1);
        assert_eq!(budget.take(100, later), Some(2));
        assert_eq!((budget.take(100, later), budget.take(1, later)), (Some(0), None));
        // No more than at first, however long nothing was taken.
        assert_eq!(budget.take(1001, begin + Duration::from_secs(1_000_000)), None);
    }
}
