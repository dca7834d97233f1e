//! What pods' shims do and did: `coffer pods`, `coffer timeline`, `coffer logs`, `coffer debug`, `coffer metrics`.

mod counters;
mod debug;
mod feed;
mod line;
mod metrics;
#[cfg(feature = "otlp")]
mod otlp;
mod pods;
mod redact;
mod svg;
mod timeline;

use std::io::Write;

use anyhow::{Result, ensure};

pub(crate) use debug::{Args as DebugArgs, run as debug};
pub(crate) use line::Which;
pub(crate) use metrics::{Args as MetricsArgs, run as metrics};
pub(crate) use pods::{Args as PodsArgs, run as pods};
pub(crate) use timeline::{Args as TimelineArgs, run as timeline};

/// Prints a pod's lines: its shim's, and its guest's console (`source=console`).
///
/// # Errors
/// There is no log, or nothing of this pod in it.
pub(crate) fn logs(which: &Which, out: &mut impl Write) -> Result<()> {
    let lines = which.lines()?;
    ensure!(
        !lines.is_empty(),
        "the log has nothing of a sandbox {}: take an id that `coffer pods` prints",
        which.pod()
    );
    for line in lines {
        writeln!(out, "{}", line.shown())?;
    }
    Ok(())
}
