//! Ways to fail, each seen in the field or documented for hardware.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// What is wrong with the device. The default is nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Faults {
    /// The firmware knows no protected PCIe: knob 45 and its permission answer 0x1E3.
    pub no_ppcie: bool,
    /// These knobs may not be written by the host. Which code hardware refuses with is not documented; here
    /// it is 0xA0.
    pub locked: BTreeSet<u16>,
    /// Requests for these knobs are refused with a code.
    pub knob_errors: BTreeMap<u16, u32>,
    /// Every request is refused with this code.
    pub every_error: Option<u32>,
    /// Every write of a knob is refused with this code; reads are answered.
    pub write_error: Option<u32>,
    /// What is wrong with replies.
    pub reply: Option<ReplyFault>,
    /// What is wrong with the mailbox.
    pub mailbox: Option<MailboxFault>,
    /// What is wrong with boots.
    pub boot: Option<BootFault>,
    /// The firewall stays up after resets.
    pub firewall_stuck: bool,
    /// What is wrong with the identity register, and with all that it stands for.
    pub identity: Option<IdentityFault>,
    /// It does not leave D3.
    pub stays_asleep: bool,
    /// The capabilities of extended configuration space are hidden, as a hypervisor may do.
    pub capabilities_hidden: bool,
    /// Resets do not make settings active.
    pub not_latched: bool,
    /// The mode's register has this value, whatever the settings.
    pub mode_word: Option<u32>,
    /// These bits are set in the mode's register, too.
    pub mode_extra: u32,
    /// The firmware says that it recovers, in the register for it.
    pub recovers: bool,
}

/// What can be wrong with a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplyFault {
    /// It never comes.
    Lost,
    /// It comes so many milliseconds late.
    Late(u64),
    /// It ends after four words.
    Short,
    /// It is another type of message.
    OtherType,
    /// It answers another type of request.
    OtherRequest,
    /// It has one word too many.
    Long,
}

/// What can be wrong with the mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MailboxFault {
    /// It never takes a message.
    NotReady,
    /// It reports an error for every message.
    Error,
}

/// What can be wrong with a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootFault {
    /// It never ends.
    Never,
    /// As [`Self::Never`], until the next reset.
    UntilReset,
    /// The boot register is not reachable meanwhile (0xBADFxxxx), as it is for a while on Blackwell.
    Blocked,
}

/// What can be wrong with the identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdentityFault {
    /// Locked down after a security fault; every register reads 0xBADF0200. A cold reset clears it.
    SecurityFault,
    /// 0: Hopper's recovery mode.
    Recovery,
    /// All-ones, on BAR0 only.
    AllOnes,
    /// Off its bus: all-ones everywhere.
    Gone,
}
