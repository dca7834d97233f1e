//! What must be given back without the shim that took it.

use std::sync::Arc;

use futures_util::future::join_all;
use gpu::lock::{self, GpuLock};
use gpu::power::PowerRecord;
use gpu::{PciAddress, Progress};
use serde::{Deserialize, Serialize};
use slog::Logger;

use super::release::{GivenBack, give_back};
use super::{DevicesError, GpuHost};

/// The devices of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicesRecord {
    pub(super) sandbox: String,
    pub(super) host: GpuHost,
    pub(super) devices: Vec<PciAddress>,
    pub(super) power: Vec<PowerRecord>,
}

impl DevicesRecord {
    /// Resets the devices, whatever was done to them, and puts their settings back; those whose lock cannot be had are left
    /// as they are. One that somebody else has by now is theirs: whoever takes a device resets it first. What is given back
    /// is no longer in this record, so that nobody does it again. QEMU must be gone.
    ///
    /// # Errors
    /// The first device that is neither clean nor in quarantine, or whose settings are not put back; the others are.
    pub async fn release(&mut self, log: &Logger) -> Result<(), DevicesError> {
        let (sandbox, host) = (&self.sandbox, &self.host);
        let (mut locks, mut unlocked, mut unclean) = (Vec::new(), Vec::new(), Vec::new());
        let mut result = Ok(());
        // Settings that could not be put back may be all that is left of one.
        let settings = self.power.iter().map(PowerRecord::gpu).filter(|gpu| !self.devices.contains(gpu));
        for gpu in self.devices.iter().copied().chain(settings) {
            match GpuLock::take(&host.state, gpu, sandbox).await {
                Ok(lock) => locks.push(Arc::new(lock)),
                Err(lock::Error::Held { .. }) => {}
                Err(error) => {
                    unlocked.push(gpu);
                    result = result.and_then(|()| Err(error.into()));
                }
            }
        }
        let back = locks.iter().filter(|lock| self.devices.contains(&lock.gpu()));
        let back = back.map(|lock| give_back(host, lock, sandbox, Progress::silent(), log));
        for given in join_all(back).await {
            if let GivenBack::Unrecorded(gpu, source) = given {
                unclean.push(gpu);
                result = result.and(Err(DevicesError::Unrecorded { gpu, source }));
            }
        }
        self.devices.retain(|gpu| unlocked.contains(gpu) || unclean.contains(gpu));
        self.power.retain(|power| {
            if !locks.iter().any(|lock| lock.gpu() == power.gpu()) {
                return unlocked.contains(&power.gpu());
            }
            let put_back = power.release().map_err(DevicesError::from);
            let stays = put_back.is_err();
            if result.is_ok() {
                result = put_back;
            }
            stays
        });
        result
    }
}
