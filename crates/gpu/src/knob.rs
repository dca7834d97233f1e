//! The persistent settings ("PRC knobs") that the firmware keeps in the GPU's InfoROM.
//!
//! Ids follow gpu-admin-tools. A knob becomes active at the next reset. The knob with the id before it says
//! whether the host may write it ("allow in-band control").

use std::fmt;

/// A knob's id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Knob(pub u16);

impl Knob {
    /// A feature that NVIDIA's tool does not name; excludes confidential computing. Hopper and NVSwitch only.
    pub(crate) const FEATURE_2: Self = Self(2);
    /// As [`Self::FEATURE_2`].
    pub(crate) const FEATURE_4: Self = Self(4);
    /// As [`Self::FEATURE_2`].
    pub(crate) const FEATURE_34: Self = Self(34);
    /// Devtools mode: confidential computing with debugging.
    pub(crate) const CCD: Self = Self(6);
    /// Confidential computing.
    pub const CCM: Self = Self(8);
    /// The firewall inside BAR0: 0 off, 2 on.
    pub(crate) const BAR0_DECOUPLER: Self = Self(10);
    /// Protected PCIe.
    pub const PPCIE: Self = Self(45);

    /// The knob that says whether the host may write this one.
    #[must_use]
    pub const fn permission(self) -> Self {
        Self(self.0.wrapping_sub(1))
    }
}

impl fmt::Display for Knob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::CCD => "CCD (devtools)",
            Self::CCM => "CCM (confidential computing)",
            Self::BAR0_DECOUPLER => "BAR0_DECOUPLER",
            Self::PPCIE => "PPCIE",
            Self(id) => return write!(f, "knob {id}"),
        };
        write!(f, "{name}, knob {}", self.0)
    }
}

impl fmt::Debug for Knob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
