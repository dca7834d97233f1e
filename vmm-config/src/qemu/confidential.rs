//! The confidential part of a VM, of either kind.

use super::arg::Arg;
use super::snp::SnpGuest;
use super::tdx::TdxGuest;

/// Id of the object that the board's `confidential-guest-support` names.
pub(super) const TEE_ID: &str = "tee";

/// What makes a VM a confidential one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfidentialGuest {
    /// A TDX trust domain.
    Tdx(TdxGuest),
    /// A SEV-SNP guest.
    Snp(SnpGuest),
}

impl ConfidentialGuest {
    pub(super) fn args(&self) -> [Arg; 1] {
        match self {
            Self::Tdx(guest) => [guest.object()],
            Self::Snp(guest) => [guest.object()],
        }
    }
}
