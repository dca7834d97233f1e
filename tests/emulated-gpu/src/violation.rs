//! What no well-behaved driver does.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One offence. Offsets and addresses are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "violation", rename_all = "kebab-case")]
#[expect(missing_docs, reason = "Display says it")]
pub enum Violation {
    Width { region: u32, offset: u64, size: usize },
    Outside { region: u32, offset: u64 },
    NotAnswering { offset: u32 },
    BeforeBoot { offset: u32 },
    Overlap { channel: usize },
    Window { channel: usize, offset: u32 },
    Pointers { channel: usize, head: u32, tail: u32 },
    MailboxNotReady,
    MailboxOverrun,
    MailboxUnderrun,
    Packet { reason: String },
    LockedKnob { knob: u16 },
    UselessWrite { knob: u16, value: u16 },
    DevtoolsAlone,
    ModesAtOnce,
    ConflictingFeature { knob: u16 },
    DmaWithoutBusMaster { address: u64 },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Width { region, offset, size } => {
                write!(
                    f,
                    "{size} bytes at {offset:#x} of region {region}: registers are 4 bytes wide and aligned"
                )
            }
            Self::Outside { region, offset } => write!(f, "{offset:#x} is outside of region {region}"),
            Self::NotAnswering { offset } => {
                write!(f, "BAR0 {offset:#x} accessed while asleep or with memory space disabled")
            }
            Self::BeforeBoot { offset } => {
                write!(f, "firmware processor's {offset:#x} used before it booted")
            }
            Self::Overlap { channel } => {
                write!(f, "channel {channel}: a command before the reply to the one before was taken")
            }
            Self::Window { channel, offset } => {
                write!(f, "window {channel} used at {offset:#x}, outside of its channel")
            }
            Self::Pointers { channel, head, tail } => {
                write!(f, "channel {channel}: head {head:#x} and tail {tail:#x} are no message")
            }
            Self::MailboxNotReady => f.write_str("mailbox triggered while it was not ready"),
            Self::MailboxOverrun => f.write_str("more words into the mailbox than were announced"),
            Self::MailboxUnderrun => f.write_str("more words out of the mailbox than were there"),
            Self::Packet { reason } => write!(f, "packet: {reason}"),
            Self::LockedKnob { knob } => write!(f, "knob {knob} written although it is locked"),
            Self::UselessWrite { knob, value } => write!(f, "knob {knob} has value {value} already"),
            Self::DevtoolsAlone => f.write_str("devtools set without confidential computing"),
            Self::ModesAtOnce => f.write_str("reset with confidential computing and protected PCIe both set"),
            Self::ConflictingFeature { knob } => {
                write!(f, "reset with a mode and conflicting feature {knob} set")
            }
            Self::DmaWithoutBusMaster { address } => write!(f, "DMA to {address:#x} without bus mastering"),
        }
    }
}
