//! Confidential-computing modes, and the register that tells the active one.

use shared_types::GpuMode as Mode;

use crate::chip::Family;
use crate::registers::At;

/// Where the active mode is: Hopper's secure scratch group 20, the reset scratch of Blackwell and Rubin, the switch's own.
/// `None` for a chip that is not known.
pub(crate) const fn register(family: Family) -> Option<At> {
    Some(At::Bar0(match family {
        Family::Hopper => 0x11_82cc,
        Family::Blackwell1 | Family::Blackwell2 | Family::Rubin => 0x590,
        Family::NvSwitch => 0x2_8c50,
        Family::Other => return None,
    }))
}

/// Bit 8 of the register of Blackwell and Rubin. Hopper's bit 8 says something else, and nothing of the mode.
const BARE_METAL: u32 = 1 << 8;

/// The active mode's register, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Active {
    /// The mode.
    pub mode: Mode,
    /// The whole register; has bits that are no part of the mode.
    pub word: u32,
}

/// Bits that are no mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMode {
    /// Devtools without confidential computing: a switch was interrupted.
    #[error(
        "its active mode is devtools without confidential computing ({0:#x}), as after an interrupted switch"
    )]
    DevtoolsAlone(u32),
    /// Confidential computing and protected PCIe exclude each other.
    #[error("its active mode is confidential computing and protected PCIe at once ({0:#x})")]
    Both(u32),
    /// A multi-GPU mode that is not protected PCIe.
    #[error("its active multi-GPU mode is not known ({0:#x})")]
    MultiGpu(u32),
    /// A mode of Blackwell and Rubin for machines without VMs.
    #[error("its active mode is confidential computing on bare metal ({0:#x}), which no VM can use")]
    BareMetal(u32),
}

impl Active {
    /// Decodes the register; bits without meaning here are left alone, newer firmware sets more of them.
    ///
    /// # Errors
    /// [`InvalidMode`].
    pub const fn decode(family: Family, word: u32) -> Result<Self, InvalidMode> {
        let ppcie = match family {
            Family::Hopper => match word >> 5 & 0b11 {
                0 => false,
                1 => true,
                _ => return Err(InvalidMode::MultiGpu(word)),
            },
            Family::NvSwitch => {
                let mode = if word & 1 == 1 { Mode::Ppcie } else { Mode::Off };
                return Ok(Self { mode, word });
            }
            Family::Blackwell1 | Family::Blackwell2 | Family::Rubin => {
                if word & (BARE_METAL | 1) == BARE_METAL | 1 {
                    return Err(InvalidMode::BareMetal(word));
                }
                false
            }
            Family::Other => return Ok(Self { mode: Mode::Off, word }),
        };
        let mode = match (word & 0b11, ppcie) {
            (2, _) => return Err(InvalidMode::DevtoolsAlone(word)),
            (0, true) => Mode::Ppcie,
            (_, true) => return Err(InvalidMode::Both(word)),
            (0, false) => Mode::Off,
            (1, false) => Mode::On,
            _ => Mode::Devtools,
        };
        Ok(Self { mode, word })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hoppers_bits() {
        let mode = |word| Active::decode(Family::Hopper, word).map(|active| active.mode);
        assert_eq!(mode(0), Ok(Mode::Off));
        assert_eq!(mode(1), Ok(Mode::On));
        assert_eq!(mode(3), Ok(Mode::Devtools));
        assert_eq!(mode(0x20), Ok(Mode::Ppcie));
        // Power-efficient mode is supported: no part of the mode.
        assert_eq!(mode(0x101), Ok(Mode::On));
        assert_eq!(mode(0x180), Ok(Mode::Off));
        assert_eq!(mode(2), Err(InvalidMode::DevtoolsAlone(2)));
        assert_eq!(mode(0x21), Err(InvalidMode::Both(0x21)));
        assert_eq!(mode(0x60), Err(InvalidMode::MultiGpu(0x60)));
    }

    #[test]
    fn blackwells_bits() {
        let mode = |word| Active::decode(Family::Blackwell1, word).map(|active| active.mode);
        assert_eq!(mode(0), Ok(Mode::Off));
        // The firewall inside BAR0, and encrypted NVLink.
        assert_eq!(mode(4), Ok(Mode::Off));
        assert_eq!(mode(0x45), Ok(Mode::On));
        assert_eq!(mode(3), Ok(Mode::Devtools));
        assert_eq!(mode(2), Err(InvalidMode::DevtoolsAlone(2)));
        assert_eq!(mode(0x101), Err(InvalidMode::BareMetal(0x101)));
        assert_eq!(mode(0x103), Err(InvalidMode::BareMetal(0x103)));
        assert_eq!(Active::decode(Family::Rubin, 0x145), Err(InvalidMode::BareMetal(0x145)));
        assert_eq!(Active::decode(Family::Rubin, 0x45).map(|active| active.mode), Ok(Mode::On));
    }

    #[test]
    fn the_switchs_bit() {
        let mode = |word| Active::decode(Family::NvSwitch, word).map(|active| active.mode);
        assert_eq!(mode(0), Ok(Mode::Off));
        assert_eq!(mode(0x101), Ok(Mode::Ppcie));
    }
}
