//! Giving one device back: reset and wiped, or in quarantine.

use std::sync::Arc;
use std::time::Duration;

use gpu::claim::{Way, attach};
use gpu::lock::GpuLock;
use gpu::quarantine::{self, Entry, Quarantine};
use gpu::registers::Registers;
use gpu::release::{Released, give_back as clean};
use gpu::sysfs::Function;
use gpu::{Attached, Gpu, PciAddress, Progress};
use shared_types::one_line;
use slog::{Logger, error, info};
use tokio::time::{Instant, sleep};

use super::{DevicesError, GpuHost};

/// How long QEMU's last hold on a device may take to go: the kernel closes a dead process's files after its memory, which
/// for a large VM is long.
const LET_GO: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 30 });
/// Between two tries to open it.
const PAUSE: Duration = Duration::from_millis(100);

/// What became of it.
#[derive(Debug)]
pub(super) enum GivenBack {
    /// It is clean.
    Clean,
    /// It is in quarantine.
    Quarantined,
    /// It is neither; its lock must be kept.
    Unrecorded(PciAddress, quarantine::Error),
}

impl Way for GpuHost {
    type Error = DevicesError;

    async fn registers(&self, function: &Function) -> Result<Box<dyn Registers>, DevicesError> {
        #[cfg(feature = "vfio-user")]
        if let Some(socket) = self.socket(function.address) {
            let connected = gpu::registers::VfioUser::connect(&socket, Duration::from_secs(5)).await;
            return match connected {
                Ok(registers) => Ok(Box::new(registers)),
                Err(source) => Err(DevicesError::Emulated { socket, source }),
            };
        }
        Ok(gpu::open::open(function, &self.dev).await?)
    }
}

/// Resets the device, waits until its memory is wiped, and tells what became of it.
pub(super) async fn give_back(
    host: &GpuHost,
    lock: &Arc<GpuLock>,
    sandbox: &str,
    progress: Progress,
    log: &Logger,
) -> GivenBack {
    let gpu = lock.gpu();
    let quarantine = Quarantine::new(&host.state);
    let start = Instant::now();
    let opened = loop {
        match reopen(host, lock, &progress).await {
            // The first says nothing of the device, only that somebody is not done with it.
            Err(DevicesError::Open(_) | DevicesError::Emulated { .. }) if start.elapsed() < LET_GO => {
                sleep(PAUSE).await;
            }
            opened => break opened,
        }
    };
    let failed = match opened {
        Ok(open) => match clean(vec![open], &quarantine, sandbox).await.pop() {
            Some(Released::Clean(_)) | None => {
                info!(log, "GPU is free"; "gpu" => %gpu, "ms" => ms(start));
                return GivenBack::Clean;
            }
            Some(Released::Quarantined(failure)) => {
                error!(log, "GPU is in quarantine"; "gpu" => %gpu, "error" => one_line(&failure));
                return GivenBack::Quarantined;
            }
            Some(Released::Unrecorded(failure, error)) => {
                error!(log, "GPU did not come back"; "gpu" => %gpu, "error" => one_line(&failure));
                return GivenBack::Unrecorded(gpu, error);
            }
        },
        Err(failed) => failed,
    };
    match quarantine.put(gpu, &Entry::now(&failed, sandbox)) {
        Ok(()) => {
            error!(log, "GPU is in quarantine"; "gpu" => %gpu, "error" => one_line(&failed));
            GivenBack::Quarantined
        }
        Err(error) => {
            error!(log, "GPU did not come back"; "gpu" => %gpu, "error" => one_line(&failed));
            GivenBack::Unrecorded(gpu, error)
        }
    }
}

async fn reopen(
    host: &GpuHost,
    lock: &Arc<GpuLock>,
    progress: &Progress,
) -> Result<Gpu<Attached>, DevicesError> {
    let gpu = lock.gpu();
    let function = host.sysfs().function(gpu)?.ok_or(DevicesError::NotNvidia(gpu))?;
    Ok(attach(lock, &function, host.registers(&function).await?, progress).await?)
}

pub(super) fn ms(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}
