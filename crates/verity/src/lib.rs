//! An EROFS image with a dm-verity hash tree behind it, whose root hash names its content.
//!
//! The bytes are those that containerd 2.3 and later make of a layer (`internal/dmverity` and `plugins/diff/erofs`):
//!
//! | part | size |
//! |---|---|
//! | EROFS image | whole blocks of 4096 bytes; its superblock says how many |
//! | verity superblock, zero padded | one block |
//! | hash tree, the top level first | none for an image of one block |
//!
//! SHA-256, data and hash blocks of 4096 bytes, hash type 1, and a salt of 32 zero bytes: nothing else is accepted, so
//! that nothing of an image but the root hash has to be trusted. The formats are those of the kernel
//! (Documentation/admin-guide/device-mapper/verity.rst) and of cryptsetup (lib/verity/verity.c, `struct verity_sb`).

mod append;
mod erofs;
mod layout;
mod read;
mod root;
#[cfg(feature = "sidecar")]
mod sidecar;
mod superblock;

pub use append::append;
pub use erofs::{HEAD, erofs_bytes};
pub use layout::{Layout, Level};
pub use read::{ReadError, read_root};
pub use root::{NotARootHash, RootHash, root_of};
#[cfg(feature = "sidecar")]
pub use sidecar::{Sidecar, SidecarError};
pub use superblock::Superblock;

/// Size of a data block and of a hash block, in bytes.
pub const BLOCK: usize = 4096;
/// [`BLOCK`], where offsets in files are counted.
const BLOCK_BYTES: u64 = 4096;
/// Length of a SHA-256 digest, in bytes.
const DIGEST: usize = 32;
/// What every block's hash begins with.
const SALT: [u8; 32] = [0; 32];

/// What is wrong with an image, or with the superblock behind it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// There is no EROFS superblock.
    #[error("it is no EROFS image")]
    NotErofs,
    /// EROFS blocks of another size.
    #[error("its EROFS blocks have 2^{0} bytes, and must have 4096")]
    ErofsBlockSize(u8),
    /// More than 32 bits of block numbers.
    #[error("its EROFS superblock counts blocks with 48 bits, which no layer needs")]
    ErofsWide,
    /// The superblock's magic is another.
    #[error("there is no verity superblock behind the EROFS image")]
    NoSuperblock,
    /// Another version of the superblock.
    #[error("its verity superblock has version {0}, and must have 1")]
    Version(u32),
    /// Another way to hash.
    #[error("its verity hash type is {0}, and must be 1")]
    HashType(u32),
    /// Another algorithm.
    #[error("its verity algorithm is {0:?}, and must be \"sha256\"")]
    Algorithm(String),
    /// Data blocks of another size.
    #[error("its verity data blocks have {0} bytes, and must have 4096")]
    DataBlockSize(u32),
    /// Hash blocks of another size.
    #[error("its verity hash blocks have {0} bytes, and must have 4096")]
    HashBlockSize(u32),
    /// A salt of another length.
    #[error("its verity salt has {0} bytes, and must have 32")]
    SaltLength(u16),
    /// A salt that is not zero.
    #[error("its verity salt is not zero")]
    Salt,
    /// A field that means nothing does not hold zeros.
    #[error("its verity superblock has content where there is no field")]
    Padding,
    /// No data, or none that is counted.
    #[error("it counts no data blocks")]
    NoData,
    /// More than an EROFS image can have.
    #[error("it counts {0} data blocks, and can have {max} at most", max = layout::MAX_DATA_BLOCKS)]
    TooManyBlocks(u64),
    /// The two superblocks disagree, so that a part of the image would not be verified.
    #[error("its verity superblock covers {verity} blocks, and its EROFS image has {erofs}")]
    Covers {
        /// What the tree covers.
        verity: u64,
        /// What the file system has.
        erofs: u64,
    },
}
