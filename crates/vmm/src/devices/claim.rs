//! Taking devices from the host for a VM.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use futures_util::future::join_all;
use gpu::claim::{Claim, Quarantined};
use gpu::fabric::Fabric;
use gpu::owner::{Ownership, ownership};
use gpu::progress::Event;
use gpu::sysfs::Function;
use gpu::{Assignable, Chip, Failure, Gpu, Kind, Mode, PciAddress, Phase, Progress, Unverified, set};
use shared_types::one_line;
use slog::{Logger, error, info, warn};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;
use vmm_config::config::NodeConfig;
use vmm_config::passthrough::HostDevices;

use super::release::{GivenBack, give_back, ms};
use super::{DevicesError, DevicesRecord, DevicesRequest, GpuHost, facts, host, mode};

/// Devices that were found able to be claimed.
#[derive(Debug)]
pub(crate) struct DevicesPlan {
    record: DevicesRecord,
    functions: Vec<Function>,
}

impl DevicesPlan {
    /// Looks the devices up. Changes nothing.
    pub(crate) fn new(request: &DevicesRequest, sandbox: &str) -> Result<Self, DevicesError> {
        let DevicesRequest { addresses, host } = request;
        let sysfs = host.sysfs();
        let mut functions = Vec::new();
        for gpu in addresses {
            let function = sysfs.function(*gpu)?.ok_or(DevicesError::NotNvidia(*gpu))?;
            check_driver(&function, host)?;
            functions.push(function);
        }
        let record = DevicesRecord {
            sandbox: sandbox.to_owned(),
            host: host.clone(),
            devices: addresses.clone(),
            power: Vec::new(),
        };
        Ok(Self { record, functions })
    }

    /// What to write down before [`Self::lock`].
    pub(crate) fn record(&self) -> DevicesRecord {
        self.record.clone()
    }

    /// Locks all, or none; what to write down before [`Devices::verify`], which changes settings, comes with them.
    pub(crate) async fn lock(self, log: &Logger) -> Result<(Devices, DevicesRecord), DevicesError> {
        let Self { record, functions } = self;
        let DevicesRecord { sandbox, host, .. } = record.clone();
        let mut claim = Claim::lock(&host.state, functions, &sandbox, Quarantined::Refuse).await?;
        let record = DevicesRecord { power: claim.plan()?, ..record };
        Ok((Devices { claim, unclean: Vec::new(), sandbox, host, log: log.clone() }, record))
    }
}

/// QEMU takes devices from VFIO only.
fn check_driver(function: &Function, host: &GpuHost) -> Result<(), DevicesError> {
    #[cfg(feature = "vfio-user")]
    if host.emulated.is_some() {
        return Ok(());
    }
    let _ = host;
    let state = match function.driver.as_deref() {
        Some(driver) if gpu::open::is_vfio(driver) => return Ok(()),
        Some(driver) => format!("bound to driver {driver:?}"),
        None => "without a driver".to_owned(),
    };
    Err(DevicesError::NotVfio { gpu: function.address, state })
}

/// Devices that are this sandbox's.
#[derive(Debug)]
pub(crate) struct Devices {
    claim: Claim,
    /// Those that must be reset before anybody else may have them.
    unclean: Vec<PciAddress>,
    sandbox: String,
    host: GpuHost,
    log: Logger,
}

impl Devices {
    /// Brings all into the mode that the node's configuration asks for, clean and verified, and closes them.
    pub(crate) async fn verify(&mut self, config: &NodeConfig) -> Result<HostDevices, DevicesError> {
        let start = Instant::now();
        self.claim.wake().await?;
        let (progress, events) = Progress::channel();
        tokio::spawn(tell(events, self.log.clone()));
        let verified = self.prepare(config, &progress).await;
        let assignables = match verified {
            Ok(assignables) => assignables,
            Err(error) => {
                self.unclean = self.quarantine_the_lost(&error);
                return Err(error);
            }
        };
        let mode = set::one_vm(&assignables)?;
        let devices = self.claim.functions().iter().zip(&assignables);
        let devices = devices.map(|(function, assignable)| facts::verified(function, assignable, &self.host));
        let devices = devices.collect::<Result<Vec<_>, _>>()?;
        info!(self.log, "GPUs are verified"; "gpus" => devices.len(), "mode" => %mode, "ms" => ms(start));
        Ok(HostDevices {
            devices,
            address_width: host::address_width(),
            nodes: host::nodes(&self.host.sysfs),
        })
    }

    async fn prepare(
        &self,
        config: &NodeConfig,
        progress: &Progress,
    ) -> Result<Vec<Assignable>, DevicesError> {
        let mode = mode::wanted(config, self.claim.functions());
        // A set that no VM can have is refused before anything is done to it.
        let chip = |function: &Function| (function.address, function.chip.unwrap_or(Chip::Other));
        set::possible(&self.claim.functions().iter().map(chip).collect::<Vec<_>>(), mode)?;
        // A whole board in protected PCIe has its switches, which join all.
        if mode != Mode::Ppcie {
            self.one_partition()?;
        }
        let gpus = self.booted(config, progress).await?;
        let verified = mode::prepare(gpus, mode, config, &self.host, &self.log).await?;
        Ok(verified.into_iter().map(Gpu::close).collect())
    }

