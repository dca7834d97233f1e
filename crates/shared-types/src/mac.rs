//! Ethernet addresses.

use std::fmt;
use std::net::Ipv6Addr;

/// A 48-bit Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The link-local address that a kernel derives from it (RFC 4291, appendix A).
    #[must_use]
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        let words = [(u16::from(a ^ 2) << 8) | u16::from(b), (u16::from(c) << 8) | 0xff];
        Ipv6Addr::new(0xfe80, 0, 0, 0, words[0], words[1], 0xfe00 | u16::from(d), u16::from_be_bytes([e, f]))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The address of one interface: neither zero nor a group's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NicMac(Mac);

/// An address that no interface has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not the MAC address of one interface")]
pub struct BadMac(pub Mac);

impl TryFrom<Mac> for NicMac {
    type Error = BadMac;

    fn try_from(mac: Mac) -> Result<Self, BadMac> {
        if mac.0 == [0; 6] || mac.0[0] & 1 != 0 { Err(BadMac(mac)) } else { Ok(Self(mac)) }
    }
}

impl fmt::Display for NicMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_is_the_modified_eui_64() {
        let mac = Mac([0x0a, 0x58, 0x0a, 0xf4, 0x00, 0x05]);
        assert_eq!(mac.link_local(), "fe80::858:aff:fef4:5".parse::<Ipv6Addr>().unwrap());
        assert_eq!(mac.to_string(), "0a:58:0a:f4:00:05");
    }

    #[test]
    fn only_interface_addresses_are_taken() {
        for bad in [Mac([0; 6]), Mac([0xff; 6]), Mac([0x01, 0x00, 0x5e, 0x00, 0x00, 0x01])] {
            assert_eq!(NicMac::try_from(bad), Err(BadMac(bad)));
        }
        let nic = NicMac::try_from(Mac([2, 0, 0, 0, 0, 1])).unwrap();
        assert_eq!(nic.to_string(), "02:00:00:00:00:01");
    }
}
