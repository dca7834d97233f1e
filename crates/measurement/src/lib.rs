//! What a confidential VM's measurement registers will hold, computed before the VM exists.
//!
//! Bytes in, digests out; the caller does all reading. Each module covers one register or field:
//!
//! | module | value | depends on |
//! |---|---|---|
//! | [`snp`] | SEV-SNP launch digest | firmware, kernel, initrd, command line, vCPU count, CPU model, VMSA features |
//! | [`tdx::mrtd`] | TDX MRTD | firmware |
//! | [`tdx::rtmr0`] | TDX RTMR0 | firmware, memory size, ACPI tables |
//! | [`tdx::rtmr1`] | TDX RTMR1 | kernel |
//! | [`tdx::rtmr2`] | TDX RTMR2 | command line, initrd |
//! | [`initdata`] | SNP `HOST_DATA`, TDX MRCONFIGID | the pod's initdata document |
//! | [`snp::id_block`] | SNP ID block | the launch digest, and a key of the tenant's |
//!
//! [`ovmf`] reads the firmware's own description of itself, which both digests start from. Whatever that
//! description gets wrong is an error: a digest computed from a guess would look like any other.

#![cfg_attr(
    not(feature = "launch"),
    allow(dead_code, unused_imports, unused_macros, reason = "they are for what is left out")
)]

mod bytes;
mod cmdline;
mod digest;
mod guid;
pub mod initdata;
#[cfg(feature = "launch")]
pub mod ovmf;
#[cfg(feature = "launch")]
pub mod snp;
#[cfg(feature = "launch")]
pub mod tdx;

pub use self::cmdline::{Cmdline, CmdlineError};
pub use self::digest::{Digest, NotADigest, Sha256Digest, Sha384Digest, Sha512Digest};
pub use self::guid::Guid;
