//! The firmware processor's queues: eight channels, each with a share of 1 KiB of its external memory, an
//! auto-incrementing window, and two pairs of head and tail.

use crate::Violation;

const CHANNELS: usize = 8;
/// Words in a channel's share.
const SHARE: usize = 256;

const WINDOWS: u32 = 0x8f_2ac0;
const QUEUES: u32 = 0x8f_2c00;
const MESSAGES: u32 = 0x8f_2c80;

const STEP_ON_WRITE: u32 = 1 << 24;
const STEP_ON_READ: u32 = 1 << 25;

/// What a register belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Control(usize),
    Data(usize),
    QueueHead(usize),
    QueueTail(usize),
    MessageHead(usize),
    MessageTail(usize),
}

impl Place {
    fn of(offset: u32) -> Option<Self> {
        let pair = |base: u32| {
            let index = offset.checked_sub(base)? / 4;
            let index = usize::try_from(index).ok().filter(|index| *index < 2 * CHANNELS)?;
            Some((index / 2, index % 2))
        };
        Some(if let Some((channel, word)) = pair(WINDOWS) {
            if word == 0 { Self::Control(channel) } else { Self::Data(channel) }
        } else if let Some((channel, word)) = pair(QUEUES) {
            if word == 0 { Self::QueueHead(channel) } else { Self::QueueTail(channel) }
        } else if let Some((channel, word)) = pair(MESSAGES) {
            if word == 0 { Self::MessageHead(channel) } else { Self::MessageTail(channel) }
        } else {
            return None;
        })
    }
}

/// Byte offset at which a channel's share begins.
fn base(channel: usize) -> u32 {
    u32::try_from(channel * SHARE * 4).unwrap_or(0)
}

/// All channels.
#[derive(Debug, Clone)]
pub(crate) struct Queues {
    memory: Vec<u32>,
    control: [u32; CHANNELS],
    queue: [(u32, u32); CHANNELS],
    message: [(u32, u32); CHANNELS],
    /// A command was taken and its reply is still to come.
    waiting: [bool; CHANNELS],
}

/// A command that the host has rung the bell for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) channel: usize,
    pub(crate) packet: Vec<u32>,
}

impl Queues {
    /// As after a reset: all zero.
    pub(crate) fn new() -> Self {
        Self {
            memory: vec![0; CHANNELS * SHARE],
            control: [0; CHANNELS],
            queue: [(0, 0); CHANNELS],
            message: [(0, 0); CHANNELS],
            waiting: [false; CHANNELS],
        }
    }

    pub(crate) fn has(offset: u32) -> bool {
        Place::of(offset).is_some()
    }

    pub(crate) fn read(&mut self, offset: u32, violations: &mut Vec<Violation>) -> u32 {
        match Place::of(offset) {
            Some(Place::Control(channel)) => self.control[channel],
            Some(Place::Data(channel)) => {
                let index = self.window(channel, violations);
                self.step(channel, STEP_ON_READ);
                self.memory[index]
            }
            Some(Place::QueueHead(channel)) => self.queue[channel].0,
            Some(Place::QueueTail(channel)) => self.queue[channel].1,
            Some(Place::MessageHead(channel)) => self.message[channel].0,
            Some(Place::MessageTail(channel)) => self.message[channel].1,
            None => 0,
        }
    }

    /// The command, if the write was a doorbell's.
    pub(crate) fn write(
        &mut self,
        offset: u32,
        value: u32,
        violations: &mut Vec<Violation>,
    ) -> Option<Command> {
        match Place::of(offset)? {
            Place::Control(channel) => self.control[channel] = value,
            Place::Data(channel) => {
                let index = self.window(channel, violations);
                self.step(channel, STEP_ON_WRITE);
                self.memory[index] = value;
            }
            Place::QueueTail(channel) => self.queue[channel].1 = value,
            Place::MessageHead(channel) => self.message[channel].0 = value,
            Place::MessageTail(channel) => self.message[channel].1 = value,
            Place::QueueHead(channel) => {
                self.queue[channel].0 = value;
                return self.doorbell(channel, violations);
            }
        }
        None
    }

