//! Transport of Blackwell: a mailbox that takes and gives words, with their number announced first.

use super::{Error, read};
use crate::registers::{At, Registers};
use crate::wait::{Pace, poll};

/// Port 0 of the mailbox block: from us to the firmware.
const TO_INFO: u32 = 0x8f_1f84;
const TO_DATA: u32 = 0x8f_1f88;
/// And back.
const FROM_INFO: u32 = 0x8f_1f04;
const FROM_DATA: u32 = 0x8f_1f08;

const SIZE: u32 = 0xf_ffff;
const TRIGGER: u32 = 1 << 20;
/// Ready to take a message; or a message is there.
const READY: u32 = 1 << 24;
const ERROR: u32 = 1 << 25;
const CREDIT: u32 = 1 << 26;

/// Bytes; port 0's longest message.
const LONGEST: u32 = 4160;
/// Credit is asked for before so many words.
const CHUNK: usize = 64 / 4;
/// More messages than anybody can have left behind.
const STALE: usize = 16;

const TAKEN: Pace = Pace::millis(1, 5_000);
const ROOM: Pace = Pace::millis(1, 1_000);
const REPLY: Pace = Pace::millis(1, 5_000);

/// Takes what somebody who is gone did not take.
pub(super) async fn clear(registers: &mut dyn Registers) -> Result<(), Error> {
    for _ in 0..STALE {
        let info = read(registers, FROM_INFO)?;
        if info & READY == 0 {
            return Ok(());
        }
        take(registers, info)?;
    }
    let state = format!("more than {STALE} messages are waiting");
    Err(Error::Announcement { state })
}

pub(super) async fn exchange(registers: &mut dyn Registers, packet: &[u32]) -> Result<Vec<u32>, Error> {
    send(registers, packet).await?;
    receive(registers).await
}

/// An error bit from before is ignored: the trigger clears it.
async fn send(registers: &mut dyn Registers, packet: &[u32]) -> Result<(), Error> {
    wait_for(registers, READY, TAKEN).await?;
    let size = (0..).step_by(4).zip(packet).map(|(before, _)| before + 4).last().unwrap_or(0);
    registers.write32(At::Bar0(TO_INFO), size | TRIGGER)?;
    for chunk in packet.chunks(CHUNK) {
        wait_for(registers, CREDIT, ROOM).await?;
        for word in chunk {
            registers.write32(At::Bar0(TO_DATA), *word)?;
        }
    }
    no_error(read(registers, TO_INFO)?)
}

async fn wait_for(registers: &mut dyn Registers, bit: u32, pace: Pace) -> Result<(), Error> {
    let look = || Ok::<_, Error>((read(registers, TO_INFO)? & bit != 0).then_some(()));
    if poll(pace, look).await?.is_none() {
        return Err(Error::NotTaken { limit: pace.limit, state: state(registers)? });
    }
    Ok(())
}

async fn receive(registers: &mut dyn Registers) -> Result<Vec<u32>, Error> {
    let look = || {
        let info = read(registers, FROM_INFO)?;
        Ok::<_, Error>((info & READY != 0).then_some(info))
    };
    let Some(info) = poll(REPLY, look).await? else {
        no_error(read(registers, FROM_INFO)?)?;
        return Err(Error::NoReply { limit: REPLY.limit, state: state(registers)? });
    };
    let reply = take(registers, info)?;
    no_error(read(registers, FROM_INFO)?)?;
    Ok(reply)
}

fn take(registers: &mut dyn Registers, info: u32) -> Result<Vec<u32>, Error> {
    let size = info & SIZE;
    if size == 0 || size > LONGEST || !size.is_multiple_of(4) {
        return Err(Error::Announcement { state: state(registers)? });
    }
    (0..size / 4).map(|_| Ok(registers.read32(At::Bar0(FROM_DATA))?.bits())).collect()
}

fn no_error(info: u32) -> Result<(), Error> {
    if info & ERROR == 0 { Ok(()) } else { Err(Error::Mailbox { info }) }
}

fn state(registers: &mut dyn Registers) -> Result<String, Error> {
    Ok(format!(
        "to firmware {:#010x}, from it {:#010x}",
        read(registers, TO_INFO)?,
        read(registers, FROM_INFO)?
    ))
}
