//! Every wait of the harness is bounded, and says what it waited for.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Polls `probe` until it gives a value; fails the test after `limit`.
pub async fn until<T>(what: impl Display, limit: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(Instant::now() < end, "waited {} s for {what}", limit.as_secs());
        sleep(POLL).await;
    }
}

/// Awaits `work`; fails the test after `limit`.
pub async fn within<T>(what: impl Display, limit: Duration, work: impl Future<Output = T>) -> T {
    match timeout(limit, work).await {
        Ok(value) => value,
        Err(_) => panic!("{what} was not done within {} s", limit.as_secs()),
    }
}
