//! QMP's wire messages: one JSON object a line.
//!
//! Source of the format: QEMU's `docs/interop/qmp-spec.rst`.

use serde::Deserialize;
use serde_json::Value;

/// The longest line accepted from QEMU, in bytes. `query-qmp-schema` is the largest answer QEMU has (about
/// 250 KiB) and Coffer does not ask it; a longer line means that the peer is not QEMU.
pub const MAX_LINE: usize = 1 << 20;

/// What QEMU says when a monitor is opened.
#[derive(Debug, Clone, Deserialize)]
pub struct Greeting {
    /// The payload.
    #[serde(rename = "QMP")]
    pub qmp: GreetingBody,
}

/// The body of [`Greeting`].
#[derive(Debug, Clone, Deserialize)]
pub struct GreetingBody {
    /// Who is speaking.
    pub version: Version,
}

/// QEMU's version as QMP tells it.
#[derive(Debug, Clone, Deserialize)]
pub struct Version {
    /// The three numbers.
    pub qemu: VersionTriple,
    /// The distribution's addition, e.g. `Debian 1:11.1.2+ds-3`.
    #[serde(default)]
    pub package: String,
}

/// A version's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct VersionTriple {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub micro: u32,
}

/// A line that is not the greeting.
#[derive(Debug, Clone)]
pub enum Message {
    /// An answer to the command with this id.
    Return {
        /// The id that the command carried.
        id: u64,
        /// The answer's payload.
        value: Value,
    },
    /// The command with this id failed.
    Error {
        /// The id that the command carried; `None` where QEMU could not parse the command.
        id: Option<u64>,
        /// QEMU's error.
        error: ErrorBody,
    },
    /// Something happened.
    Event(Event),
}

/// An error as QMP tells it.
#[derive(Debug, Clone, Deserialize)]
pub struct ErrorBody {
    /// The class, `GenericError` nearly always.
    pub class: String,
    /// The text.
    pub desc: String,
}

/// An asynchronous event.
#[derive(Debug, Clone, Deserialize)]
pub struct Event {
    /// The name, e.g. `SHUTDOWN`.
    pub event: String,
    /// The payload; null where there is none.
    #[serde(default)]
    pub data: Value,
}

#[derive(Deserialize)]
struct Line {
    id: Option<u64>,
    #[serde(rename = "return")]
    value: Option<Value>,
    error: Option<ErrorBody>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
}

/// Parses a line after the greeting. Unknown members are passed over: QEMU adds some in every release.
///
/// # Errors
/// The line is not JSON, or is none of the three kinds of message.
pub fn parse(line: &[u8]) -> Result<Message, serde_json::Error> {
    let line: Line = serde_json::from_slice(line)?;
    match line {
        Line { event: Some(event), data, .. } => Ok(Message::Event(Event { event, data })),
        Line { error: Some(error), id, .. } => Ok(Message::Error { id, error }),
        Line { value: Some(value), id: Some(id), .. } => Ok(Message::Return { id, value }),
        _ => Err(serde::de::Error::custom("neither an event, nor an error, nor an answer with an id")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_three_kinds() {
        assert!(matches!(parse(br#"{"return": {}, "id": 7}"#), Ok(Message::Return { id: 7, .. })));
        assert!(matches!(
            parse(br#"{"id": 3, "error": {"class": "GenericError", "desc": "no"}}"#),
            Ok(Message::Error { id: Some(3), error }) if error.desc == "no"
        ));
        let event = br#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true}}"#;
        assert!(
            matches!(parse(event), Ok(Message::Event(e)) if e.event == "SHUTDOWN" && e.data["guest"] == true)
        );
    }

    #[test]
    fn an_answer_without_an_id_is_refused() {
        assert!(parse(br#"{"return": {}}"#).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }
    }
}
