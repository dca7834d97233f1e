//! Every wait of the harness is bounded, and says what it waited for.

use std::fmt::Display;
use std::fs;
use std::future::Future;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// How much longer everything may take where the tests themselves run on an emulated CPU, in the outer VM.
pub(crate) static SLOWER: LazyLock<u32> = LazyLock::new(|| {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if cpus.contains("QEMU TCG CPU") { 4 } else { 1 }
});

/// Polls `probe` until it gives a value; fails the test after `limit`, in the outer VM four times that.
pub async fn until<T>(what: impl Display, limit: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let limit = limit * *SLOWER;
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(Instant::now() < end, "waited {} s for {what}", limit.as_secs());
        sleep(POLL).await;
    }
}

/// Awaits `work`; fails the test after `limit`, in the outer VM four times that.
pub async fn within<T>(what: impl Display, limit: Duration, work: impl Future<Output = T>) -> T {
    let limit = limit * *SLOWER;
    match timeout(limit, work).await {
        Ok(value) => value,
        Err(_) => panic!("{what} was not done within {} s", limit.as_secs()),
    }
}
