//! LUKS2 disks: the volume key of one that is there, and new ones.
//!
//! Source of the format: "LUKS2 On-Disk Format Specification", version 1.1. Taken is what a model volume needs and what
//! `cryptsetup luksFormat --type luks2` makes unless it is told otherwise: AES-XTS with 512 bits of key, key slots behind
//! PBKDF2 or Argon2. Everything else is refused, above all ciphers: a header is the host's, and one that names no cipher
//! would have the guest read plain text of the host's with any passphrase.

mod cipher;
mod header;
mod key;
mod open;
mod write;

pub use header::metadata;
pub use key::Key;
pub use open::{Mapping, open};
pub use write::{DATA_START, write};

use std::io;

/// The only cipher, in the words of cryptsetup and of the kernel's dm-crypt.
pub(crate) const CIPHER: &str = "aes-xts-plain64";
/// Length of a volume key: two AES keys of 256 bits.
pub(crate) const KEY_BYTES: usize = 64;

/// Why a disk was not opened or made.
#[derive(Debug, thiserror::Error)]
pub enum LuksError {
    /// The disk cannot be read or written.
    #[error("{what} cannot be read or written")]
    Io {
        /// What part.
        what: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It does not begin as one.
    #[error("it is no LUKS2 disk")]
    Magic,
    /// Its header is damaged.
    #[error("its header is damaged: {0}")]
    Damaged(&'static str),
    /// It has something that a model volume has not.
    #[error("its {what} is {found:?}, and a model volume has {takes}")]
    Unusual {
        /// Which part of the header.
        what: &'static str,
        /// What is there.
        found: String,
        /// What may be there.
        takes: &'static str,
    },
    /// Its metadata is not what the specification says.
    #[error("its metadata cannot be used: {0}")]
    Metadata(String),
    /// No key slot takes the key.
    #[error(
        "the key does not open it: none of its {0} key slots has this key. It is another disk than the one that was made with \
         this key, or the key broker has another key"
    )]
    WrongKey(usize),
    /// Too little memory for the derivation of the key.
    #[error(
        "{kib} KiB of memory for Argon2 cannot be had: make a key slot with less (cryptsetup luksAddKey --pbkdf pbkdf2)"
    )]
    Memory {
        /// How much the header asks for.
        kib: u32,
    },
}

#[cfg(test)]
mod tests;
