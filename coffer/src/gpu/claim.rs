//! A GPU in the operator's hands: locked, awake, open.

use std::path::Path;
#[cfg(feature = "vfio-user")]
use std::time::Duration;

use anyhow::{Context, Result, bail};
use gpu::lock::GpuLock;
use gpu::power::{Awake, PowerPlan};
use gpu::quarantine::Quarantine;
use gpu::registers::{Registers, ResetKind};
use gpu::sysfs::Function;
use gpu::{Attached, Gpu, Progress, open};

use super::Host;

/// What must outlive the open GPUs.
pub(super) struct Held {
    _locks: Vec<GpuLock>,
    _awake: Vec<Awake>,
}

/// Whether quarantined GPUs may be touched.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Quarantined {
    Refuse,
    Allow,
}

pub(super) async fn locks(host: &Host, functions: &[Function]) -> Result<Vec<GpuLock>> {
    let name = format!("coffer gpu (pid {})", std::process::id());
    let mut locks = Vec::new();
    for function in functions {
        locks.push(GpuLock::take(&host.state(), function.address, &name).await?);
    }
    Ok(locks)
}

/// Locks all, then opens all, whether or not their firmware runs.
pub(super) async fn claim(
    host: &Host,
    functions: &[Function],
    quarantined: Quarantined,
    progress: &Progress,
) -> Result<(Held, Vec<Gpu<Attached>>)> {
    let locks = locks(host, functions).await?;
    let quarantine = Quarantine::new(&host.state());
    if quarantined == Quarantined::Refuse {
        for function in functions {
            if let Some(entry) = quarantine.of(function.address)? {
                let gpu = function.address;
                bail!(
                    "GPU {gpu} is in quarantine: {}; look into it, then `coffer gpu release {gpu}`",
                    entry.reason
                );
            }
        }
    }
    let mut awake = Vec::new();
    for function in functions {
        awake.push(PowerPlan::new(function.address, &function.path)?.claim().await?);
    }
    let mut gpus = Vec::new();
    for function in functions {
        gpus.push(attach(host, function, progress).await?);
    }
    Ok((Held { _locks: locks, _awake: awake }, gpus))
}

/// Opens one GPU, which the caller has locked.
pub(super) async fn attach(host: &Host, function: &Function, progress: &Progress) -> Result<Gpu<Attached>> {
    if let Some(driver) = function.driver.as_deref().filter(|driver| !open::is_vfio(driver)) {
        // Also for one that is played: the rule is the same.
        return Err(open::Error::Driver { gpu: function.address, driver: driver.to_owned() }.into());
    }
    let registers: Box<dyn Registers> = match host.socket(function.address) {
        Some(socket) => played(&socket).await?,
        None => open::open(function, &host.root.join("dev")).await?,
    };
    let reset = function.reset_kind().unwrap_or(ResetKind::Function);
    let opened = Gpu::attach(function.address, function.id, reset, registers, progress).await;
    opened.with_context(|| format!("GPU {} is not usable", function.address))
}

#[cfg(feature = "vfio-user")]
async fn played(socket: &Path) -> Result<Box<dyn Registers>> {
    let limit = Duration::from_secs(5);
    let connected = gpu::registers::VfioUser::connect(socket, limit).await;
    Ok(Box::new(connected.with_context(|| format!("cannot reach the emulated GPU at {}", socket.display()))?))
}

#[cfg(not(feature = "vfio-user"))]
async fn played(socket: &Path) -> Result<Box<dyn Registers>> {
    bail!("{} is only for rigs", socket.display())
}
