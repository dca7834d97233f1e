//! Several GPUs at once: which sets there can be, and switching all of a set in the time of one.

use futures_util::future::join_all;
use shared_types::one_line;

use crate::chip::{Chip, Family};
use crate::{Assignable, Attached, Failure, Gpu, Mode, PciAddress, Unverified, Verified};

/// A Hopper board: what protected PCIe takes.
const BOARD_GPUS: usize = 8;
/// Its NVSwitches.
const BOARD_SWITCHES: usize = 4;

/// A set that NVIDIA does not support.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSet {
    /// Nothing in it.
    #[error("there is no GPU in the set")]
    Empty,
    /// The same device more than once.
    #[error("{0} is in the set twice")]
    Twice(PciAddress),
    /// Not all in one mode.
    #[error(
        "{} is in mode {}, {} in mode {}; all GPUs of a pod must be in the same mode",
        .first.0, .first.1, .other.0, .other.1
    )]
    MixedModes {
        /// One.
        first: (PciAddress, Mode),
        /// Another.
        other: (PciAddress, Mode),
    },
    /// Different chips under confidential computing.
    #[error("the set mixes {first} and {other}; GPUs of one confidential VM must be of one chip")]
    MixedChips {
        /// One.
        first: Chip,
        /// Another.
        other: Chip,
    },
    /// Protected PCIe with anything but one whole board.
    #[error("protected PCIe takes a whole Hopper board, 8 GPUs and 4 NVSwitches, not {gpus} and {switches}")]
    NoBoard {
        /// How many GPUs.
        gpus: usize,
        /// How many switches.
        switches: usize,
    },
    /// Several GPUs in a mode that allows one.
    #[error("{gpus} GPUs of chip {chip} in one VM are not possible in mode {mode}; {instead}")]
    Several {
        /// How many.
        gpus: usize,
        /// Of which chip.
        chip: Chip,
        /// In which mode.
        mode: Mode,
        /// What is possible.
        instead: &'static str,
    },
    /// A chip whose mode cannot be read.
    #[error(
        "the chip of GPU {gpu} is not known, so that it goes to a plain VM only, not to one in mode {mode}"
    )]
    UnknownChip {
        /// Which.
        gpu: PciAddress,
        /// The mode that was wanted.
        mode: Mode,
    },
    /// A switch beside GPUs that must not use it.
    #[error("NVSwitch {switch} cannot go to a VM whose GPUs are in mode {mode}")]
    Switch {
        /// Which.
        switch: PciAddress,
        /// The GPUs' mode.
        mode: Mode,
    },
    /// Protected PCIe on something else than Hopper.
    #[error("{chip} has no protected PCIe")]
    NoPpcie {
        /// The chip.
        chip: Chip,
    },
}

/// Whether these can go to one VM together, in the modes they were verified in.
///
/// # Errors
/// [`BadSet`].
pub fn one_vm(devices: &[Assignable]) -> Result<Mode, BadSet> {
    let first = devices.first().ok_or(BadSet::Empty)?;
    let mode = first.mode();
    if let Some(other) = devices.iter().find(|device| device.mode() != mode) {
        let name = |device: &Assignable| (device.address(), device.mode());
        return Err(BadSet::MixedModes { first: name(first), other: name(other) });
    }
    let devices: Vec<_> = devices.iter().map(|device| (device.address(), device.chip())).collect();
    possible(&devices, mode).map(|()| mode)
}

/// Whether these could go to one VM together if all were in this mode: to be asked before their mode is changed.
///
/// # Errors
/// [`BadSet`].
pub fn possible(devices: &[(PciAddress, Chip)], mode: Mode) -> Result<(), BadSet> {
    once(devices.iter().map(|(address, _)| *address))?;
    let (switches, gpus): (Vec<_>, Vec<_>) =
        devices.iter().copied().partition(|(_, chip)| chip.family() == Family::NvSwitch);
    let (_, chip) = *gpus.first().ok_or(BadSet::Empty)?;
    match mode {
        // Without confidential computing anything goes together.
        Mode::Off => return Ok(()),
        Mode::Ppcie => return board(devices.iter().map(|(_, chip)| *chip)),
        Mode::On | Mode::Devtools => {}
    }
    if let Some((gpu, _)) = gpus.iter().copied().find(|(_, chip)| *chip == Chip::Other) {
        return Err(BadSet::UnknownChip { gpu, mode });
    }
    if let Some((_, other)) = gpus.iter().copied().find(|(_, other)| *other != chip) {
        return Err(BadSet::MixedChips { first: chip, other });
    }
    if let Some((switch, _)) = switches.first() {
        return Err(BadSet::Switch { switch: *switch, mode });
    }
    let several = |instead| Err(BadSet::Several { gpus: gpus.len(), chip, mode, instead });
    match (chip.family(), gpus.len()) {
        (_, 1) | (Family::Blackwell1 | Family::Rubin, 2 | 4 | 8) => Ok(()),
        (Family::Blackwell1 | Family::Rubin, _) => several("the board's partitions have 1, 2, 4 or 8 GPUs"),
        (Family::Hopper, _) => several("a whole board in mode ppcie is, or one GPU"),
        (Family::Blackwell2 | Family::NvSwitch | Family::Other, _) => several("one GPU is"),
    }
}

fn once(addresses: impl Iterator<Item = PciAddress>) -> Result<(), BadSet> {
    let mut seen = std::collections::BTreeSet::new();
    for address in addresses {
        if !seen.insert(address) {
            return Err(BadSet::Twice(address));
        }
    }
    Ok(())
}

