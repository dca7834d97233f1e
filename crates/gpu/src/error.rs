//! What can go wrong with one GPU.

use std::io;
use std::time::Duration;

use crate::boot::FspScratch;
use crate::chip::{Chip, DeviceId};
use crate::knob::Knob;
use crate::registers::{At, Word};
use crate::{Mode, PciAddress, Phase, fsp, mode};

/// Which GPU, in which phase, and why.
#[derive(Debug, thiserror::Error)]
#[error("GPU {gpu}: {phase} failed after {:.1} s", .elapsed.as_secs_f32())]
pub struct Failure {
    /// The GPU or NVSwitch.
    pub gpu: PciAddress,
    /// What was being done.
    pub phase: Phase,
    /// How long that had been going on.
    pub elapsed: Duration,
    /// Why.
    #[source]
    pub cause: Cause,
}

/// Why, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The kernel refused an access.
    #[error("the kernel refused an access to its registers")]
    Access(#[source] io::Error),
    /// A register did not answer with content.
    #[error("{at} reads {word}; reset the GPU, and the host if that does not help")]
    Unreadable {
        /// Which.
        at: At,
        /// What came instead.
        word: Word,
    },
    /// Configuration space or BAR0 reads all-ones although the function is awake.
    #[error("nothing answers at {at}: the GPU is off its bus; the host needs a restart")]
    Gone {
        /// Where.
        at: At,
    },
    /// It does not leave D3.
    #[error(
        "it stays in power state D{state}; write \"on\" to power/control and 0 to d3cold_allowed in its \
         sysfs folder, and check for a BIOS setting"
    )]
    Asleep {
        /// 1 to 3.
        state: u8,
    },
    /// It has locked itself down.
    #[error(
        "it has locked itself down after a security fault (BOOT_0 {word}, reason {}); only switching the \
         machine's power off and on clears this", reason_text(.reason)
    )]
    SecurityFault {
        /// `PMC_BOOT_0`.
        word: Word,
        /// The reason word of its configuration space, where there is one.
        reason: Option<u32>,
    },
    /// Its firmware is in recovery mode.
    #[error("its firmware is in recovery mode ({at} reads {word:#x}); its VBIOS must be flashed again")]
    Recovery {
        /// What says so.
        at: At,
        /// With which value.
        word: u32,
    },
    /// The firewall before BAR0 stays up.
    #[error(
        "the firewall before its BAR0 was still up after {} s; its firmware did not get that far: reset it",
        .limit.as_secs()
    )]
    FirewallUp {
        /// How long we waited.
        limit: Duration,
    },
    /// The firmware does not finish booting.
    #[error(
        "its firmware had not booted after {} s (boot register {last}, {scratch}); reset it, and suspect its \
         VBIOS if that does not help", .limit.as_secs()
    )]
    NotBooted {
        /// How long we waited.
        limit: Duration,
        /// The boot register at the end.
        last: Word,
        /// What the firmware left behind.
        scratch: FspScratch,
    },
    /// The device id names another chip than the GPU itself.
    #[error("it says of itself that it is chip {boot0:#010x}, its PCI device id says {chip}")]
    OtherChip {
        /// By device id.
        chip: Chip,
        /// `PMC_BOOT_0`.
        boot0: u32,
    },
    /// A device id outside all ranges, and a mode other than off.
    #[error(
        "device id {0} is no chip that Coffer knows, so that it goes to a plain VM only; confidential computing needs \
         Hopper or newer"
    )]
    UnknownChip(DeviceId),
    /// The firmware's answer to a request.
    #[error("its firmware processor (FSP) did not do what it was asked for")]
    Fsp(#[source] fsp::Error),
    /// Settings that must change cannot be changed from the host.
    #[error(
        "these settings are locked against the host: {}; whoever manages its BMC must allow in-band control",
        names(.knobs)
    )]
    Locked {
        /// All of them.
        knobs: Vec<Knob>,
    },
    /// The mode does not exist on this GPU.
    #[error("mode {mode} is not to be had: {reason}")]
    Unsupported {
        /// What was wanted.
        mode: Mode,
        /// Why not.
        reason: &'static str,
    },
    /// The active mode is none that exists.
    #[error("{0}; set a mode again and reset the GPU")]
    InvalidMode(mode::InvalidMode),
    /// The active mode is another than the wanted one.
    #[error(
        "its active mode is {active} (register {word:#x}), wanted is {wanted}; set the mode, or suspect its \
         VBIOS if it was just set"
    )]
    WrongMode {
        /// Wanted.
        wanted: Mode,
        /// Active.
        active: Mode,
        /// The whole register.
        word: u32,
    },
    /// The next reset, and opening it for a VM is one, would bring another mode.
    #[error(
        "its active mode is {active}, but its next reset would make it {pending}; somebody has set that mode \
         and not reset it: set the mode again"
    )]
    Pending {
        /// Active.
        active: Mode,
        /// What its settings say, as far as they say anything that exists.
        pending: PendingMode,
    },
    /// Its memory is not wiped.
    #[error("its memory was not scrubbed within 5 s; reset it before anybody else gets it")]
    NotScrubbed,
    /// The reset failed.
    #[error("the kernel could not reset it; if it stays so, the host needs a restart")]
    Reset(#[source] io::Error),
}

impl Cause {
    /// Whether the GPU itself is well: it was found in another mode, or another mode is not to be had.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Locked { .. }
                | Self::Unsupported { .. }
                | Self::UnknownChip(_)
                | Self::WrongMode { .. }
                | Self::Pending { .. }
        )
    }

    /// Whether its firmware hangs in a way that a reset may end.
    #[must_use]
    pub const fn may_end_by_reset(&self) -> bool {
        matches!(self, Self::NotBooted { .. } | Self::FirewallUp { .. } | Self::Unreadable { .. })
    }
}

/// What persistent settings will make of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PendingMode {
    /// A mode.
    Mode(Mode),
    /// A combination that is no mode.
    None,
}

impl std::fmt::Display for PendingMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mode(mode) => mode.fmt(f),
            Self::None => f.write_str("none that exists"),
        }
    }
}

impl From<io::Error> for Cause {
    fn from(source: io::Error) -> Self {
        Self::Access(source)
    }
}

impl From<mode::InvalidMode> for Cause {
    fn from(source: mode::InvalidMode) -> Self {
        Self::InvalidMode(source)
    }
}

impl From<fsp::Error> for Cause {
    fn from(source: fsp::Error) -> Self {
        Self::Fsp(source)
    }
}

fn reason_text(reason: &Option<u32>) -> String {
    reason.map_or_else(|| "unreadable".to_owned(), |word| format!("{word:#010x}"))
}

fn names(knobs: &[Knob]) -> String {
    knobs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
