//! From a powered function to booted firmware: power state, memory space, firewall, boot register.
//!
//! Registers: `dev_therm.h`, `dev_fsp_pri.h` of NVIDIA's open GPU kernel modules (595.45.04), gpu-admin-tools
//! (2025.11.21); capabilities: PCI Express Base Specification 6.0, chapter 7.

mod config;
mod fault;

use std::fmt;

use crate::chip::{Chip, Family};
use crate::progress::{Phase, Progress, Span};
use crate::registers::{At, Registers, Word};
use crate::wait::{Pace, poll};
use crate::{Cause, Failure, PciAddress};

pub(crate) use config::{subsystem, wake};

/// What the boot register says when the firmware has booted.
const BOOTED: u32 = 0xff;

/// Which identity register, which chip it is.
const BOOT_0: At = At::Bar0(0);

const FIREWALL: Pace = Pace::millis(1, 15_000);

/// `None` for a chip that is not known.
const fn boot_register(family: Family) -> Option<At> {
    Some(At::Bar0(match family {
        Family::Hopper | Family::Blackwell1 => 0x2_00bc,
        Family::Blackwell2 | Family::Rubin => 0xad_00bc,
        Family::NvSwitch => 0x6_60bc,
        Family::Other => return None,
    }))
}

const fn boot_pace(family: Family) -> Pace {
    match family {
        Family::Hopper | Family::NvSwitch => Pace::millis(10, 5_000),
        Family::Blackwell1 | Family::Blackwell2 | Family::Rubin | Family::Other => Pace::millis(10, 10_000),
    }
}

/// What the firmware leaves behind when it does not boot: eight scratch words, in the order of their
/// registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FspScratch([Word; 8]);

impl FspScratch {
    const FIRST: u32 = 0x8f_0320;

    fn read(registers: &mut dyn Registers) -> std::io::Result<Self> {
        let mut words = [Word::AllOnes; 8];
        for (index, word) in (0..).zip(&mut words) {
            *word = registers.read32(At::Bar0(Self::FIRST + 4 * index))?;
        }
        Ok(Self(words))
    }
}

impl fmt::Display for FspScratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FSP scratch")?;
        self.0.iter().try_for_each(|word| write!(f, " {:x}", word.bits()))
    }
}

/// Waits until the firmware of a function that is awake has booted, and checks that it is well.
///
/// # Errors
/// The firewall or the boot takes too long; the GPU is gone, locked down, in recovery, or another chip.
pub(crate) async fn wait(
    registers: &mut dyn Registers,
    gpu: PciAddress,
    chip: Chip,
    progress: &Progress,
) -> Result<(), Failure> {
    let family = chip.family();
    let mut span = progress.begin(gpu, Phase::Firewall);
    firewall(registers, family, &mut span).await.map_err(|cause| span.fail(cause))?;
    let mut span = progress.begin(gpu, Phase::Boot);
    booted(registers, chip, &mut span).await.map_err(|cause| span.fail(cause))
}

/// Blackwell answers nothing on BAR0 until its firmware has lowered a firewall; a bit in configuration
/// space tells.
async fn firewall(registers: &mut dyn Registers, family: Family, span: &mut Span) -> Result<(), Cause> {
    let Some((capability, offset, bit)) = config::firewall(family) else { return Ok(()) };
    let Some(base) = config::find(registers, capability)? else {
        // A virtual configuration space may hide it. All that is left is to see whether BAR0 answers.
        let look = || Ok::<_, Cause>((registers.read32(BOOT_0)? != Word::AllOnes).then_some(()));
        let _ = poll(Pace::millis(100, 3_000), look).await?;
        return Ok(());
    };
    let at = At::Config(base + offset);
    let look = || {
        span.tick();
        match registers.read32(at)? {
            Word::Data(word) if word & bit == 0 => Ok(Some(())),
            Word::AllOnes => Err(Cause::Gone { at }),
            _ => Ok(None),
        }
    };
    poll(FIREWALL, look).await?.ok_or(Cause::FirewallUp { limit: FIREWALL.limit })
}

async fn booted(registers: &mut dyn Registers, chip: Chip, span: &mut Span) -> Result<(), Cause> {
    let family = chip.family();
    let pace = boot_pace(family);
    let boot0 = answered(registers, BOOT_0, pace, span).await?;
    let boot0 = fault::identity(boot0, registers, family)?;
    if !chip.has_boot0(boot0) {
        return Err(Cause::OtherChip { chip, boot0 });
    }
    let Some(at) = boot_register(family) else { return Ok(()) };
    let mut last = Word::Data(0);
    let look = || {
        span.tick();
        last = registers.read32(at)?;
        match (last, family) {
            (Word::Data(BOOTED), _) => Ok(Some(())),
            (Word::AllOnes, _) => present(registers).map(|()| None),
            // The unit that has the register may not be reachable yet from Blackwell on.
            (Word::Data(_), _)
            | (Word::BusError(_), Family::Blackwell1 | Family::Blackwell2 | Family::Rubin) => Ok(None),
            (word, _) => Err(Cause::Unreadable { at, word }),
        }
    };
    if poll(pace, look).await?.is_none() {
        if last == Word::AllOnes {
            return Err(Cause::Gone { at });
        }
        fault::recovery(registers, family)?;
        let scratch = FspScratch::read(registers)?;
        return Err(Cause::NotBooted { limit: pace.limit, last, scratch });
    }
    fault::recovery(registers, family)
}

/// Waits until something answers on BAR0: a reset function reads as all-ones there before its firmware runs.
async fn answered(registers: &mut dyn Registers, at: At, pace: Pace, span: &mut Span) -> Result<Word, Cause> {
    let look = || {
        span.tick();
        match registers.read32(at)? {
            Word::AllOnes => present(registers).map(|()| None),
            word => Ok(Some(word)),
        }
    };
    poll(pace, look).await?.ok_or(Cause::Gone { at })
}

/// All-ones on BAR0 may be a boot that is not over; in configuration space nothing but absence reads so.
fn present(registers: &mut dyn Registers) -> Result<(), Cause> {
    let at = At::Config(0);
    if registers.read32(at)? == Word::AllOnes { Err(Cause::Gone { at }) } else { Ok(()) }
}

const SCRUB: Pace = Pace::millis(10, 5_000);

/// Whether a GPU's memory is known to be wiped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scrubbed {
    /// It is.
    Yes,
    /// The register is blocked, as it is in some modes, or does not exist: the reset's own word must do.
    CannotTell,
}

/// Waits for the wiping of memory that a reset begins.
pub(crate) async fn scrubbed(
    registers: &mut dyn Registers,
    family: Family,
    span: &mut Span,
) -> Result<Option<Scrubbed>, Cause> {
    let at = match family {
        Family::Hopper => At::Bar0(0x10_0b20),
        Family::Blackwell1 | Family::Blackwell2 | Family::Rubin => At::Bar0(0x8a_004c),
        Family::NvSwitch | Family::Other => return Ok(Some(Scrubbed::CannotTell)),
    };
    poll(SCRUB, || {
        span.tick();
        match registers.read32(at)? {
            Word::Data(1) => Ok(Some(Scrubbed::Yes)),
            Word::BusError(_) => Ok(Some(Scrubbed::CannotTell)),
            Word::AllOnes => Err(Cause::Gone { at }),
            _ => Ok(None),
        }
    })
    .await
}

#[cfg(test)]
mod tests;
