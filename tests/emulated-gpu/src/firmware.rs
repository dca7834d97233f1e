//! The firmware processor: takes a request, changes settings, makes a reply.

use crate::knobs::{COMPUTING, DEVTOOLS, Knobs, PPCIE};
use crate::{Faults, ReplyFault, Violation};

/// Headers of a settings request and of a reply, each a single MCTP packet.
const SINGLE: u32 = 0xc000_0000;
const REQUEST: u32 = 0x1310_de7e;
const REPLY: u32 = 0x1510_de7e;
/// The type of a settings request, echoed in replies.
const SETTINGS: u32 = 0x13;
/// The task number seen in replies of a real H100.
const TASK: u32 = 3;

const READ: u32 = 0x0c;
const WRITE: u32 = 0x0d;

const UNKNOWN_KNOB: u32 = 0x1e3;
const NOT_SUPPORTED: u32 = 0xa0;
const INVALID_DATA: u32 = 0xa1;

/// Always there, so that nobody takes it for part of the value. Not 0xBADF: NVIDIA's tool takes that for an
/// error of the bus, even in data.
const GARBAGE: u32 = 0x5eed_0000;

/// What the firmware does with a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) reply: Vec<u32>,
    pub(crate) violations: Vec<Violation>,
}

/// Handles one request.
pub(crate) fn answer(packet: &[u32], knobs: &mut Knobs, faults: &Faults) -> Answer {
    let mut violations = Vec::new();
    let result = handle(packet, knobs, faults, &mut violations);
    let (code, payload) = match result {
        Ok(payload) => (0, payload),
        Err(code) => (code, None),
    };
    let mut reply = vec![SINGLE, REPLY, TASK, SETTINGS, code];
    reply.extend(payload);
    match faults.reply {
        Some(ReplyFault::Short) => reply.truncate(4),
        Some(ReplyFault::OtherType) => reply[1] = 0x1410_de7e,
        Some(ReplyFault::OtherRequest) => reply[3] = 0x14,
        Some(ReplyFault::Long) => reply.push(0),
        None | Some(ReplyFault::Lost | ReplyFault::Late(_)) => {}
    }
    Answer { reply, violations }
}

fn handle(
    packet: &[u32],
    knobs: &mut Knobs,
    faults: &Faults,
    violations: &mut Vec<Violation>,
) -> Result<Option<u32>, u32> {
    let mut wrong = |reason: &str| {
        violations.push(Violation::Packet { reason: format!("{reason}: {packet:08x?}") });
        INVALID_DATA
    };
    let [mctp, message, first, values @ ..] = packet else { return Err(wrong("less than three words")) };
    if *mctp != SINGLE {
        return Err(wrong("not a packet that is a whole message"));
    }
    if *message != REQUEST {
        return Err(wrong("not a settings request"));
    }
    let [sub, size, low, high] = first.to_le_bytes();
    let knob = u16::from_le_bytes([low, high]);
    if size != 2 {
        return Err(wrong("settings are 2 bytes long"));
    }
    if let Some(code) = faults.every_error.or_else(|| faults.knob_errors.get(&knob).copied()) {
        return Err(code);
    }
    let value = match knob {
        PPCIE | 44 if faults.no_ppcie => return Err(UNKNOWN_KNOB),
        _ => knobs.get(knob).ok_or(UNKNOWN_KNOB)?,
    };
    match (u32::from(sub), values) {
        (READ, []) => {
            // Of a locked knob the permission, which is the knob before it, reads 0.
            let shown = if faults.locked.contains(&(knob + 1)) { 0 } else { value };
            Ok(Some(GARBAGE | u32::from(shown)))
        }
        (WRITE, [new]) => {
            let Ok(new) = u16::try_from(*new) else { return Err(wrong("a value of more than 16 bits")) };
            if faults.locked.contains(&knob) {
                violations.push(Violation::LockedKnob { knob });
                return Err(NOT_SUPPORTED);
            }
            if let Some(code) = faults.write_error {
                return Err(code);
            }
            if new == value {
                violations.push(Violation::UselessWrite { knob, value });
            }
            knobs.set(knob, new);
            let touched = matches!(knob, DEVTOOLS | COMPUTING);
            if touched && knobs.get(DEVTOOLS) == Some(1) && knobs.get(COMPUTING) != Some(1) {
                violations.push(Violation::DevtoolsAlone);
            }
            Ok(None)
        }
        (READ | WRITE, _) => Err(wrong("a request of another length")),
        _ => Err(NOT_SUPPORTED),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Product;

    fn ask(packet: &[u32], faults: &Faults) -> Answer {
        answer(packet, &mut Knobs::new(Product::H100), faults)
    }

    #[test]
    fn exchanges_as_documented() {
        let none = Faults::default();
        let read = ask(&[0xc000_0000, 0x1310_de7e, 0x0008_020c], &none);
        assert_eq!(read.reply, [0xc000_0000, 0x1510_de7e, 3, 0x13, 0, GARBAGE]);
        let write = ask(&[0xc000_0000, 0x1310_de7e, 0x000a_020d, 2], &none);
        assert_eq!(write.reply, [0xc000_0000, 0x1510_de7e, 3, 0x13, 0]);
        let unknown = ask(&[0xc000_0000, 0x1310_de7e, 0x00ff_020c], &none);
        assert_eq!(unknown.reply, [0xc000_0000, 0x1510_de7e, 3, 0x13, 0x1e3]);
        assert!(read.violations.is_empty() && write.violations.is_empty() && unknown.violations.is_empty());
    }

    #[test]
    fn offences_are_seen() {
        let none = Faults::default();
        let seen = |packet: &[u32], faults: &Faults| ask(packet, faults).violations;
        assert_eq!(seen(&[0xc000_0000, 0x1310_de7e, 0x0006_020d, 1], &none), [Violation::DevtoolsAlone]);
        assert_eq!(
            seen(&[0xc000_0000, 0x1310_de7e, 0x0008_020d, 0], &none),
            [Violation::UselessWrite { knob: 8, value: 0 }]
        );
        let locked = Faults { locked: [8].into(), ..Faults::default() };
        let packet = [0xc000_0000, 0x1310_de7e, 0x0008_020d, 1];
        assert_eq!(seen(&packet, &locked), [Violation::LockedKnob { knob: 8 }]);
        assert_eq!(ask(&[0xc000_0000, 0x1310_de7e, 0x0007_020c], &locked).reply[5], GARBAGE);
        assert!(matches!(
            seen(&[0x8000_0000, 0x1310_de7e, 0x0008_020c], &none)[..],
            [Violation::Packet { .. }]
        ));
    }

    proptest! {
        #[test]
        fn any_packet_gets_a_reply(packet in proptest::collection::vec(any::<u32>(), 0..8)) {
            prop_assert!(ask(&packet, &Faults::default()).reply.len() >= 5);
        }
    }
}
