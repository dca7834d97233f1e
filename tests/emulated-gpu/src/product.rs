//! What is played, and where it has its registers.

use serde::{Deserialize, Serialize};

/// A product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Product {
    /// H100 SXM5 80GB, GH100.
    H100,
    /// H200 SXM 141GB, GH100.
    H200,
    /// B200, GB100.
    B200,
    /// RTX PRO 6000 Blackwell Server Edition, GB202.
    RtxPro6000,
    /// Rubin. Its architecture number is not published; here it is the next one.
    Rubin,
    /// A100, GA100: before confidential computing. Nothing of its firmware is played.
    A100,
    /// The NVSwitch of Hopper boards, LS10.
    Nvswitch,
}

/// How the host talks to its firmware processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Queues,
    Mailbox,
}

/// In which capability the state of the firewall before BAR0 is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Firewall {
    None,
    /// DVSEC 10de/0, offset 8, bit 20.
    Designated,
    /// VSEC 1/1, offset 0x14, bit 24.
    VendorSpecific,
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

impl Product {
    pub(crate) const fn device_id(self) -> u16 {
        match self {
            Self::H100 => 0x2330,
            Self::H200 => 0x2335,
            Self::B200 => 0x2901,
            Self::RtxPro6000 => 0x2bb5,
            Self::Rubin => 0x3000,
            Self::A100 => 0x20b0,
            Self::Nvswitch => 0x22a3,
        }
    }

    pub(crate) const fn subsystem_id(self) -> u16 {
        match self {
            Self::H100 => 0x16c1,
            Self::H200 => 0x18be,
            Self::B200 => 0x1999,
            Self::RtxPro6000 => 0x204e,
            // Not known.
            Self::Rubin => 0x0001,
            Self::A100 => 0x134f,
            Self::Nvswitch => 0x1796,
        }
    }

    pub(crate) const fn class(self) -> u32 {
        match self {
            Self::Nvswitch => 0x06_8000,
            _ => 0x03_0200,
        }
    }

    /// `PMC_BOOT_0`.
    pub(crate) const fn boot_0(self) -> u32 {
        match self {
            Self::H100 | Self::H200 => 0x1800_00a1,
            Self::B200 => 0x1a00_00a1,
            Self::RtxPro6000 => 0x1b20_00a1,
            Self::Rubin => 0x1c00_00a1,
            Self::A100 => 0x1700_00a1,
            Self::Nvswitch => 0x0070_00a1,
        }
    }

    /// `PMC_BOOT_42`: the same identity, laid out for longer chip numbers.
    pub(crate) const fn boot_42(self) -> u32 {
        let chip = match self {
            Self::H100 | Self::H200 => 0x180,
            Self::B200 => 0x1a0,
            Self::RtxPro6000 => 0x1b2,
            Self::Rubin => 0x1c0,
            Self::A100 => 0x170,
            Self::Nvswitch => 0x007,
        };
        chip << 20 | 0xa_1000
    }

    /// BAR sizes in bytes by their index; 0 for none. BAR 0 has registers, BAR 2 memory.
    pub(crate) const fn bars(self) -> [u64; 3] {
        match self {
            Self::H100 | Self::RtxPro6000 | Self::A100 => [16 * MIB, 128 * GIB, 32 * MIB],
            Self::H200 | Self::B200 | Self::Rubin => [16 * MIB, 256 * GIB, 32 * MIB],
            Self::Nvswitch => [32 * MIB, 0, 0],
        }
    }

    pub(crate) const fn transport(self) -> Transport {
        match self {
            Self::H100 | Self::H200 | Self::Nvswitch | Self::A100 => Transport::Queues,
            Self::B200 | Self::RtxPro6000 | Self::Rubin => Transport::Mailbox,
        }
    }

    pub(crate) const fn firewall(self) -> Firewall {
        match self {
            Self::H100 | Self::H200 | Self::Nvswitch | Self::A100 => Firewall::None,
            Self::B200 | Self::Rubin => Firewall::Designated,
            Self::RtxPro6000 => Firewall::VendorSpecific,
        }
    }

    pub(crate) const fn boot_register(self) -> u32 {
        match self {
            Self::H100 | Self::H200 | Self::B200 | Self::A100 => 0x2_00bc,
            Self::RtxPro6000 | Self::Rubin => 0xad_00bc,
            Self::Nvswitch => 0x6_60bc,
        }
    }

    pub(crate) const fn mode_register(self) -> u32 {
        match self {
            Self::H100 | Self::H200 | Self::A100 => 0x11_82cc,
            Self::B200 | Self::RtxPro6000 | Self::Rubin => 0x590,
            Self::Nvswitch => 0x2_8c50,
        }
    }

    pub(crate) const fn recovery_register(self) -> u32 {
        match self {
            Self::H100 | Self::H200 | Self::A100 => 0x2_0120,
            Self::B200 | Self::RtxPro6000 | Self::Rubin => 0x8a_a128,
            Self::Nvswitch => 0x6_6120,
        }
    }

    /// Reads 1 when memory is wiped after a reset.
    pub(crate) const fn scrub_register(self) -> Option<u32> {
        match self {
            Self::H100 | Self::H200 => Some(0x10_0b20),
            Self::B200 | Self::RtxPro6000 | Self::Rubin => Some(0x8a_004c),
            Self::Nvswitch | Self::A100 => None,
        }
    }

    /// Whether it is Blackwell or newer.
    pub(crate) const fn is_blackwell(self) -> bool {
        matches!(self, Self::B200 | Self::RtxPro6000 | Self::Rubin)
    }
}
