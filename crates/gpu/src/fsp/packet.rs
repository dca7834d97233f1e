//! MCTP packets with NVIDIA's vendor-defined messages in them.

use super::{Code, Error, Request};

/// MCTP header of a packet that is a whole message: start and end, no addresses, sequence 0.
const SINGLE: u32 = 0xc000_0000;
/// Message header: vendor-defined by PCI vendor (0x7e), 0x10de.
const VENDOR: u32 = 0x0010_de7e;
/// Message types in its upper byte: settings request and reply.
const PRC: u32 = 0x13;
const RESPONSE: u32 = 0x15;

/// Words before a reply's payload: two headers, task, request's type, code.
const REPLY_HEAD: usize = 5;

pub(super) fn encode(payload: &[u32]) -> Vec<u32> {
    [SINGLE, PRC << 24 | VENDOR].iter().chain(payload).copied().collect()
}

/// The payload of a successful reply, which has `due` words.
pub(super) fn decode(reply: &[u32], request: Request, due: usize) -> Result<Vec<u32>, Error> {
    let &[mctp, message, _task, command, code, ref payload @ ..] = reply else {
        return Err(Error::Short { words: reply.len() });
    };
    debug_assert_eq!(payload.len() + REPLY_HEAD, reply.len());
    for (index, found, as_due) in [
        (0, mctp, mctp & SINGLE == SINGLE),
        (1, message, message == RESPONSE << 24 | VENDOR),
        (3, command, command == PRC),
    ] {
        if !as_due {
            return Err(Error::Foreign { index, found });
        }
    }
    if let Some(code) = Code::of(code) {
        return Err(Error::Refused { request, code });
    }
    if payload.len() != due {
        return Err(Error::Payload { expected: due, found: payload.len() });
    }
    Ok(payload.to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::knob::Knob;

    const READ: Request = Request::Read(Knob::CCM);

    #[test]
    fn requests_as_recorded_from_nvidias_tool() {
        let frame = |request: Request| encode(&request.words());
        assert_eq!(frame(Request::Read(Knob::PPCIE)), [0xc000_0000, 0x1310_de7e, 0x002d_020c]);
        assert_eq!(frame(Request::Read(Knob::FEATURE_2)), [0xc000_0000, 0x1310_de7e, 0x0002_020c]);
        assert_eq!(frame(Request::Read(Knob::FEATURE_34)), [0xc000_0000, 0x1310_de7e, 0x0022_020c]);
        assert_eq!(frame(Request::Read(Knob(0xff))), [0xc000_0000, 0x1310_de7e, 0x00ff_020c]);
        let write = Request::Write(Knob::BAR0_DECOUPLER, 2);
        assert_eq!(frame(write), [0xc000_0000, 0x1310_de7e, 0x000a_020d, 2]);
        let write = Request::Write(Knob::CCD, 1);
        assert_eq!(frame(write), [0xc000_0000, 0x1310_de7e, 0x0006_020d, 1]);
    }

    #[test]
    fn replies_as_recorded_from_nvidias_tool() {
        let read = [0xc000_0000, 0x1510_de7e, 3, 0x13, 0, 0xabcd_0001];
        assert_eq!(decode(&read, READ, 1).unwrap(), [0xabcd_0001]);
        assert_eq!(decode(&read[..5], READ, 0).unwrap(), Vec::<u32>::new());
        for (code, meaning) in
            [(0x1e3, Code::UnknownKnob), (0x202, Code::Unexplained202), (7, Code::Other(7))]
        {
            let reply = [0xc000_0000, 0x1510_de7e, 3, 0x13, code];
            let Err(Error::Refused { code, .. }) = decode(&reply, READ, 1) else { panic!("{code}") };
            assert_eq!(code, meaning);
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        let good = [0xc000_0000, 0x1510_de7e, 3, 0x13, 0, 1];
        assert!(matches!(decode(&good[..4], READ, 1), Err(Error::Short { words: 4 })));
        assert!(matches!(decode(&good[..5], READ, 1), Err(Error::Payload { expected: 1, found: 0 })));
        for (index, value) in [(0, 0x8000_0000), (1, 0x1310_de7e), (1, 0x1510_de7f), (3, 0x14)] {
            let mut reply = good;
            reply[index] = value;
            let Err(Error::Foreign { index: at, found }) = decode(&reply, READ, 1) else { panic!("{index}") };
            assert_eq!((at, found), (index, value));
        }
    }

    proptest! {
        #[test]
        fn any_reply_is_safe(reply in proptest::collection::vec(any::<u32>(), 0..12), due in 0_usize..3) {
            let _ = decode(&reply, READ, due);
        }
    }
}
