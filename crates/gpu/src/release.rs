//! Giving GPUs back after a VM: clean, or in quarantine.

use futures_util::future::join_all;

use crate::quarantine::{self, Entry, Quarantine};
use crate::{Failure, Gpu, PciAddress};

/// What became of a GPU.
#[derive(Debug)]
pub enum Released {
    /// Reset, booted, its memory wiped as far as it tells.
    Clean(PciAddress),
    /// It did not come back; it is in quarantine now.
    Quarantined(Failure),
    /// It did not come back, and the record of it could not be written: its lock must be kept.
    Unrecorded(Failure, quarantine::Error),
}

/// Resets all at once and waits until their memory is wiped. One that fails is put into quarantine, with the
/// failure and the sandbox that had it; the others are not held up. The order is that of the GPUs.
pub async fn give_back<S>(gpus: Vec<Gpu<S>>, quarantine: &Quarantine, sandbox: &str) -> Vec<Released> {
    let cleaned = join_all(gpus.into_iter().map(clean)).await;
    let written = |failure: Failure| match quarantine.put(failure.gpu, &Entry::now(&failure, sandbox)) {
        Ok(()) => Released::Quarantined(failure),
        Err(error) => Released::Unrecorded(failure, error),
    };
    cleaned.into_iter().map(|gpu| gpu.map_or_else(written, Released::Clean)).collect()
}

async fn clean<S>(gpu: Gpu<S>) -> Result<PciAddress, Failure> {
    let mut gpu = gpu.reset().await?;
    gpu.scrubbed().await?;
    Ok(gpu.address())
}
