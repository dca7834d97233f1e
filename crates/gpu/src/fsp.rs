//! Requests to the GPU's firmware security processor (FSP), which owns the persistent settings.
//!
//! One packet, one reply, over one of two transports with the same packets. There are no sequence numbers:
//! a reply that somebody else left behind would be taken for ours, so the queues are emptied before the
//! first request, and exactly one request is under way at a time.
//!
//! Formats: `fsp_nvdm_format.h`, `fsp_mctp_format.h` and `dev_fsp_pri.h` of NVIDIA's open GPU kernel modules
//! (595.45.04), gpu-admin-tools (2025.11.21).

mod emem;
mod mnoc;
mod packet;

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::chip::Family;
use crate::knob::Knob;
use crate::registers::{At, Registers, Word};

/// What can go wrong with a request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused an access.
    #[error("the kernel refused an access to its registers")]
    Access(#[from] std::io::Error),
    /// A register of the transport did not answer with content.
    #[error("{at} reads {word}; the firmware processor is blocked or has not booted")]
    Unreadable {
        /// Which.
        at: At,
        /// What came instead.
        word: Word,
    },
    /// The firmware does not take the request.
    #[error("the firmware did not take a request within {limit:?} ({state}); reset the GPU")]
    NotTaken {
        /// How long we waited.
        limit: Duration,
        /// The transport's registers.
        state: String,
    },
    /// No reply.
    #[error("no reply within {limit:?} ({state}); reset the GPU before asking again")]
    NoReply {
        /// How long we waited.
        limit: Duration,
        /// The transport's registers.
        state: String,
    },
    /// Each answer came in time, all together did not.
    #[error("its answers took {limit:?} together, and {request} was still to come; reset the GPU")]
    TooSlow {
        /// How long all may take.
        limit: Duration,
        /// What was not asked any more.
        request: Request,
    },
    /// A chip that is not known.
    #[error("no firmware processor is known on this chip")]
    NoProcessor,
    /// The mailbox's error bit.
    #[error("the mailbox reports an error ({info:#010x})")]
    Mailbox {
        /// Its info register.
        info: u32,
    },
    /// Head and tail, or a size, that no message can have.
    #[error("the firmware announces a message that cannot be: {state}")]
    Announcement {
        /// The transport's registers.
        state: String,
    },
    /// A reply of less than five words.
    #[error("the reply has {words} words, 5 at least were due")]
    Short {
        /// How many came.
        words: usize,
    },
    /// Something else than a reply.
    #[error("word {index} of the reply is {found:#010x}; this is no reply to a settings request")]
    Foreign {
        /// Which word is wrong.
        index: usize,
        /// Its value.
        found: u32,
    },
    /// A reply with too little or too much behind it.
    #[error("the reply carries {found} words, {expected} were due")]
    Payload {
        /// Due.
        expected: usize,
        /// Came.
        found: usize,
    },
    /// The firmware says no.
    #[error("the firmware refused {request}: {code}")]
    Refused {
        /// What was asked.
        request: Request,
        /// Its answer.
        code: Code,
    },
}

/// A request, as errors name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Read a knob.
    Read(Knob),
    /// Write a knob.
    Write(Knob, u16),
}

impl Request {
    /// The payload: sub-message, size of the value in bytes, knob id; then the value.
    fn words(self) -> Vec<u32> {
        const READ: u32 = 0x0c;
        const WRITE: u32 = 0x0d;
        let first = |sub: u32, knob: Knob| sub | 2 << 8 | u32::from(knob.0) << 16;
        match self {
            Self::Read(knob) => vec![first(READ, knob)],
            Self::Write(knob, value) => vec![first(WRITE, knob), value.into()],
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(knob) => write!(f, "to read {knob}"),
            Self::Write(knob, value) => write!(f, "to write {value} to {knob}"),
        }
    }
}

/// The firmware's error codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// 0x1E3.
    UnknownKnob,
    /// 0x9E.
    InvalidState,
    /// 0x9F.
    NotFound,
    /// 0xA0.
    NotSupported,
    /// 0xA1.
    InvalidData,
    /// 0x202: seen in the field for every settings request of one GPU, not explained by NVIDIA.
    Unexplained202,
    /// Any other.
    Other(u32),
}