    /// Opens all and waits for their firmware. If one hangs, all are opened again and reset once, where the mode is ours to set:
    /// elsewhere none is reset before its settings are read, and firmware that hangs does not tell them.
    async fn booted(
        &self,
        config: &NodeConfig,
        progress: &Progress,
    ) -> Result<Vec<Gpu<Unverified>>, DevicesError> {
        let ours = ownership(config.cc_mode, &self.host.cc_manager) == Ownership::Manage;
        // All, even if one fails: each is either closed or known to be lost when this ends.
        let hung = match set::boot(self.claim.open(progress, &self.host).await?).await {
            Err(hung) if ours && hung.may_end_by_reset() => hung,
            booted => return Ok(booted?),
        };
        warn!(self.log, "GPUs do not boot and are reset"; "error" => one_line(&hung));
        match self.claim.open(progress, &self.host).await {
            Ok(gpus) => Ok(set::reset(gpus).await?),
            Err(error) => {
                warn!(self.log, "GPUs cannot be opened again for that reset"; "error" => one_line(&error));
                // What hangs goes into quarantine for that, whichever of the set could not be opened.
                Err(hung.into())
            }
        }
    }

    /// Whether the fabric manager can join the GPUs, where something is known of their board. Making the partition is its job.
    fn one_partition(&self) -> Result<(), DevicesError> {
        let Some(fabric) = Fabric::read(&self.host.state)? else { return Ok(()) };
        let gpus = self.claim.functions().iter().filter(|function| function.kind == Kind::Gpu);
        let gpus: Vec<_> = gpus.map(|function| function.address).collect();
        if let Some(partition) = fabric.partition(&gpus)? {
            info!(self.log, "GPUs are a partition of their board"; "partition" => partition.id, "modules" => partition.sum());
        }
        Ok(())
    }

    /// GPUs that do not come back from a reset are not for the next pod either. Returns those that have to show whether they
    /// do: something that is no refusal went wrong with one of the set, or settings were written.
    fn quarantine_the_lost(&self, error: &DevicesError) -> Vec<PciAddress> {
        let (failures, pending): (&[Failure], &[PciAddress]) = match error {
            DevicesError::Gpu(failure) => (std::slice::from_ref(failure), &[]),
            DevicesError::Set(set::Error::Devices { failures, pending }) => (failures, pending),
            _ => return Vec::new(),
        };
        let lost = self.claim.lost(failures, pending);
        for (gpu, entry) in &lost.quarantined {
            error!(self.log, "GPU is in quarantine"; "gpu" => %gpu, "error" => &entry.reason);
        }
        for error in &lost.unrecorded {
            error!(self.log, "quarantine is not recorded"; "error" => one_line(error));
        }
        lost.unclean
    }

    /// From now on they must be reset before anybody else may have them.
    pub(crate) fn hand_over(&mut self) {
        self.unclean = self.claim.functions().iter().map(|function| function.address).collect();
    }

    /// `/dev/iommu`, for QEMU.
    pub(crate) fn iommu(&self) -> Result<OwnedFd, DevicesError> {
        node(self.host.iommu())
    }

    /// The node of a device, for QEMU.
    pub(crate) fn node(&self, address: PciAddress) -> Result<Option<OwnedFd>, DevicesError> {
        let function = self.claim.functions().iter().find(|function| function.address == address);
        function.and_then(|function| function.vfio_device_node(&self.host.dev)).map(node).transpose()
    }

    /// Gives all back at once: clean, or in quarantine. One that is neither stays locked for as long as this process
    /// lives, and is told of.
    pub(crate) async fn release(self) -> Vec<String> {
        let Self { claim, unclean, sandbox, host, log } = self;
        let mut failures = Vec::new();
        if !unclean.is_empty() {
            let (progress, events) = Progress::channel();
            tokio::spawn(tell(events, log.clone()));
            let locks = claim.locks().iter().filter(|lock| unclean.contains(&lock.gpu()));
            let back = locks.map(|lock| give_back(&host, lock, &sandbox, progress.clone(), &log));
            for given in join_all(back).await {
                let GivenBack::Unrecorded(gpu, source) = given else { continue };
                failures.push(one_line(&DevicesError::Unrecorded { gpu, source }));
                claim.keep_locked(gpu);
            }
        }
        failures.extend(claim.release().iter().map(|error| one_line(error)));
        failures
    }
}

fn node(path: PathBuf) -> Result<OwnedFd, DevicesError> {
    let opened: Result<File, _> = OpenOptions::new().read(true).write(true).open(&path);
    opened.map(OwnedFd::from).map_err(|source| DevicesError::Node { path, source })
}

/// Logs what is done with each GPU: what changes it, and whatever takes long.
async fn tell(mut events: UnboundedReceiver<Event>, log: Logger) {
    while let Some(Event { gpu, phase, elapsed }) = events.recv().await {
        let changes = matches!(phase, Phase::Write | Phase::Reset);
        if changes || !elapsed.is_zero() {
            let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
            info!(log, "GPU: {phase}"; "gpu" => %gpu, "ms" => ms);
        }
    }
}
