//! Where a device is on the host, and how far addresses reach.

use std::fmt;
use std::str::FromStr;

/// A PCI function of the host: domain, bus, device and function, as in `0000:41:00.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

/// A text that is no PCI address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no PCI address; it looks like 0000:41:00.0")]
pub struct BadHostAddress(String);

impl FromStr for HostAddress {
    type Err = BadHostAddress;

    fn from_str(text: &str) -> Result<Self, BadHostAddress> {
        let parsed = || {
            let (rest, function) = text.split_once('.')?;
            let mut parts = rest.split(':');
            let (domain, bus, device) = (parts.next()?, parts.next()?, parts.next()?);
            let address = Self {
                domain: hex(domain, 4..=8)?,
                bus: u8::try_from(hex(bus, 2..=2)?).ok()?,
                device: u8::try_from(hex(device, 2..=2)?).ok()?,
                function: u8::try_from(hex(function, 1..=1)?).ok()?,
            };
            let fits = parts.next().is_none() && address.device < 32 && address.function < 8;
            fits.then_some(address)
        };
        parsed().ok_or_else(|| BadHostAddress(text.chars().take(40).collect()))
    }
}

fn hex(digits: &str, length: std::ops::RangeInclusive<usize>) -> Option<u32> {
    let all = length.contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    all.then(|| u32::from_str_radix(digits, 16).ok())?
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

/// Bits of a physical address, 32 to 52.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressWidth(u8);

/// A number of bits that no x86 processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} bits is no width of a physical address; x86 has 32 to 52")]
pub struct BadWidth(pub u32);

impl AddressWidth {
    /// What QEMU's own processor is told to have where it plays one for devices with large BARs.
    pub const EMULATED: Self = Self(46);
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
    use proptest::prelude::*;

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        for text in ["0000:41:00.0", "10000:01:1f.7"] {
            assert_eq!(text.parse::<HostAddress>().unwrap().to_string(), text);
        }
        for text in ["", "41:00.0", "0000:41:20.0", "0000:41:00.8", "0000:41:00:0", "0000:+1:00.0", "../../x"]
        {
            assert!(text.parse::<HostAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn widths_are_those_of_processors() {
        assert_eq!(AddressWidth::new(46).unwrap().end(), 64 << 40);
        for bits in [0, 31, 53, 46 + 256] {
            assert_eq!(AddressWidth::new(bits), Err(BadWidth(bits)));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "\\PC{0,20}") {
            if let Ok(address) = text.parse::<HostAddress>() {
                prop_assert_eq!(address.to_string(), text.to_lowercase());
            }
        }
    }
}
