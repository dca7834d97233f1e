//! Digests, each a type of its own length.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// A digest of `N` bytes; its text form is `2 * N` lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest<const N: usize>([u8; N]);

/// A SHA-256 digest.
pub type Sha256Digest = Digest<32>;
/// A SHA-384 digest, the kind that SNP and TDX measure with.
pub type Sha384Digest = Digest<48>;
/// A SHA-512 digest.
pub type Sha512Digest = Digest<64>;

impl<const N: usize> Digest<N> {
    /// All zeros, the value of a register before anything is measured into it.
    pub const ZERO: Self = Self([0; N]);

    /// From the digest's bytes.
    pub const fn from_bytes(bytes: [u8; N]) -> Self {
        Self(bytes)
    }

    /// The digest's bytes.
    pub const fn as_bytes(&self) -> &[u8; N] {
        &self.0
    }
}

impl Sha256Digest {
    /// SHA-256 of `data`.
    pub fn of(data: &[u8]) -> Self {
        Self(Sha256::digest(data).into())
    }
}

impl Sha384Digest {
    /// SHA-384 of `data`.
    pub fn of(data: &[u8]) -> Self {
        Self(Sha384::digest(data).into())
    }

    /// What `hash` has seen.
    pub(crate) fn finish(hash: Sha384) -> Self {
        Self(hash.finalize().into())
    }
}

impl Sha512Digest {
    /// SHA-512 of `data`.
    pub fn of(data: &[u8]) -> Self {
        Self(Sha512::digest(data).into())
    }
}

impl<const N: usize> fmt::Display for Digest<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<const N: usize> fmt::Debug for Digest<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no digest of the wanted length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest of {bytes} bytes is {} lower-case hexadecimal digits", bytes * 2)]
pub struct NotADigest {
    /// Length of the wanted digest in bytes.
    pub bytes: usize,
}

impl<const N: usize> FromStr for Digest<N> {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let nibble = |c: u8| match c {
            b'0'..=b'9' => Ok(c - b'0'),
            b'a'..=b'f' => Ok(c - b'a' + 10),
            _ => Err(NotADigest { bytes: N }),
        };
        if text.len() != 2 * N {
            return Err(NotADigest { bytes: N });
        }
        let mut bytes = [0; N];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

/// Defines the value of one register: a SHA-384 digest that cannot be taken for another register's.
macro_rules! register {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name($crate::Sha384Digest);

        impl $name {
            /// The value as a plain digest.
            pub const fn digest(self) -> $crate::Sha384Digest {
                self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}
pub(crate) use register;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn digests_are_those_of_the_standard() {
        // FIPS 180-4, the examples of the empty message and of "abc".
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Sha256Digest::of(b"").to_string(), empty);
        let abc = "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7";
        assert_eq!(Sha384Digest::of(b"abc").to_string(), abc);
    }

    #[test]
    fn only_lower_case_digits_of_the_right_length_are_a_digest() {
        let good = "0f".repeat(32);
        assert_eq!(good.parse::<Sha256Digest>().unwrap().to_string(), good);
        for bad in ["", "0f", &good[1..], &"0F".repeat(32), &"0g".repeat(32), &format!("{good}00")] {
            assert_eq!(bad.parse::<Sha256Digest>(), Err(NotADigest { bytes: 32 }), "{bad}");
        }
        assert!(good.parse::<Sha384Digest>().is_err());
    }

    proptest! {
        #[test]
        fn text_and_bytes_agree(bytes: [u8; 32]) {
            let digest = Sha256Digest::from_bytes(bytes);
            prop_assert_eq!(digest.to_string().parse(), Ok(digest));
        }
    }
}
