//! What a VM's GPUs need, from how many there are.

use std::time::Duration;

use shared_types::{GpuMode, PciAddress};

use crate::inventory::Found;

/// Devices that make no VM.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{gpus} GPUs with {switches} NVSwitches are not what a VM can have: any number of GPUs without switches, or a whole \
     board of 8 GPUs and 4 switches"
)]
pub struct NoPlan {
    gpus: usize,
    switches: u16,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// The GPUs, in the order of the bus.
    pub slots: Vec<PciAddress>,
    /// Whether links between GPUs are used.
    pub links: bool,
    /// Whether this VM runs the switches.
    pub fabric: bool,
    /// The mode that each GPU must be in.
    pub mode: GpuMode,
    /// How long a module may take to load.
    pub loading: Duration,
    /// How long it may take until all GPUs are open.
    pub opening: Duration,
    /// How long the driver may take to say what they are.
    pub asking: Duration,
}

/// 8 H200 with their switches were seen to take longer than 120 s to open; users of NVRC ask for 600 s.
const OPENING: Duration = Duration::from_secs(120);
const OPENING_EACH: Duration = Duration::from_secs(60);

impl Plan {
    /// The plan for these.
    ///
    /// # Errors
    ///
    /// [`NoPlan`] for part of a board.
    pub fn of(found: &Found) -> Result<Self, NoPlan> {
        let gpus = found.gpus.len();
        // Without switches any number: who partitions a Blackwell board's links is a service VM, not this one.
        let (links, fabric, mode) = match (gpus, found.switches) {
            (1, 0) => (false, false, GpuMode::On),
            (2.., 0) => (true, false, GpuMode::On),
            (8, 4) => (true, true, GpuMode::Ppcie),
            (_, switches) => return Err(NoPlan { gpus, switches }),
        };
        let each = u32::try_from(gpus).unwrap_or(u32::MAX);
        let seconds = Duration::from_secs;
        Ok(Self {
            slots: found.gpus.clone(),
            links,
            fabric,
            mode,
            loading: seconds(60),
            opening: OPENING + OPENING_EACH * each,
            asking: seconds(30) + seconds(5) * each,
        })
    }

    /// How many GPUs.
    pub fn gpus(&self) -> u16 {
        u16::try_from(self.slots.len()).unwrap_or(u16::MAX)
    }
}
