//! Deadlines that look at progress: a phase may take long as long as something moves.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Marks that the VM moved: a line on the guest console, a QMP message. Clones share the mark.
#[derive(Debug, Clone, Default)]
pub struct Activity(Arc<Notify>);

impl Activity {
    /// Something moved.
    pub fn mark(&self) {
        self.0.notify_one();
    }
}

/// How long a phase may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest time without any activity.
    pub stall: Duration,
    /// The longest time in all, activity or not.
    pub total: Duration,
}

/// A phase ran out of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stall {
    /// Nothing moved for too long.
    #[error("nothing moved on the guest console or QEMU's monitor for {} s", .0.as_secs())]
    Silent(Duration),
    /// Things moved, but the phase did not end.
    #[error("not done after {} s, though the guest still showed activity", .0.as_secs())]
    Endless(Duration),
}

/// Runs `work` within `limits`; each mark on `activity` resets the stall timer.
///
/// # Errors
/// The time ran out; `work` is dropped then.
pub async fn within<F: Future>(limits: Limits, activity: &Activity, work: F) -> Result<F::Output, Stall> {
    let end = Instant::now() + limits.total;
    let mut quiet_until = Instant::now() + limits.stall;
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            output = &mut work => return Ok(output),
            () = activity.0.notified() => quiet_until = Instant::now() + limits.stall,
            () = sleep_until(end) => return Err(Stall::Endless(limits.total)),
            () = sleep_until(quiet_until) => return Err(Stall::Silent(limits.stall)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::sleep;

    use super::*;

    const LIMITS: Limits = Limits { stall: Duration::from_secs(10), total: Duration::from_secs(60) };

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_phase() {
        let start = Instant::now();
        let stall = within(LIMITS, &Activity::default(), pending::<()>()).await.unwrap_err();
        assert_eq!(stall, Stall::Silent(LIMITS.stall));
        assert_eq!(start.elapsed(), LIMITS.stall);
    }

    #[tokio::test(start_paused = true)]
    async fn activity_resets_the_stall_timer_but_not_the_total() {
        let activity = Activity::default();
        let marker = activity.clone();
        let ticking = tokio::spawn(async move {
            loop {
                sleep(Duration::from_secs(9)).await;
                marker.mark();
            }
        });
        let start = Instant::now();
        let stall = within(LIMITS, &activity, pending::<()>()).await.unwrap_err();
        ticking.abort();
        assert_eq!(stall, Stall::Endless(LIMITS.total));
        assert_eq!(start.elapsed(), LIMITS.total);
    }

    #[tokio::test(start_paused = true)]
    async fn finished_work_is_returned() {
        let work = async {
            sleep(Duration::from_secs(9)).await;
            7
        };
        assert_eq!(within(LIMITS, &Activity::default(), work).await, Ok(7));
    }
}
