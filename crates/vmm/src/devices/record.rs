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
    /// Resets the devices, whatever was done to them, and puts their settings back. One that somebody else has by now is
    /// left to them: whoever takes a device resets it first. QEMU must be gone.
    ///
    /// # Errors
    /// The first device that is neither clean nor in quarantine; the others are one of both.
    pub async fn release(&self, log: &Logger) -> Result<(), DevicesError> {
        let mut locks = Vec::new();
        for device in &self.devices {
            match GpuLock::take(&self.host.state, *device, &self.sandbox).await {
                Ok(lock) => locks.push(Arc::new(lock)),
                Err(lock::Error::Held { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let back =
            locks.iter().map(|lock| give_back(&self.host, lock, &self.sandbox, Progress::silent(), log));
        let mut result = Ok(());
        for given in join_all(back).await {
            if let GivenBack::Unrecorded(gpu, source) = given {
                result = result.and(Err(DevicesError::Unrecorded { gpu, source }));
            }
        }
        for power in &self.power {
            let put_back = power.release();
            if result.is_ok() {
                result = put_back.map_err(DevicesError::from);
            }
        }
        result
    }
}
