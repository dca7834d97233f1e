//! `sev-snp-guest`: what makes a VM a SEV-SNP guest.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use measurement::initdata::HostData;
use measurement::snp::id_block::{Policy, SignedIdBlock};

use super::arg::{Arg, Options};
use super::confidential::TEE_ID;
use crate::config::SnpCpu;
use crate::tee::SevAddressing;

/// A SEV-SNP guest. Properties are those of QEMU 11's `sev-snp-guest` (`qapi/qom.json`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnpGuest {
    /// What encryption does to the host's addresses.
    pub addressing: SevAddressing,
    /// The CPU model; its signature is part of the launch digest.
    pub cpu: SnpCpu,
    /// What the host may do with the guest; in the report.
    pub policy: Policy,
    /// `HOST_DATA`; absent: zeros.
    pub host_data: Option<HostData>,
    /// What the tenant signed; the processor starts no other guest with it.
    pub id_block: Option<SignedIdBlock>,
}

impl SnpGuest {
    pub(super) fn object(&self) -> Arg {
        let mut object = Options::new("sev-snp-guest")
            .text("id", TEE_ID)
            .number("cbitpos", self.addressing.c_bit())
            .number("reduced-phys-bits", self.addressing.lost_bits())
            .text("policy", &format!("{:#x}", self.policy.bits()))
            .flag("kernel-hashes", true);
        if let Some(data) = &self.host_data {
            object = object.text("host-data", &BASE64_STANDARD.encode(data.as_bytes()));
        }
        if let Some(signed) = &self.id_block {
            object = object
                .text("id-block", &BASE64_STANDARD.encode(signed.block().encode()))
                .text("id-auth", &BASE64_STANDARD.encode(signed.auth()))
                .flag("author-key-enabled", true);
        }
        Arg::new("-object", object)
    }
}
