//! By what a LUKS2 disk is known: magic and UUID.
//!
//! Source of the format: "LUKS2 On-Disk Format Specification", version 1.1, section 2.1.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error as _};

/// How much of a disk says whether it is one, in bytes.
pub const HEAD: usize = 4096;
/// What a LUKS disk begins with, and the version behind it.
pub(crate) const MAGIC: [u8; 8] = *b"LUKS\xba\xbe\x00\x02";
/// Where the UUID is.
const UUID: usize = 168;
/// Length of a UUID's text.
const TEXT: usize = 36;

/// A disk's UUID. It proves nothing: it tells which of a pod's volumes a disk claims to be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid([u8; TEXT]);

/// A text that is no UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a UUID is 32 lower-case hexadecimal digits, with dashes behind the 8th, 12th, 16th and 20th")]
pub struct NotAUuid;

impl Uuid {
    /// The text form of 16 random bytes.
    #[must_use]
    pub fn of_random(mut bytes: [u8; 16]) -> Self {
        // RFC 9562, section 5.4: version 4.
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let mut text = [b'-'; TEXT];
        let places = (0..TEXT).filter(|place| !is_dash(*place));
        let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        for (place, digit) in places.zip(digits) {
            text[place] = b"0123456789abcdef"[usize::from(digit)];
        }
        Self(text)
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Digits and dashes.
        str::from_utf8(&self.0).unwrap_or_default()
    }

    fn of_text(text: &[u8]) -> Option<Self> {
        let text: [u8; TEXT] = text.try_into().ok()?;
        let fits = |(place, byte): (usize, &u8)| match is_dash(place) {
            true => *byte == b'-',
            false => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        };
        text.iter().enumerate().all(fits).then_some(Self(text))
    }
}

const fn is_dash(place: usize) -> bool {
    matches!(place, 8 | 13 | 18 | 23)
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Uuid {
    type Err = NotAUuid;

    fn from_str(text: &str) -> Result<Self, NotAUuid> {
        Self::of_text(text.as_bytes()).ok_or(NotAUuid)
    }
}

impl<'de> Deserialize<'de> for Uuid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The UUID of a LUKS2 disk that begins with these bytes; `None` where it is no such disk.
#[must_use]
pub fn uuid(head: &[u8]) -> Option<Uuid> {
    if !head.starts_with(&MAGIC) {
        return None;
    }
    let field = head.get(UUID..UUID + 40)?;
    let (text, rest) = field.split_at(TEXT);
    Uuid::of_text(text).filter(|_| rest.iter().all(|byte| *byte == 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "0f8a237d-48ca-4305-ba9f-d2efb00fcd98";

    #[test]
    fn a_disk_is_known_by_magic_version_and_uuid() {
        let mut head = vec![0; HEAD];
        head[..8].copy_from_slice(&MAGIC);
        head[UUID..UUID + 36].copy_from_slice(TEXT.as_bytes());
        assert_eq!(uuid(&head), TEXT.parse().ok());
        for (at, byte) in [(0, b'X'), (7, 1), (UUID, b'A'), (UUID + 8, b'0'), (UUID + 36, b'0')] {
            let mut head = head.clone();
            head[at] = byte;
            assert_eq!(uuid(&head), None, "{at}");
        }
        assert_eq!(uuid(&head[..UUID + 39]), None);
    }

    #[test]
    fn other_texts_are_no_uuids() {
        for text in ["", "0f8a237d48ca4305ba9fd2efb00fcd98", &TEXT.to_uppercase(), &format!("{TEXT}0")] {
            assert_eq!(text.parse::<Uuid>(), Err(NotAUuid), "{text}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_make_a_uuid_of_version_4(bytes: [u8; 16]) {
            let uuid = Uuid::of_random(bytes);
            prop_assert_eq!(uuid.to_string().parse(), Ok(uuid));
            prop_assert_eq!(&uuid.as_str()[14..15], "4");
        }

        #[test]
        fn any_head_is_looked_at(bytes: Vec<u8>) {
            let _ = uuid(&bytes);
        }
    }
}