impl Code {
    /// What a code means; 0 means success and is none.
    const fn of(code: u32) -> Option<Self> {
        Some(match code {
            0 => return None,
            0x1e3 => Self::UnknownKnob,
            0x9e => Self::InvalidState,
            0x9f => Self::NotFound,
            0xa0 => Self::NotSupported,
            0xa1 => Self::InvalidData,
            0x202 => Self::Unexplained202,
            other => Self::Other(other),
        })
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKnob => f.write_str("this firmware has no such setting (0x1e3)"),
            Self::InvalidState => f.write_str("the InfoROM's file system is in a wrong state (0x9e)"),
            Self::NotFound => f.write_str("not found in the InfoROM (0x9f)"),
            Self::NotSupported => f.write_str("not supported (0xa0)"),
            Self::InvalidData => f.write_str("the InfoROM's data are invalid (0xa1)"),
            Self::Unexplained202 => f.write_str(
                "code 0x202, which NVIDIA does not explain (gpu-admin-tools issue 13); try another VBIOS",
            ),
            Self::Other(code) => write!(f, "code {code:#x}"),
        }
    }
}

/// Which way packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    /// Queues in the FSP's external memory: Hopper, NVSwitch.
    Emem,
    /// A mailbox: Blackwell.
    Mnoc,
}

/// A conversation with a GPU's firmware. There may be several between a boot and the next reset.
#[derive(Debug)]
pub struct Fsp<'a> {
    registers: &'a mut dyn Registers,
    transport: Transport,
    waited: &'a mut Waited,
}

/// How long a GPU's firmware was waited for since its boot, in all conversations.
#[derive(Debug, Default)]
pub struct Waited(Duration);

/// How long a firmware may be waited for altogether: no request is made after. Hardware answers all that is asked within
/// 150 ms; a firmware that takes seconds for each answer would hold up a pod for minutes, since every single one is in time.
const CONVERSATION: Duration = Duration::from_secs(20);

impl<'a> Fsp<'a> {
    /// Empties the queues and begins. The firmware must have booted; `waited` is of all conversations since.
    ///
    /// # Errors
    /// Registers that cannot be read.
    pub async fn open(
        registers: &'a mut dyn Registers,
        family: Family,
        waited: &'a mut Waited,
    ) -> Result<Self, Error> {
        let transport = match family {
            Family::Hopper | Family::NvSwitch => Transport::Emem,
            Family::Blackwell1 | Family::Blackwell2 | Family::Rubin => Transport::Mnoc,
            Family::Other => return Err(Error::NoProcessor),
        };
        let mut fsp = Self { registers, transport, waited };
        let begun = Instant::now();
        let cleared = fsp.clear().await;
        fsp.waited.0 += begun.elapsed();
        cleared.map(|()| fsp)
    }

    /// A knob's value.
    ///
    /// # Errors
    /// The firmware refused, or the exchange failed.
    pub async fn read_knob(&mut self, knob: Knob) -> Result<u16, Error> {
        let payload = self.request(Request::Read(knob), 1).await?;
        // The upper half is garbage.
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is wanted")]
        let value = payload[0] as u16;
        Ok(value)
    }

    /// Writes a knob, whether or not it has the value already.
    ///
    /// # Errors
    /// The firmware refused, or the exchange failed.
    pub async fn write_knob(&mut self, knob: Knob, value: u16) -> Result<(), Error> {
        self.request(Request::Write(knob, value), 0).await.map(drop)
    }

    async fn request(&mut self, request: Request, due: usize) -> Result<Vec<u32>, Error> {
        if self.waited.0 >= CONVERSATION {
            return Err(Error::TooSlow { limit: CONVERSATION, request });
        }
        let begun = Instant::now();
        let reply = self.exchange(&packet::encode(&request.words())).await;
        if matches!(reply, Err(Error::NoReply { .. } | Error::NotTaken { .. })) {
            // A late reply must not be taken for the answer to the next request.
            let _ = self.clear().await;
        }
        self.waited.0 += begun.elapsed();
        packet::decode(&reply?, request, due)
    }

    async fn exchange(&mut self, packet: &[u32]) -> Result<Vec<u32>, Error> {
        match self.transport {
            Transport::Emem => emem::exchange(self.registers, packet).await,
            Transport::Mnoc => mnoc::exchange(self.registers, packet).await,
        }
    }

    async fn clear(&mut self) -> Result<(), Error> {
        match self.transport {
            Transport::Emem => emem::clear(self.registers).await,
            Transport::Mnoc => mnoc::clear(self.registers).await,
        }
    }
}

/// A register of BAR0 that must hold content.
fn read(registers: &mut dyn Registers, offset: u32) -> Result<u32, Error> {
    let at = At::Bar0(offset);
    let word = registers.read32(at)?;
    word.data().ok_or(Error::Unreadable { at, word })
}

#[cfg(test)]
mod tests;
