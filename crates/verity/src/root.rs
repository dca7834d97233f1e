//! Root hashes.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use crate::{BLOCK, DIGEST, SALT};

/// The root hash of an image: what dm-verity compares the top of the tree with. Its text form is 64 lower-case
/// hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootHash([u8; DIGEST]);

impl RootHash {
    /// From the hash's bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; DIGEST]) -> Self {
        Self(bytes)
    }

    /// The hash's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; DIGEST] {
        &self.0
    }
}

/// The root hash of a tree with this top block; an image of one block has that block for its top.
#[must_use]
pub fn root_of(top: &[u8; BLOCK]) -> RootHash {
    RootHash(hash(top))
}

/// A block's hash: hash type 1 puts the salt first.
pub(crate) fn hash(block: &[u8]) -> [u8; DIGEST] {
    Sha256::new().chain_update(SALT).chain_update(block).finalize().into()
}

impl fmt::Display for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no root hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a root hash is 64 lower-case hexadecimal digits")]
pub struct NotARootHash;

impl FromStr for RootHash {
    type Err = NotARootHash;

    fn from_str(text: &str) -> Result<Self, NotARootHash> {
        let nibble = |c: u8| match c {
            b'0'..=b'9' => Ok(c - b'0'),
            b'a'..=b'f' => Ok(c - b'a' + 10),
            _ => Err(NotARootHash),
        };
        if text.len() != 2 * DIGEST {
            return Err(NotARootHash);
        }
        let mut bytes = [0; DIGEST];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(feature = "serde")]
mod serde_impl {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::{Serialize, Serializer};

    use super::RootHash;

    impl Serialize for RootHash {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(self)
        }
    }

    impl<'de> Deserialize<'de> for RootHash {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_lower_case_digits_of_the_right_length_are_a_root_hash() {
        let good = "0f".repeat(32);
        assert_eq!(good.parse::<RootHash>().map(|hash| hash.to_string()), Ok(good.clone()));
        for bad in ["", "0f", &good[1..], &"0F".repeat(32), &"0g".repeat(32), &format!("{good}00")] {
            assert_eq!(bad.parse::<RootHash>(), Err(NotARootHash), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn text_and_bytes_agree(bytes: [u8; 32]) {
            let hash = RootHash::from_bytes(bytes);
            prop_assert_eq!(hash.to_string().parse(), Ok(hash));
        }
    }
}
