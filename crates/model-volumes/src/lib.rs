//! Model volumes: read-only disks with weights, each declared in the pod's initdata.
//!
//! A disk of either kind ends up as an EROFS image with a dm-verity tree (crate `verity`), and its root hash is declared. So
//! whatever the host does to a disk, a container reads what the pod's owner put there, or gets an error:
//!
//! | kind | on the disk | declared |
//! |---|---|---|
//! | `verity` | the image | its root hash |
//! | `luks2` | the image, encrypted | its root hash, the disk's UUID, which resource of the key broker opens it |
//!
//! Encryption alone would not do. AES-XTS hides what is written and lets whoever holds the disk change it in pieces of 16
//! bytes, or bring an older one back.

mod declaration;
#[cfg(feature = "luks")]
pub mod luks;
mod superblock;

pub use declaration::{DOCUMENT, DeclarationError, Declared, KeyPath, Kind, Volume, Volumes};
pub use superblock::{HEAD, NotAUuid, Uuid, uuid};
