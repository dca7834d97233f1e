//! What a line on the guest's console costs the shim: its own reader, given lines as kata-agent writes them.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use e2e::OrFail;
use nix::time::{ClockId, clock_gettime};
use slog::{Discard, Drain, Level, LevelFilter, Logger, o};
use vmm::lines::follow;
use vmm::progress::Activity;

use crate::report::Report;

const LINES: u32 = 5_000;
const LIMIT: Duration = Duration::from_secs(60);

/// Measures, and reports.
pub async fn measure(report: &mut Report) {
    let line = format!("{{\"msg\":\"{}\",\"level\":\"INFO\",\"ts\":\"2026\"}}\n", "x".repeat(150));
    let (ours, mut guest) = io::pipe().or_fail("a pipe");
    // An engine logs at info, and these lines are for debugging: they are read, told apart and kept for errors.
    let log = Logger::root(LevelFilter::new(Discard, Level::Info).ignore_res(), o!());
    let before = cpu();
    let tail = follow(ours.into(), "console", log, Activity::default());
    let writer = thread::spawn(move || (0..LINES).try_for_each(|_| guest.write_all(line.as_bytes())));
    tail.ended(LIMIT).await;
    let took = cpu().saturating_sub(before);
    writer.join().unwrap_or_else(|_| Err(io::Error::other("a panic"))).or_fail("the writer");
    assert!(tail.has("xxx"), "lines were read");
    let each = took.as_secs_f64() * 1e6 / f64::from(LINES);
    report.bounded("shim CPU time for a line of the agent's on the console", each, "us", 10.0);
}

/// Of this thread, in which the reader runs as well.
fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).or_fail("the thread's clock").into()
}
