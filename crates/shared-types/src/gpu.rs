//! NVIDIA's devices: what they are, and in which mode they run.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What an NVIDIA device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NvidiaKind {
    /// A GPU: PCI class 0x0302 (3D) or 0x0300 (VGA).
    Gpu,
    /// An NVSwitch: "other bridge", PCI class 0x0680. Not to be mixed up with a host bridge, 0x0600.
    NvSwitch,
}

impl NvidiaKind {
    /// By the PCI class, its programming interface included: three bytes.
    #[must_use]
    pub const fn of_class(class: u32) -> Option<Self> {
        match class >> 8 {
            0x0300 | 0x0302 => Some(Self::Gpu),
            0x0680 => Some(Self::NvSwitch),
            _ => None,
        }
    }
}

impl fmt::Display for NvidiaKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gpu => "GPU",
            Self::NvSwitch => "NVSwitch",
        })
    }
}

/// In which confidential-computing mode a GPU or NVSwitch runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GpuMode {
    /// No confidential computing.
    Off,
    /// Confidential computing.
    On,
    /// Confidential computing with debugging: not confidential.
    Devtools,
    /// Protected PCIe: a whole Hopper board in one VM, NVLink unencrypted. GPUs and NVSwitches.
    Ppcie,
}

impl GpuMode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Off, Self::On, Self::Devtools, Self::Ppcie];

    /// The name in the node's configuration, on the command line and in logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Devtools => "devtools",
            Self::Ppcie => "ppcie",
        }
    }

    /// The mode of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }

    /// What that means, for a message.
    #[must_use]
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::Off => "confidential computing off",
            Self::On => "confidential computing on",
            Self::Devtools => "confidential computing open to debuggers (devtools)",
            Self::Ppcie => "protected PCIe",
        }
    }
}

impl fmt::Display for GpuMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who writes the mode of a node's GPUs, as its configuration says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModePolicy {
    /// Somebody else: it is read, and a wrong one is refused.
    Verify,
    /// Coffer, as each pod needs it, unless NVIDIA's cc-manager runs.
    Manage,
}

impl ModePolicy {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Verify, Self::Manage];

    /// The name in the node's configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Manage => "manage",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modes_name_is_read_back() {
        for mode in GpuMode::ALL {
            assert_eq!(GpuMode::from_name(&mode.to_string()), Some(mode));
            assert_eq!(format!("{:?}", mode.name()), serde_name(mode));
        }
        assert_eq!(GpuMode::from_name("On"), None);
    }

    /// The name in records, which is the same.
    fn serde_name(mode: GpuMode) -> String {
        serde_json::to_string(&mode).unwrap()
    }
}