    fn doorbell(&mut self, channel: usize, violations: &mut Vec<Violation>) -> Option<Command> {
        let (head, tail) = self.queue[channel];
        if head == tail {
            // Emptying the queue, which is allowed only when something was left in it or in the messages.
            return None;
        }
        let (message_head, message_tail) = self.message[channel];
        if self.waiting[channel] || message_head != message_tail {
            violations.push(Violation::Overlap { channel });
        }
        let start = base(channel);
        let words = (head == start && tail > head && tail.is_multiple_of(4))
            .then(|| usize::try_from((tail - head) / 4 + 1).ok())
            .flatten()
            .filter(|words| *words <= SHARE);
        // Taken, whatever it is.
        self.queue[channel].0 = tail;
        let Some(words) = words else {
            violations.push(Violation::Pointers { channel, head, tail });
            return None;
        };
        self.waiting[channel] = true;
        let first = channel * SHARE;
        Some(Command { channel, packet: self.memory[first..first + words].to_vec() })
    }

    /// Puts a reply where the host finds it.
    pub(crate) fn deliver(&mut self, channel: usize, reply: &[u32]) {
        let first = channel * SHARE;
        self.memory[first..first + reply.len()].copy_from_slice(reply);
        let length = u32::try_from(reply.len()).unwrap_or(1);
        self.message[channel] = (base(channel), base(channel) + 4 * (length - 1));
        self.waiting[channel] = false;
    }

    /// A reply will not come.
    pub(crate) fn forget(&mut self, channel: usize) {
        self.waiting[channel] = false;
    }

    /// The word that a window is at.
    fn window(&self, channel: usize, violations: &mut Vec<Violation>) -> usize {
        let offset = self.control[channel] & 0xfffc;
        let index = usize::try_from(offset / 4).unwrap_or(usize::MAX);
        if index / SHARE != channel {
            violations.push(Violation::Window { channel, offset });
        }
        index.min(self.memory.len() - 1)
    }

    fn step(&mut self, channel: usize, when: u32) {
        let control = &mut self.control[channel];
        if *control & when != 0 {
            *control = *control & !0xfffc | (*control & 0xfffc).wrapping_add(4) & 0xfffc;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_exchange() {
        let mut queues = Queues::new();
        let mut violations = Vec::new();
        queues.write(0x8f_2ad0, 0x0300_0800, &mut violations);
        for word in [0xc000_0000, 0x1310_de7e, 0x000a_020d, 2] {
            queues.write(0x8f_2ad4, word, &mut violations);
        }
        assert_eq!(queues.read(0x8f_2ad0, &mut violations), 0x0300_0810);
        queues.write(0x8f_2c14, 0x80c, &mut violations);
        let command = queues.write(0x8f_2c10, 0x800, &mut violations).unwrap();
        assert_eq!(command, Command { channel: 2, packet: vec![0xc000_0000, 0x1310_de7e, 0x000a_020d, 2] });
        assert_eq!(queues.read(0x8f_2c10, &mut violations), 0x80c);
        queues.deliver(2, &[1, 2, 3, 4, 5]);
        assert_eq!(queues.read(0x8f_2c90, &mut violations), 0x800);
        assert_eq!(queues.read(0x8f_2c94, &mut violations), 0x810);
        assert!(violations.is_empty());
        // Not taken, and already the next.
        queues.write(0x8f_2c10, 0x800, &mut violations);
        assert_eq!(violations, [Violation::Overlap { channel: 2 }]);
    }

    #[test]
    fn reads_and_writes_step_only_where_they_were_asked_to() {
        let mut queues = Queues::new();
        let mut violations = Vec::new();
        queues.write(0x8f_2ad0, STEP_ON_READ | 0x800, &mut violations);
        queues.write(0x8f_2ad4, 7, &mut violations);
        assert_eq!(queues.read(0x8f_2ad4, &mut violations), 7);
        assert_eq!(queues.read(0x8f_2ad0, &mut violations), STEP_ON_READ | 0x804);
        assert!(violations.is_empty());
        queues.write(0x8f_2ad0, 0, &mut violations);
        queues.write(0x8f_2ad4, 7, &mut violations);
        assert_eq!(violations, [Violation::Window { channel: 2, offset: 0 }]);
    }
}
