//! Initdata: configuration that the pod's owner gives to the guest, and that the CPU's report vouches for.
//!
//! A TOML document (Confidential Containers, "Initdata Specification", version 0.1.0) with a hash algorithm and
//! a set of named texts. Its digest is that of the document's bytes as they are, so a document is never written
//! anew from its content. The digest goes into a field of the report: [`HostData`] for SNP, [`MrConfigId`]
//! for TDX. The document itself reaches the guest by a pod annotation ([`annotation`]) and a small disk ([`disk`]).

pub mod annotation;
mod binding;
pub mod disk;
mod document;
mod gzip;

pub use self::binding::{HostData, MrConfigId};
pub use self::document::{Algorithm, DocumentError, InitData, build};
pub use self::gzip::GzipError;

/// Largest document in bytes.
pub const MAX_PLAIN: usize = 8 << 20;

/// Largest compressed document in bytes.
pub(crate) const MAX_COMPRESSED: usize = 1 << 20;
