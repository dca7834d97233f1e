//! How far physical addresses reach.

use std::fmt;

/// Bits of a physical address, 32 to 52.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressWidth(u8);

/// A number of bits that no x86 processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} bits is no width of a physical address; x86 has 32 to 52")]
pub struct BadWidth(pub u32);

impl AddressWidth {
    /// What QEMU's own processor is told to have where it plays one for devices with large BARs.
    pub(crate) const EMULATED: Self = Self(46);
    /// What firmware makes use of at most: with more, edk2 would need five levels of page tables
    /// (`OvmfPkg/Library/PlatformInitLib`).
    pub const FIRMWARE: Self = Self(46);

    /// Checks the range.
    ///
    /// # Errors
    /// [`BadWidth`].
    pub fn new(bits: u32) -> Result<Self, BadWidth> {
        match u8::try_from(bits) {
            Ok(width @ 32..=52) => Ok(Self(width)),
            _ => Err(BadWidth(bits)),
        }
    }

    /// The number of bits.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The first address that is out of reach.
    pub const fn end(self) -> u64 {
        1 << self.0
    }
}

impl Default for AddressWidth {
    /// What every x86-64 processor has, for when nobody could tell.
    fn default() -> Self {
        Self(36)
    }
}

impl fmt::Display for AddressWidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_those_of_processors() {
        assert_eq!(AddressWidth::new(46).unwrap().end(), 64 << 40);
        for bits in [0, 31, 53, 46 + 256] {
            assert_eq!(AddressWidth::new(bits), Err(BadWidth(bits)));
        }
    }
}
