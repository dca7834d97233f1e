//! Giving one device back: reset and wiped, or in quarantine.

use std::time::Duration;

use gpu::quarantine::{self, Entry, Quarantine};
use gpu::registers::{Registers, ResetKind};
use gpu::release::{Released, give_back as clean};
use gpu::sysfs::Function;
use gpu::{Attached, Gpu, PciAddress, Progress, Unverified};
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

/// Opens a device's registers.
pub(super) async fn registers(
    host: &GpuHost,
    function: &Function,
) -> Result<Box<dyn Registers>, DevicesError> {
    #[cfg(feature = "vfio-user")]
    if let Some(socket) = host.socket(function.address) {
        let connected = gpu::registers::VfioUser::connect(&socket, Duration::from_secs(5)).await;
        return match connected {
            Ok(registers) => Ok(Box::new(registers)),
            Err(source) => Err(DevicesError::Emulated { socket, source }),
        };
    }
    Ok(gpu::open::open(function, &host.dev).await?)
}

/// Opens a device and waits until its firmware runs.
pub(super) async fn open(
    host: &GpuHost,
    function: &Function,
    progress: &Progress,
) -> Result<Gpu<Unverified>, DevicesError> {
    Ok(attach(host, function, progress).await?.boot().await?)
}

/// Opens a device, whether or not its firmware runs.
async fn attach(
    host: &GpuHost,
    function: &Function,
    progress: &Progress,
) -> Result<Gpu<Attached>, DevicesError> {
    let registers = registers(host, function).await?;
    let reset = function.reset_kind().unwrap_or(ResetKind::Function);
    Ok(Gpu::attach(function.address, function.id, reset, registers, progress).await?)
}

/// Resets the device, waits until its memory is wiped, and tells what became of it.
pub(super) async fn give_back(
    host: &GpuHost,
    gpu: PciAddress,
    sandbox: &str,
    progress: Progress,
    log: &Logger,
) -> GivenBack {
    let quarantine = Quarantine::new(&host.state);
    let start = Instant::now();
    let opened = loop {
        match reopen(host, gpu, &progress).await {
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
    error!(log, "GPU is in quarantine"; "gpu" => %gpu, "error" => one_line(&failed));
    match quarantine.put(gpu, &Entry::now(&failed, sandbox)) {
        Ok(()) => GivenBack::Quarantined,
        Err(error) => GivenBack::Unrecorded(gpu, error),
    }
}

async fn reopen(host: &GpuHost, gpu: PciAddress, progress: &Progress) -> Result<Gpu<Attached>, DevicesError> {
    let function = host.sysfs().function(gpu)?.ok_or(DevicesError::NotNvidia(gpu))?;
    attach(host, &function, progress).await
}

pub(super) fn ms(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}
