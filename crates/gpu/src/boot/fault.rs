//! States from which a GPU does not come back by itself.

use super::{BOOT_0, config};
use crate::Cause;
use crate::chip::Family;
use crate::registers::{At, Registers, Word};

/// The identity of the identity register, or what it says instead of one.
pub(super) fn identity(boot0: Word, registers: &mut dyn Registers, family: Family) -> Result<u32, Cause> {
    match boot0 {
        // Hopper's way to say that it recovers.
        Word::Data(0) => Err(Cause::Recovery { at: BOOT_0, word: 0 }),
        Word::Data(boot0) => Ok(boot0),
        Word::AllOnes => Err(Cause::Gone { at: BOOT_0 }),
        word @ Word::SecurityFault(_) => {
            let (capability, offset) = config::fault_reason(family);
            let base = config::find(registers, capability)?;
            let reason = base.map(|base| registers.read32(At::Config(base + offset))).transpose()?;
            Err(Cause::SecurityFault { word, reason: reason.map(Word::bits) })
        }
        word @ Word::BusError(_) => Err(Cause::Unreadable { at: BOOT_0, word }),
    }
}

/// Refuses a GPU whose firmware is in recovery mode.
pub(super) fn recovery(registers: &mut dyn Registers, family: Family) -> Result<(), Cause> {
    let at = At::Bar0(match family {
        Family::Hopper => 0x2_0120,
        Family::NvSwitch => 0x6_6120,
        Family::Blackwell1 | Family::Blackwell2 | Family::Rubin => 0x8a_a128,
        Family::Other => return Ok(()),
    });
    let Some(word) = registers.read32(at)?.data() else {
        // Blocked: the boot register has said that the firmware is well.
        return Ok(());
    };
    let recovers = match family {
        Family::Hopper | Family::NvSwitch => word & 1 << 30 != 0,
        Family::Blackwell1 | Family::Blackwell2 | Family::Rubin => word & 0xff > 1,
        Family::Other => false,
    };
    if recovers { Err(Cause::Recovery { at, word }) } else { Ok(()) }
}
