//! The address of a PCI function.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Domain, bus, device and function, as in `0000:41:00.0`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl PciAddress {
    /// Whether both are functions of one device.
    #[must_use]
    pub fn is_same_device(self, other: Self) -> bool {
        (self.domain, self.bus, self.device) == (other.domain, other.bus, other.device)
    }
}

/// A text that is no PCI address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no PCI address; it looks like 0000:41:00.0 (domain, bus, device, function, hexadecimal)")]
pub struct BadPciAddress(pub String);

impl FromStr for PciAddress {
    type Err = BadPciAddress;

    fn from_str(text: &str) -> Result<Self, BadPciAddress> {
        parse(text).ok_or_else(|| BadPciAddress(text.chars().take(64).collect()))
    }
}

/// Domains have at least four digits; VMD bridges make longer ones, and NVIDIA's driver writes eight.
fn parse(text: &str) -> Option<PciAddress> {
    let (rest, function) = text.split_once('.')?;
    let mut parts = rest.split(':');
    let (domain, bus, device) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || !(4..=8).contains(&domain.len()) {
        return None;
    }
    let address = PciAddress {
        domain: hex(domain)?,
        bus: fixed(bus, 2)?,
        device: fixed(device, 2)?,
        function: fixed(function, 1)?,
    };
    (address.device < 32 && address.function < 8).then_some(address)
}

fn fixed(digits: &str, count: usize) -> Option<u8> {
    (digits.len() == count).then(|| hex(digits))?.and_then(|value| u8::try_from(value).ok())
}

fn hex(digits: &str) -> Option<u32> {
    let all = digits.bytes().all(|b| b.is_ascii_hexdigit());
    all.then(|| u32::from_str_radix(digits, 16).ok())?
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{}", self.domain, self.bus, self.device, self.function)
    }
}

impl fmt::Debug for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for PciAddress {
    type Error = BadPciAddress;

    fn try_from(text: String) -> Result<Self, BadPciAddress> {
        text.parse()
    }
}

impl From<PciAddress> for String {
    fn from(address: PciAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_and_back() {
        for text in ["0000:41:00.0", "10000:01:1f.7"] {
            assert_eq!(text.parse::<PciAddress>().unwrap().to_string(), text);
        }
        // As the kernel and as NVIDIA's driver write one.
        assert_eq!("00000000:0A:1F.7".parse::<PciAddress>(), "0000:0a:1f.7".parse());
    }

    #[test]
    fn other_text_is_refused() {
        for text in [
            "",
            "41:00.0",
            "0000:41:20.0",
            "0000:41:00.8",
            "0000:41:00:0",
            "0000:41:00",
            "0000:41:00.g",
            "0000:100:00.0",
            "x000:41:00.0",
            "0000:4:00.0",
            "0000:+1:00.0",
            "../../x",
        ] {
            assert!(text.parse::<PciAddress>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_safe(text in ".{0,40}") {
            if let Ok(address) = text.parse::<PciAddress>() {
                prop_assert_eq!(address.to_string(), text.to_lowercase());
            }
        }
    }
}
