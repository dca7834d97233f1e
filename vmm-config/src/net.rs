//! Network addresses as the guest's interfaces have them.

use std::fmt;
use std::str::FromStr;

/// An Ethernet address of one interface: neither zero nor a group address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress([u8; 6]);

/// Not the address of one interface.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given} is no MAC address of an interface")]
pub struct BadMac {
    /// What was given.
    pub given: String,
}

impl MacAddress {
    /// From the address's bytes.
    ///
    /// # Errors
    /// [`BadMac`] for zero and for group addresses.
    pub fn new(bytes: [u8; 6]) -> Result<Self, BadMac> {
        let address = Self(bytes);
        if bytes == [0; 6] || bytes[0] & 1 != 0 {
            return Err(BadMac { given: address.to_string() });
        }
        Ok(address)
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let bad = || BadMac { given: text.chars().take(40).collect() };
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2 && !p.starts_with('+')).ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() {
            return Err(bad());
        }
        Self::new(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_interface_addresses_are_taken() {
        for bad in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "2:0:0:0:0:1",
            "+2:00:00:00:00:01",
            "0x:00:00:00:00:01",
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
            "01:00:5e:00:00:01",
        ] {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn text_and_bytes_agree(mut bytes: [u8; 6]) {
            bytes[0] = bytes[0] & 0xfe | 2;
            let mac = MacAddress::new(bytes).unwrap();
            prop_assert_eq!(mac.to_string().parse(), Ok(mac));
        }
    }
}
