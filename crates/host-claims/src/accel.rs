//! Whether KVM really runs guests here, found out by running one.
//!
//! `/dev/kvm` may exist and be of no use: inside a VM whose host gives no hardware virtualization to it, KVM
//! may interpret the guest instruction by instruction, thousands of times too slowly, and stop at the first
//! instruction that its interpreter does not know. QEMU then hangs. So the probe runs a 64-bit guest that
//! counts to two millions and adds with SSE registers; a sane host is as quick at it as we are ourselves.
//!
//! The guest hands control back a hundred times on its way. A KVM that does not even get that far is
//! interrupted by a signal.

mod guest;
mod memory;

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shared_types::{Cpu, KvmTrial};
use tokio::sync::oneshot;

use crate::sys;

/// CPU time for the hundred exits of the guest, beside its counting. Hardware needs less than a hundredth.
const EXITS: Duration = Duration::from_millis(40);
/// What it may take in all, on a host that has other things to do. A KVM that hangs costs this once; one that works and is
/// taken for one that hangs would be remembered as that.
const WALL_TIME: Duration = Duration::from_secs(10);

/// Why KVM cannot be used.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0:?} cannot be opened: {1}")]
    Open(PathBuf, kvm_ioctls::Error),
    #[error("{0} failed: {1}")]
    Ioctl(&'static str, kvm_ioctls::Error),
    #[error("the test guest stopped with {0}")]
    Exit(String),
    #[error("the test guest computed {0:#x} instead of {1:#x}")]
    Wrong(u64, u64),
    #[error("the test guest needed more than {0:?} of CPU time: KVM interprets it")]
    Slow(Duration),
    #[error("the test guest did not return within {WALL_TIME:?}")]
    Hangs,
    #[error("no thread for the test guest: {0}")]
    Thread(std::io::Error),
}

/// Probes `/dev/kvm`, or recalls from the file `memory` what the last probe found. Never fails: what does not work is
/// a reason not to use it.
pub async fn probe(memory: &Path) -> KvmTrial {
    let device = Path::new("/dev/kvm");
    if let Some(verdict) = memory::recall(memory, device) {
        return verdict;
    }
    let verdict = probe_at(device).await;
    memory::remember(memory, device, &verdict);
    verdict
}

/// Probes `/dev/kvm`, whatever an earlier probe found, and remembers nothing.
pub async fn trial() -> KvmTrial {
    probe_at(Path::new("/dev/kvm")).await
}

/// The host's processor; without flags and names where nothing is said of it.
#[must_use]
pub fn cpu() -> Cpu {
    let mut text = Vec::new();
    // What was read before an error is as good.
    let _ = File::open("/proc/cpuinfo").and_then(|file| file.take(Cpu::BYTES).read_to_end(&mut text));
    Cpu::parse(&String::from_utf8_lossy(&text))
}

async fn probe_at(device: &Path) -> KvmTrial {
    match run(device.to_owned()).await {
        Ok(()) => KvmTrial::Works,
        Err(broken) => KvmTrial::Fails { reason: broken.to_string() },
    }
}

/// The guest runs in a thread of its own, which the wait here interrupts when it takes too long.
async fn run(device: PathBuf) -> Result<(), Broken> {
    let (started, thread) = oneshot::channel();
    let (done, result) = oneshot::channel();
    let work = move || {
        let _ = started.send(sys::ThreadId::own());
        let _ = done.send(guest::run(&device));
    };
    let handle = std::thread::Builder::new().name("kvm-probe".into()).spawn(work).map_err(Broken::Thread)?;
    let outcome = match tokio::time::timeout(WALL_TIME, result).await {
        Ok(outcome) => outcome.unwrap_or(Err(Broken::Hangs)),
        Err(_) => {
            if let Ok(thread) = thread.await {
                // The thread has not been joined, so the id is still its own.
                let _ = thread.interrupt();
            }
            return Err(Broken::Hangs);
        }
    };
    let _ = handle.join();
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_device_that_is_missing_or_something_else_means_tcg() {
        for (path, part) in [("/dev/there-is-no-kvm", "cannot be opened"), ("/dev/null", "failed")] {
            let KvmTrial::Fails { reason } = probe_at(Path::new(path)).await else { panic!("{path}") };
            assert!(reason.contains(part), "{reason}");
        }
    }

    #[tokio::test]
    async fn the_probe_ends_in_time_whatever_is_there() {
        let begin = std::time::Instant::now();
        let accel = probe_at(Path::new("/dev/kvm")).await;
        eprintln!("{accel:?} after {:?}", begin.elapsed());
        assert!(begin.elapsed() < WALL_TIME * 2);
    }
}