fn board(chips: impl Iterator<Item = Chip>) -> Result<(), BadSet> {
    let (mut gpus, mut switches) = (0, 0);
    for chip in chips {
        match chip.family() {
            Family::Hopper => gpus += 1,
            Family::NvSwitch => switches += 1,
            Family::Blackwell1 | Family::Blackwell2 | Family::Rubin | Family::Other => {
                return Err(BadSet::NoPpcie { chip });
            }
        }
    }
    let whole = (gpus, switches) == (BOARD_GPUS, BOARD_SWITCHES);
    if whole { Ok(()) } else { Err(BadSet::NoBoard { gpus, switches }) }
}

/// What can go wrong with a set.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There can be no such set. Nothing was done.
    #[error("these GPUs cannot be set to one mode together")]
    Set(#[from] BadSet),
    /// Some failed.
    #[error("{}", text(.failures, .pending))]
    Devices {
        /// Each with its cause.
        failures: Vec<Failure>,
        /// GPUs whose settings were written, so that their next reset brings the wanted mode.
        pending: Vec<PciAddress>,
    },
}

impl Error {
    /// Whether the firmware of one hangs in a way that a reset may end.
    #[must_use]
    pub fn may_end_by_reset(&self) -> bool {
        let Self::Devices { failures, .. } = self else { return false };
        failures.iter().any(|failure| failure.cause.may_end_by_reset())
    }
}

fn text(failures: &[Failure], pending: &[PciAddress]) -> String {
    let causes: Vec<_> = failures.iter().map(|failure| one_line(failure)).collect();
    let mut text = format!("{} of the GPUs failed: {}", failures.len(), causes.join("; "));
    if !pending.is_empty() {
        text.push_str(&format!(
            "; {pending:?} have new settings that are not active yet: set the mode again"
        ));
    }
    text
}

/// Sets all to a mode: reads all, writes all, resets all, verifies all, each time all at once. Nothing is
/// written to any before all have been found able. When all are in the mode already, none is reset.
///
/// # Errors
/// [`Error::Set`]; [`Error::Devices`], all GPUs are closed then.
pub async fn switch(gpus: Vec<Gpu<Unverified>>, mode: Mode) -> Result<Vec<Gpu<Verified>>, Error> {
    once(gpus.iter().map(Gpu::address))?;
    if mode == Mode::Ppcie {
        board(gpus.iter().map(Gpu::chip))?;
    }
    let mut gpus = gpus;
    let plans = all(join_all(gpus.iter_mut().map(|gpu| gpu.plan(mode))).await, &[])?;
    let to_write = plans.iter().any(|plan| !plan.changes().is_empty());
    // A mode that cannot be read, or is none, is one to be replaced.
    let active = join_all(gpus.iter_mut().map(Gpu::query)).await;
    if !to_write && active.iter().all(|active| active.as_ref().is_ok_and(|active| active.mode == mode)) {
        return verify(gpus, mode).await;
    }
    let writes = gpus.iter_mut().zip(&plans).map(async |(gpu, plan)| gpu.write(plan).await);
    let written = join_all(writes).await;
    let pending: Vec<_> = gpus
        .iter()
        .zip(&plans)
        .zip(&written)
        .filter(|((_, plan), written)| written.is_ok() && !plan.changes().is_empty())
        .map(|((gpu, _), _)| gpu.address())
        .collect();
    all(written, &pending)?;
    let reset = all(join_all(gpus.into_iter().map(|gpu| gpu.reset())).await, &[])?;
    let verified = join_all(reset.into_iter().map(|gpu| gpu.verify(mode))).await;
    // The reset did not bring it into the mode of its settings; the next one may.
    let is_other =
        |gpu: &PciAddress| verified.iter().any(|one| one.as_ref().is_err_and(|failure| failure.gpu == *gpu));
    let pending: Vec<_> = pending.into_iter().filter(is_other).collect();
    all(verified, &pending)
}

/// Verifies all at once.
///
/// # Errors
/// [`Error::Devices`], all GPUs are closed then.
pub async fn verify(gpus: Vec<Gpu<Unverified>>, mode: Mode) -> Result<Vec<Gpu<Verified>>, Error> {
    all(join_all(gpus.into_iter().map(|gpu| gpu.verify(mode))).await, &[])
}

/// Waits until the firmware of all has booted.
///
/// # Errors
/// [`Error::Devices`], all GPUs are closed then.
pub async fn boot(gpus: Vec<Gpu<Attached>>) -> Result<Vec<Gpu<Unverified>>, Error> {
    all(join_all(gpus.into_iter().map(Gpu::boot)).await, &[])
}

/// Resets all at once: before and after every VM.
///
/// # Errors
/// [`Error::Devices`], all GPUs are closed then.
pub async fn reset<S>(gpus: Vec<Gpu<S>>) -> Result<Vec<Gpu<Unverified>>, Error> {
    all(join_all(gpus.into_iter().map(|gpu| gpu.reset())).await, &[])
}

fn all<T>(results: Vec<Result<T, Failure>>, pending: &[PciAddress]) -> Result<Vec<T>, Error> {
    let mut done = Vec::new();
    let mut failures = Vec::new();
    for result in results {
        match result {
            Ok(value) => done.push(value),
            Err(failure) => failures.push(failure),
        }
    }
    if failures.is_empty() { Ok(done) } else { Err(Error::Devices { failures, pending: pending.to_vec() }) }
}

#[cfg(test)]
mod tests;
