//! Sealed secrets of the Confidential Containers project, as guest and host call them.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// How the text of one begins (kata-agent 4.1.0, `src/agent/src/confidential_data_hub`).
pub const PREFIX: &str = "sealed.";
/// Bytes of the digest that name one.
const BYTES: usize = 8;
/// How a line about one begins.
const LINE: &str = "coffer-attest: sealed secret ";

/// Names a sealed secret in a line, without its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SealedId([u8; BYTES]);

impl SealedId {
    /// The name of this text: the beginning of its SHA-256.
    pub fn of(text: &[u8]) -> Self {
        let mut id = [0; BYTES];
        id.copy_from_slice(&Sha256::digest(text)[..BYTES]);
        Self(id)
    }
}

impl fmt::Display for SealedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text that names no sealed secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not {} lower-case hexadecimal digits", 2 * BYTES)]
pub struct NoSealedId;

impl FromStr for SealedId {
    type Err = NoSealedId;

    fn from_str(text: &str) -> Result<Self, NoSealedId> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != 2 * BYTES || !text.bytes().all(is_digit) {
            return Err(NoSealedId);
        }
        u64::from_str_radix(text, 16).map(|number| Self(number.to_be_bytes())).map_err(|_| NoSealedId)
    }
}

/// What the guest's attestation service says of a sealed secret, on a line of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedWord {
    /// Which one.
    pub id: SealedId,
    /// What became of it.
    pub answer: SealedAnswer,
}

/// What became of a sealed secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SealedAnswer {
    /// It was opened, and is text.
    Text,
    /// It was opened, and is no text: a file can have it, and a variable cannot.
    Bytes,
    /// It stays sealed, for this reason.
    Refused(String),
}

impl SealedWord {
    /// Reads the line.
    pub fn parse(line: &str) -> Option<Self> {
        let (id, word) = line.strip_prefix(LINE)?.split_once(' ')?;
        let answer = match word {
            "opened" => SealedAnswer::Text,
            "opened, no text" => SealedAnswer::Bytes,
            _ => SealedAnswer::Refused(word.strip_prefix("stays sealed: ")?.to_owned()),
        };
        Some(Self { id: id.parse().ok()?, answer })
    }
}

impl fmt::Display for SealedWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{LINE}{}", self.id)?;
        match &self.answer {
            SealedAnswer::Text => f.write_str(" opened"),
            SealedAnswer::Bytes => f.write_str(" opened, no text"),
            SealedAnswer::Refused(why) => write!(f, " stays sealed: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let id = SealedId::of(b"sealed.a.b.c");
        // printf sealed.a.b.c | sha256sum
        assert_eq!(id.to_string(), "addbb861dc31963f");
        let refused = SealedAnswer::Refused("the key broker said no: x".to_owned());
        for answer in [SealedAnswer::Text, SealedAnswer::Bytes, refused] {
            let word = SealedWord { id, answer };
            assert_eq!(SealedWord::parse(&word.to_string()), Some(word));
        }
    }

    #[test]
    fn other_lines_say_nothing_of_a_secret() {
        for line in [
            "",
            "coffer-attest: sealed secret",
            "coffer-attest: sealed secret x opened",
            "coffer-attest: sealed secret 0123456789abcdeF opened",
            "coffer-attest: sealed secret +123456789abcdef opened",
            "coffer-attest: sealed secret 0123456789abcdef",
            "coffer-attest: sealed secret 0123456789abcdef opened or not",
            "sealed secret 0123456789abcdef opened",
        ] {
            assert_eq!(SealedWord::parse(line), None, "{line}");
        }
    }
}
