//! Configuration space: capabilities, power state, memory space.

use crate::Cause;
use crate::chip::Family;
use crate::progress::Span;
use crate::registers::{At, Registers, Word};
use crate::wait::{Pace, poll};

const COMMAND: At = At::Config(0x04);
const MEMORY_SPACE: u32 = 1 << 1;
const STATUS_HAS_CAPABILITIES: u32 = 1 << (16 + 4);
const FIRST_CAPABILITY: At = At::Config(0x34);
const POWER_MANAGEMENT: u32 = 0x01;
const POWER_STATE: u32 = 0b11;

const FIRST_EXTENDED: u16 = 0x100;
const DESIGNATED: u16 = 0x23;
const VENDOR_SPECIFIC: u16 = 0x0b;

/// Capabilities are linked lists; a broken list must not be walked for ever.
const MOST: usize = 96;

/// NVIDIA's capability that tells the state of the firewall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Capability {
    /// Designated vendor-specific (DVSEC), vendor 0x10de, id 0.
    Designated,
    /// Vendor-specific (VSEC), id 1, revision 1.
    VendorSpecific,
}

/// The capability, the offset in it and the bit that is 1 while the firewall is up.
pub(super) const fn firewall(family: Family) -> Option<(Capability, u16, u32)> {
    match family {
        Family::Hopper | Family::NvSwitch | Family::Other => None,
        Family::Blackwell1 | Family::Rubin => Some((Capability::Designated, 0x8, 1 << 20)),
        Family::Blackwell2 => Some((Capability::VendorSpecific, 0x14, 1 << 24)),
    }
}

/// The capability and the offset of the word that tells why a GPU has locked itself down.
pub(super) const fn fault_reason(family: Family) -> (Capability, u16) {
    match family {
        Family::Hopper | Family::Blackwell2 | Family::NvSwitch | Family::Other => {
            (Capability::VendorSpecific, 0x10)
        }
        Family::Blackwell1 | Family::Rubin => (Capability::Designated, 0x14),
    }
}

/// A word of configuration space. All-ones at its beginning means that nothing answers; elsewhere it is
/// content.
fn read(registers: &mut dyn Registers, at: At) -> Result<u32, Cause> {
    Ok(registers.read32(at)?.bits())
}

/// Where a capability begins; `None` if it is not there, or hidden.
pub(super) fn find(registers: &mut dyn Registers, wanted: Capability) -> Result<Option<u16>, Cause> {
    let mut next = FIRST_EXTENDED;
    for _ in 0..MOST {
        let header = read(registers, At::Config(next))?;
        let (id, following) = (lower(header), lower(header >> 20));
        let found = match (wanted, id) {
            (_, 0 | u16::MAX) => return Ok(None),
            (Capability::Designated, DESIGNATED) => {
                let vendor = lower(read(registers, At::Config(next + 4))?);
                vendor == crate::chip::VENDOR && lower(read(registers, At::Config(next + 8))?) == 0
            }
            (Capability::VendorSpecific, VENDOR_SPECIFIC) => {
                read(registers, At::Config(next + 4))? & 0xf_ffff == 0x1_0001
            }
            _ => false,
        };
        if found {
            return Ok(Some(next));
        }
        next = following & !0b11;
        if next < FIRST_EXTENDED {
            return Ok(None);
        }
    }
    Ok(None)
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is wanted")]
const fn lower(word: u32) -> u16 {
    word as u16
}

/// The subsystem's device id, which tells boards of one product apart.
pub(crate) fn subsystem(registers: &mut dyn Registers) -> Result<u16, Cause> {
    Ok(lower(read(registers, At::Config(0x2c))? >> 16))
}

/// Brings the function to D0 and lets it answer on its BARs.
pub(crate) async fn wake(registers: &mut dyn Registers, span: &mut Span) -> Result<(), Cause> {
    let id = At::Config(0);
    if registers.read32(id)? == Word::AllOnes {
        return Err(Cause::Gone { at: id });
    }
    if let Some(at) = power_management(registers)? {
        awake(registers, at, span).await?;
    }
    let command = read(registers, COMMAND)?;
    if command & MEMORY_SPACE == 0 {
        // Status, the upper half, is cleared by writing ones: zeroes leave it alone.
        registers.write32(COMMAND, command & 0xffff | MEMORY_SPACE)?;
    }
    Ok(())
}

/// Where the power state is: the second word of the capability.
fn power_management(registers: &mut dyn Registers) -> Result<Option<At>, Cause> {
    if read(registers, COMMAND)? & STATUS_HAS_CAPABILITIES == 0 {
        return Ok(None);
    }
    let mut next = read(registers, FIRST_CAPABILITY)? & 0xfc;
    for _ in 0..MOST {
        if next < 0x40 {
            break;
        }
        let offset = lower(next);
        let header = read(registers, At::Config(offset))?;
        if header & 0xff == POWER_MANAGEMENT {
            return Ok(Some(At::Config(offset + 4)));
        }
        next = header >> 8 & 0xfc;
    }
    Ok(None)
}

async fn awake(registers: &mut dyn Registers, at: At, span: &mut Span) -> Result<(), Cause> {
    let state = read(registers, at)?;
    if state & POWER_STATE == 0 {
        return Ok(());
    }
    // Bit 15 (an event was signalled) is cleared by writing one: zero leaves it alone.
    registers.write32(at, state & 0x7ffc)?;
    // The specification grants 10 ms from D3hot.
    let look = || {
        span.tick();
        Ok::<_, Cause>((read(registers, at)? & POWER_STATE == 0).then_some(()))
    };
    if poll(Pace::millis(10, 500), look).await?.is_none() {
        let state = u8::try_from(read(registers, at)? & POWER_STATE).unwrap_or(3);
        return Err(Cause::Asleep { state });
    }
    Ok(())
}
