//! What is going on with which GPU, for those who wait.

use std::fmt;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::{Cause, Failure, PciAddress};

/// What is done with a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Getting access and waking it.
    Open,
    /// Waiting for the firewall before BAR0 (Blackwell).
    Firewall,
    /// Waiting for its firmware.
    Boot,
    /// Reading the active mode.
    Query,
    /// Reading persistent settings.
    Inspect,
    /// Writing persistent settings.
    Write,
    /// Reset.
    Reset,
    /// Comparing the active mode with the wanted one.
    Verify,
    /// Waiting for its memory to be scrubbed.
    Scrub,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "opening",
            Self::Firewall => "waiting for the BAR firewall",
            Self::Boot => "waiting for firmware boot",
            Self::Query => "reading the active mode",
            Self::Inspect => "reading settings",
            Self::Write => "writing settings",
            Self::Reset => "reset",
            Self::Verify => "verifying the mode",
            Self::Scrub => "waiting for memory scrubbing",
        })
    }
}

/// One report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Which GPU.
    pub gpu: PciAddress,
    /// What is done with it.
    pub phase: Phase,
    /// Since the phase began: 0 at its beginning, then about every second.
    pub elapsed: Duration,
}

/// Where reports go. Clones report to the same place.
#[derive(Debug, Clone, Default)]
pub struct Progress(Option<mpsc::UnboundedSender<Event>>);

impl Progress {
    /// To nobody.
    #[must_use]
    pub const fn silent() -> Self {
        Self(None)
    }

    /// To the receiver.
    #[must_use]
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (send, receive) = mpsc::unbounded_channel();
        (Self(Some(send)), receive)
    }

    pub(crate) fn begin(&self, gpu: PciAddress, phase: Phase) -> Span {
        let now = Instant::now();
        let span = Span { progress: self.clone(), gpu, phase, start: now, reported: now };
        span.report(Duration::ZERO);
        span
    }
}

const EVERY: Duration = Duration::from_secs(1);

/// A phase that is under way.
#[derive(Debug)]
pub(crate) struct Span {
    progress: Progress,
    gpu: PciAddress,
    phase: Phase,
    start: Instant,
    reported: Instant,
}

impl Span {
    fn report(&self, elapsed: Duration) {
        if let Some(send) = &self.progress.0 {
            // A receiver that has gone does not want to know.
            let _ = send.send(Event { gpu: self.gpu, phase: self.phase, elapsed });
        }
    }

    /// To be called from every poll; reports about every second.
    pub(crate) fn tick(&mut self) {
        let now = Instant::now();
        if now - self.reported >= EVERY {
            self.reported = now;
            self.report(now - self.start);
        }
    }

    /// The failure of this phase.
    pub(crate) fn fail(&self, cause: impl Into<Cause>) -> Failure {
        Failure { gpu: self.gpu, phase: self.phase, elapsed: self.start.elapsed(), cause: cause.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_report_at_the_beginning_and_every_second() {
        let (progress, mut events) = Progress::channel();
        let gpu: PciAddress = "0000:41:00.0".parse().unwrap();
        let mut span = progress.begin(gpu, Phase::Boot);
        for _ in 0..250 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            span.tick();
        }
        drop((span, progress));
        let mut seconds = Vec::new();
        while let Some(event) = events.recv().await {
            assert_eq!((event.gpu, event.phase), (gpu, Phase::Boot));
            seconds.push(event.elapsed.as_secs());
        }
        assert_eq!(seconds, [0, 1, 2]);
    }
}
