//! Polling: a register says when, never an interrupt.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How often to look and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    pub(crate) step: Duration,
    pub(crate) limit: Duration,
}

impl Pace {
    pub(crate) const fn millis(step: u64, limit: u64) -> Self {
        Self { step: Duration::from_millis(step), limit: Duration::from_millis(limit) }
    }
}

/// Looks until there is something, at least twice. `None` when the time ran out.
pub(crate) async fn poll<T, E>(
    pace: Pace,
    mut look: impl FnMut() -> Result<Option<T>, E>,
) -> Result<Option<T>, E> {
    let end = Instant::now() + pace.limit;
    loop {
        // Taken before the look: what happens during the last sleep is still seen.
        let last = Instant::now() >= end;
        if let Some(found) = look()? {
            return Ok(Some(found));
        }
        if last {
            return Ok(None);
        }
        sleep(pace.step).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_runs_out_and_errors_end_it_at_once() {
        let start = Instant::now();
        let mut looks = 0;
        let found = poll(Pace::millis(10, 100), || {
            looks += 1;
            Ok::<_, ()>(None::<()>)
        });
        assert_eq!(found.await, Ok(None));
        assert_eq!((looks, start.elapsed()), (11, Duration::from_millis(100)));
        assert_eq!(poll(Pace::millis(10, 100), || Err::<Option<()>, _>("no")).await, Err("no"));
        assert_eq!(start.elapsed(), Duration::from_millis(100));
    }
}
