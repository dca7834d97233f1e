//! The tests' GPUs in the place of NVIDIA's library, for an image for tests. Included by the guest's attestation service with
//! its feature `fake-gpus`; the crate beside this file has the GPUs.

use std::path::Path;

use fake_gpus::Board;
use shared_types::GpuMode;

use crate::evidence::nvml::{Facts, Library};

/// The emulated GPUs of this guest.
#[derive(Debug)]
pub struct FakeNvml(Board);

impl FakeNvml {
    /// Looks for them.
    pub fn open() -> Result<Self, String> {
        Board::of_guest(Path::new("/sys")).map(Self).map_err(|error| format!("{error:#}"))
    }
}

fn said(error: impl std::fmt::Display) -> String {
    format!("{error:#}")
}

impl Library for FakeNvml {
    fn count(&self) -> Result<u32, String> {
        u32::try_from(self.0.count()).map_err(said)
    }

    fn facts(&self, index: u32) -> Result<Facts, String> {
        let slot = self.0.slot(index as usize).map_err(said)?;
        let uuid = format!("GPU-fake-{slot}");
        Ok(Facts {
            uuid,
            slot,
            minor: index,
            product: "NVIDIA H100 80GB HBM3 (emulated)".into(),
            arch: Some("HOPPER"),
        })
    }

    fn mode(&self, index: u32) -> Result<GpuMode, String> {
        self.0.mode(index as usize).map_err(said)
    }

    fn report(&self, index: u32, nonce: [u8; 32]) -> Result<Vec<u8>, String> {
        self.0.device(index as usize).map(|device| device.report(nonce)).map_err(said)
    }

    fn chain(&self, index: u32) -> Result<Vec<u8>, String> {
        self.0.device(index as usize).map(|device| device.chain().as_bytes().to_vec()).map_err(said)
    }

    fn accept_work(&self) -> Result<(), String> {
        Ok(())
    }
}
