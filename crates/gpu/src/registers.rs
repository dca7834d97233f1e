//! Access to a GPU's registers: one narrow trait, three ways behind it.
//!
//! - [`Vfio`]: the regions of a VFIO device. First choice: exclusive by construction, allowed under Secure
//!   Boot's lockdown, reset by ioctl.
//! - [`Resource0`]: the files of sysfs. For a GPU that no driver has.
//! - `VfioUser` (feature `vfio-user`): a socket, behind which the rigs' emulated GPU sits.
//!
//! `/dev/mem` is not among them and will not be.

mod resource0;
#[cfg(test)]
pub(crate) mod script;
mod vfio;
#[cfg(feature = "vfio-user")]
mod vfio_user;

use std::{fmt, io};

pub use resource0::Resource0;
pub use vfio::Vfio;
#[cfg(feature = "vfio-user")]
pub use vfio_user::{RIG, VfioUser, rig_socket};

/// Where a 32-bit word is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum At {
    /// Byte offset in BAR0, a multiple of 4.
    Bar0(u32),
    /// Byte offset in configuration space, a multiple of 4 below 4096.
    Config(u16),
}

impl At {
    /// The byte offset, whichever space it is in.
    #[must_use]
    pub fn offset(self) -> u64 {
        match self {
            Self::Bar0(offset) => offset.into(),
            Self::Config(offset) => offset.into(),
        }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bar0(offset) => write!(f, "register {offset:#08x}"),
            Self::Config(offset) => write!(f, "configuration word {offset:#05x}"),
        }
    }
}

impl fmt::Debug for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a read returned. Only [`Word::Data`] is a register's content.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// The content.
    Data(u32),
    /// 0xFFFFFFFF: nothing answered. The function sleeps, is gone, has memory space disabled, or stands
    /// behind a raised firewall.
    AllOnes,
    /// 0xBADFxxxx: the GPU's internal bus answered with an error, the register is blocked or not ready.
    BusError(u32),
    /// 0xBADF0200 or 0xBAD00200: the GPU has locked itself down after a security fault.
    SecurityFault(u32),
}

impl Word {
    /// What 32 bits from the bus mean.
    #[must_use]
    pub const fn of(bits: u32) -> Self {
        match bits {
            0xffff_ffff => Self::AllOnes,
            0xbadf_0200 | 0xbad0_0200 => Self::SecurityFault(bits),
            0xbadf_0000..=0xbadf_ffff => Self::BusError(bits),
            _ => Self::Data(bits),
        }
    }

    /// The content, if it is one.
    #[must_use]
    pub const fn data(self) -> Option<u32> {
        match self {
            Self::Data(bits) => Some(bits),
            _ => None,
        }
    }

    /// The bits as they came: for windows into memory, where any value may be content.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::Data(bits) | Self::BusError(bits) | Self::SecurityFault(bits) => bits,
            Self::AllOnes => u32::MAX,
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.bits();
        match self {
            Self::Data(_) => write!(f, "{bits:#010x}"),
            Self::AllOnes => write!(f, "{bits:#010x} (nothing answered)"),
            Self::BusError(_) => write!(f, "{bits:#010x} (blocked or not ready)"),
            Self::SecurityFault(_) => write!(f, "{bits:#010x} (locked down)"),
        }
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How to reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetKind {
    /// The function alone, in the way that the kernel prefers (function-level reset where it can).
    Function,
    /// Its bus: for functions without a reset of their own. All functions of the bus are reset.
    Bus,
}

/// One PCI function's registers, owned by one user: exchanges with its firmware must not interleave.
pub trait Registers: fmt::Debug + Send {
    /// Reads one word.
    ///
    /// # Errors
    /// The access itself was refused. What the device answered is in the [`Word`].
    fn read32(&mut self, at: At) -> io::Result<Word>;

    /// Writes one word.
    ///
    /// # Errors
    /// The access itself was refused; a device does not report whether it took the value.
    fn write32(&mut self, at: At, value: u32) -> io::Result<()>;

    /// Resets the function. Blocks for as long as the kernel takes, 100 ms at least; the firmware has not
    /// booted yet when it returns.
    ///
    /// # Errors
    /// The kernel refused, or the function did not come back.
    fn reset(&mut self, kind: ResetKind) -> io::Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_values_are_no_data() {
        assert_eq!(Word::of(0), Word::Data(0));
        assert_eq!(Word::of(0xffff_ffff), Word::AllOnes);
        assert_eq!(Word::of(0xbadf_5108), Word::BusError(0xbadf_5108));
        assert_eq!(Word::of(0xbadf_0200), Word::SecurityFault(0xbadf_0200));
        assert_eq!(Word::of(0xbad0_0200), Word::SecurityFault(0xbad0_0200));
        assert_eq!(Word::of(0xbad0_0201), Word::Data(0xbad0_0201));
        for bits in [0, 1, u32::MAX, 0xbadf_4100, 0xbadf_0200] {
            assert_eq!(Word::of(bits).bits(), bits);
        }
    }
}
