//! Transport of Hopper and NVSwitch: a window into the FSP's memory and two pairs of head and tail.
//!
//! Heads and tails are byte offsets in that memory; a tail points at the last word, not behind it; a queue
//! is empty when both are equal.

use super::{Error, read};
use crate::registers::{At, Registers};
use crate::wait::{Pace, poll};

/// Channel 2 is for tools; 0 is the driver's, 1 for manufacturing.
const CHANNEL: u32 = 2;
/// Where the channel's share of the memory begins, bytes, and how long it is.
const BASE: u32 = 1024 * CHANNEL;
const SIZE: u32 = 1024;

const WINDOW_CONTROL: u32 = 0x8f_2ac0 + 8 * CHANNEL;
const WINDOW_DATA: u32 = 0x8f_2ac4 + 8 * CHANNEL;
/// From us.
const QUEUE_HEAD: u32 = 0x8f_2c00 + 8 * CHANNEL;
const QUEUE_TAIL: u32 = 0x8f_2c04 + 8 * CHANNEL;
/// To us.
const MESSAGE_HEAD: u32 = 0x8f_2c80 + 8 * CHANNEL;
const MESSAGE_TAIL: u32 = 0x8f_2c84 + 8 * CHANNEL;

/// The window at the channel's beginning, moving on with every write (bit 24) and read (bit 25).
const WINDOW: u32 = BASE | 1 << 24 | 1 << 25;

const TAKEN: Pace = Pace::millis(1, 1_000);
/// NVIDIA's tool looks every 10 ms; replies come sooner.
const REPLY: Pace = Pace::millis(1, 5_000);

/// Forgets what is in the queues: a reply to somebody who is gone.
pub(super) async fn clear(registers: &mut dyn Registers) -> Result<(), Error> {
    let pending = queue(registers)?;
    if messages(registers)?.is_none() {
        if pending.is_none() {
            return Ok(());
        }
        // A request is under way: its reply is waited for, so that it does not come later.
        poll(REPLY, || messages(registers)).await?;
    }
    for register in [QUEUE_TAIL, QUEUE_HEAD, MESSAGE_TAIL, MESSAGE_HEAD] {
        registers.write32(At::Bar0(register), BASE)?;
    }
    Ok(())
}

pub(super) async fn exchange(registers: &mut dyn Registers, packet: &[u32]) -> Result<Vec<u32>, Error> {
    send(registers, packet).await?;
    receive(registers).await
}

async fn send(registers: &mut dyn Registers, packet: &[u32]) -> Result<(), Error> {
    let free = poll(TAKEN, || {
        if queue(registers)?.is_none() {
            return Ok::<_, Error>(Some(()));
        }
        if let Some((head, _)) = messages(registers)? {
            // Nobody waits for it, and the firmware may wait for it to be taken.
            acknowledge(registers, head)?;
        }
        Ok(None)
    });
    if free.await?.is_none() {
        return Err(Error::NotTaken { limit: TAKEN.limit, state: state(registers)? });
    }
    registers.write32(At::Bar0(WINDOW_CONTROL), WINDOW)?;
    let mut tail = BASE;
    for (index, word) in (0..).zip(packet) {
        registers.write32(At::Bar0(WINDOW_DATA), *word)?;
        tail = BASE + 4 * index;
    }
    // The head is the doorbell, so it comes last.
    registers.write32(At::Bar0(QUEUE_TAIL), tail)?;
    registers.write32(At::Bar0(QUEUE_HEAD), BASE)?;
    Ok(())
}

/// Head and tail are two registers: a pair that makes no message may have been read, or written, half-way.
async fn receive(registers: &mut dyn Registers) -> Result<Vec<u32>, Error> {
    let mut last = None;
    let look = || {
        last = messages(registers)?;
        Ok::<_, Error>(last.filter(|(head, tail)| is_message(*head, *tail)))
    };
    if let Some((head, tail)) = poll(REPLY, look).await? {
        let reply = copy(registers, head, tail);
        acknowledge(registers, head)?;
        return reply;
    }
    let state = state(registers)?;
    let Some((head, _)) = last else { return Err(Error::NoReply { limit: REPLY.limit, state }) };
    // Acknowledged although it makes no sense: the next request needs the queue.
    acknowledge(registers, head)?;
    Err(Error::Announcement { state })
}

fn is_message(head: u32, tail: u32) -> bool {
    head == BASE && tail > head && tail < BASE + SIZE && tail.is_multiple_of(4)
}

fn copy(registers: &mut dyn Registers, head: u32, tail: u32) -> Result<Vec<u32>, Error> {
    registers.write32(At::Bar0(WINDOW_CONTROL), WINDOW)?;
    (head..=tail).step_by(4).map(|_| Ok(registers.read32(At::Bar0(WINDOW_DATA))?.bits())).collect()
}

fn acknowledge(registers: &mut dyn Registers, head: u32) -> Result<(), Error> {
    Ok(registers.write32(At::Bar0(MESSAGE_TAIL), head)?)
}

/// Head and tail of requests that the firmware has not taken.
fn queue(registers: &mut dyn Registers) -> Result<Option<(u32, u32)>, Error> {
    pair(registers, QUEUE_HEAD, QUEUE_TAIL)
}

/// Head and tail of a message that we have not taken.
fn messages(registers: &mut dyn Registers) -> Result<Option<(u32, u32)>, Error> {
    pair(registers, MESSAGE_HEAD, MESSAGE_TAIL)
}

fn pair(registers: &mut dyn Registers, head: u32, tail: u32) -> Result<Option<(u32, u32)>, Error> {
    let (head, tail) = (read(registers, head)?, read(registers, tail)?);
    Ok((head != tail).then_some((head, tail)))
}

fn state(registers: &mut dyn Registers) -> Result<String, Error> {
    let mut read = |offset| read(registers, offset);
    Ok(format!(
        "queue {:#x}/{:#x}, messages {:#x}/{:#x}",
        read(QUEUE_HEAD)?,
        read(QUEUE_TAIL)?,
        read(MESSAGE_HEAD)?,
        read(MESSAGE_TAIL)?
    ))
}
