//! The firmware processor's mailbox, port 0: words in, words out, each message announced by its length.

use std::collections::VecDeque;

use crate::{MailboxFault, Violation};

const IN_INFO: u32 = 0x8f_1f84;
const IN_DATA: u32 = 0x8f_1f88;
const OUT_INFO: u32 = 0x8f_1f04;
const OUT_DATA: u32 = 0x8f_1f08;

const SIZE: u32 = 0xf_ffff;
const TRIGGER: u32 = 1 << 20;
const READY: u32 = 1 << 24;
const ERROR: u32 = 1 << 25;
const CREDIT: u32 = 1 << 26;

/// Port 0's longest message, bytes.
const LONGEST: u32 = 4160;

/// Both directions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mailbox {
    incoming: Vec<u32>,
    /// Bytes announced and not yet there.
    due: u32,
    in_error: bool,
    outgoing: VecDeque<u32>,
    out_error: bool,
    /// A message was taken and its reply is still to come.
    waiting: bool,
}

impl Mailbox {
    pub(crate) fn has(offset: u32) -> bool {
        matches!(offset, IN_INFO | IN_DATA | OUT_INFO | OUT_DATA)
    }

    fn busy(&self, fault: Option<MailboxFault>) -> bool {
        self.waiting || !self.outgoing.is_empty() || fault == Some(MailboxFault::NotReady)
    }

    pub(crate) fn read(
        &mut self,
        offset: u32,
        fault: Option<MailboxFault>,
        violations: &mut Vec<Violation>,
    ) -> u32 {
        match offset {
            IN_INFO => {
                let error = if self.in_error { ERROR } else { 0 };
                let free = if self.busy(fault) { 0 } else { READY | CREDIT };
                self.due | error | free
            }
            OUT_INFO => {
                let error = if self.out_error { ERROR } else { 0 };
                let bytes = u32::try_from(4 * self.outgoing.len()).unwrap_or(SIZE);
                error | if bytes == 0 { 0 } else { READY | bytes }
            }
            OUT_DATA => self.outgoing.pop_front().unwrap_or_else(|| {
                violations.push(Violation::MailboxUnderrun);
                self.out_error = true;
                0
            }),
            _ => 0,
        }
    }

    /// The message, if this was its last word.
    pub(crate) fn write(
        &mut self,
        offset: u32,
        value: u32,
        fault: Option<MailboxFault>,
        violations: &mut Vec<Violation>,
    ) -> Option<Vec<u32>> {
        match offset {
            IN_INFO if value & TRIGGER != 0 => self.trigger(value & SIZE, fault, violations),
            IN_DATA if self.due == 0 => {
                violations.push(Violation::MailboxOverrun);
                self.in_error = true;
            }
            IN_DATA => {
                self.incoming.push(value);
                self.due -= 4;
                if self.due == 0 {
                    self.in_error |= fault == Some(MailboxFault::Error);
                    self.waiting = true;
                    return Some(std::mem::take(&mut self.incoming));
                }
            }
            _ => {}
        }
        None
    }

    fn trigger(&mut self, bytes: u32, fault: Option<MailboxFault>, violations: &mut Vec<Violation>) {
        // A new message clears what was wrong with the one before.
        self.in_error = false;
        if self.busy(fault) || self.due != 0 {
            violations.push(Violation::MailboxNotReady);
            self.in_error = true;
        } else if bytes == 0 || bytes > LONGEST || !bytes.is_multiple_of(4) {
            violations.push(Violation::Packet { reason: format!("a message of {bytes} bytes") });
            self.in_error = true;
        } else {
            self.incoming.clear();
            self.due = bytes;
        }
    }

    pub(crate) fn deliver(&mut self, reply: &[u32]) {
        self.outgoing.extend(reply);
        self.waiting = false;
    }

    /// A reply will not come.
    pub(crate) fn forget(&mut self) {
        self.waiting = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_exchange() {
        let mut mailbox = Mailbox::default();
        let mut violations = Vec::new();
        assert_eq!(mailbox.read(IN_INFO, None, &mut violations), 0x0500_0000);
        assert_eq!(mailbox.write(IN_INFO, 0x0010_0010, None, &mut violations), None);
        assert_eq!(mailbox.read(IN_INFO, None, &mut violations), 0x0500_0010);
        for word in [1, 2, 3] {
            assert_eq!(mailbox.write(IN_DATA, word, None, &mut violations), None);
        }
        assert_eq!(mailbox.write(IN_DATA, 4, None, &mut violations), Some(vec![1, 2, 3, 4]));
        assert_eq!(mailbox.read(IN_INFO, None, &mut violations), 0, "busy");
        mailbox.deliver(&[5; 5]);
        assert_eq!(mailbox.read(OUT_INFO, None, &mut violations), 0x0100_0014);
        for _ in 0..5 {
            assert_eq!(mailbox.read(OUT_DATA, None, &mut violations), 5);
        }
        assert_eq!(mailbox.read(OUT_INFO, None, &mut violations), 0);
        assert!(violations.is_empty());
        mailbox.read(OUT_DATA, None, &mut violations);
        mailbox.write(IN_DATA, 1, None, &mut violations);
        assert_eq!(violations, [Violation::MailboxUnderrun, Violation::MailboxOverrun]);
    }
}
