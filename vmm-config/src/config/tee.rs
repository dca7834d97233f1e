//! Values of the keys that concern confidential VMs.

use measurement::snp::CpuSignature;
use measurement::snp::id_block::Policy;
use serde_json::Value as Json;
use toml::de::DeValue;

use super::values::{Value, choice, form, text};
use crate::path::AbsolutePath;

/// The trusted execution environment that guards the VM from its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tee {
    /// A plain VM: the host can read it.
    None,
    /// A TDX trust domain.
    Tdx,
    /// A SEV-SNP guest.
    Snp,
    /// The one that the host has.
    Auto,
}

choice!(Tee { "none" => None, "tdx" => Tdx, "snp" => Snp, "auto" => Auto });

/// Where QEMU has a guest's report made into a quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuoteService {
    /// Nowhere: the guest can prove nothing.
    None,
    /// By a service at this address.
    At(QuoteAddress),
}

/// The address of a quote generation service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuoteAddress {
    /// A unix socket.
    Unix(AbsolutePath),
    /// A vsock port; cid 2 is the host.
    Vsock {
        /// Context id.
        cid: u32,
        /// Port.
        port: u32,
    },
}

impl QuoteService {
    /// Where Intel's service listens by default.
    pub(super) fn usual() -> Self {
        Self::At(QuoteAddress::Unix(AbsolutePath::known("/var/run/tdx-qgs/qgs.socket")))
    }

    fn parse(text: &str) -> Option<Self> {
        if text == "none" {
            return Some(Self::None);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return AbsolutePath::new(path).ok().map(QuoteAddress::Unix).map(Self::At);
        }
        let (cid, port) = text.strip_prefix("vsock:")?.split_once(':')?;
        Some(Self::At(QuoteAddress::Vsock { cid: cid.parse().ok()?, port: port.parse().ok()? }))
    }
}

impl Value for QuoteService {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let given = text(value)?;
        Self::parse(given)
            .ok_or_else(|| format!("is {given:?}; it must be \"unix:/PATH\", \"vsock:CID:PORT\" or \"none\""))
    }

    fn to_json(&self) -> Json {
        match self {
            Self::None => "none".into(),
            Self::At(QuoteAddress::Unix(path)) => format!("unix:{path}").into(),
            Self::At(QuoteAddress::Vsock { cid, port }) => format!("vsock:{cid}:{port}").into(),
        }
    }
}

/// A CPU model of QEMU's with a known signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnpCpu(String);

impl SnpCpu {
    /// Has VAES, without which AES-GCM, and with it every copy to a GPU, has half the speed; every SNP host has it.
    pub(super) fn usual() -> Self {
        Self("EPYC-Milan-v2".to_owned())
    }

    /// The model's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its signature; `None` cannot be for a checked name.
    pub fn signature(&self) -> Option<CpuSignature> {
        CpuSignature::of_model(&self.0).ok()
    }
}

impl Value for SnpCpu {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let name = text(value)?;
        match CpuSignature::of_model(name) {
            Ok(_) => Ok(Self(name.to_owned())),
            Err(error) => Err(format!("is {name:?}: {error}")),
        }
    }

    fn to_json(&self) -> Json {
        self.as_str().into()
    }
}

/// What a SEV-SNP guest's policy can forbid its host (AMD 56860, 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restriction {
    /// No simultaneous multithreading.
    NoSmt,
    /// One socket only.
    SingleSocket,
    /// Running average power limit switched off.
    NoRapl,
    /// The host does not see the guest's ciphertext.
    CiphertextHiding,
    /// No guest page is swapped out by the firmware.
    NoPageSwap,
}

choice!(Restriction {
    "no-smt" => NoSmt,
    "single-socket" => SingleSocket,
    "no-rapl" => NoRapl,
    "ciphertext-hiding" => CiphertextHiding,
    "no-page-swap" => NoPageSwap
});

/// A SEV-SNP guest's policy: no debugging, no migration, and what the node forbids besides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnpPolicy(Vec<Restriction>);

impl SnpPolicy {
    /// As the firmware takes it.
    pub fn policy(&self) -> Policy {
        let bits = self.0.iter().fold(Policy::DEFAULT.bits(), |bits, restriction| match restriction {
            Restriction::NoSmt => bits & !(1 << 16),
            Restriction::SingleSocket => bits | 1 << 20,
            Restriction::NoRapl => bits | 1 << 23,
            Restriction::CiphertextHiding => bits | 1 << 24,
            Restriction::NoPageSwap => bits | 1 << 25,
        });
        // No restriction touches the two bits that `Policy` checks.
        Policy::new(bits).unwrap_or(Policy::DEFAULT)
    }
}

impl Value for SnpPolicy {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let DeValue::Array(items) = value else { return Err(form(value, "a list of strings")) };
        let mut restrictions = Vec::new();
        for item in items {
            let restriction = Restriction::from_toml(item.get_ref())?;
            if restrictions.contains(&restriction) {
                return Err(format!("holds {:?} twice", restriction.name()));
            }
            restrictions.push(restriction);
        }
        Ok(Self(restrictions))
    }

    fn to_json(&self) -> Json {
        self.0.iter().map(|restriction| restriction.name()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NodeConfig;

    fn config(text: &str) -> Result<NodeConfig, String> {
        NodeConfig::parse(text, "c").map_err(|e| e.to_string())
    }

    #[test]
    fn a_policy_never_allows_debugging_and_keeps_the_reserved_bit() {
        assert_eq!(NodeConfig::default().snp_policy.policy().bits(), 0x3_0000);
        let all =
            r#"snp_policy = ["no-smt", "single-socket", "no-rapl", "ciphertext-hiding", "no-page-swap"]"#;
        assert_eq!(config(all).unwrap().snp_policy.policy().bits(), 0x392_0000);
        for wrong in [r#"["debug"]"#, r#"["no-smt", "no-smt"]"#, "0x30000"] {
            let error = config(&format!("snp_policy = {wrong}")).unwrap_err();
            assert!(error.contains("snp_policy"), "{error}");
        }
    }

    #[test]
    fn quote_services_are_addresses_or_none() {
        for good in ["unix:/run/qgs", "vsock:2:4050", "none"] {
            let config = config(&format!("quote_service = {good:?}")).unwrap();
            assert_eq!(config.quote_service.to_json(), good);
        }
        for bad in ["", "unix:qgs", "vsock:2", "vsock:2:x", "vsock:-1:1", "tcp:1:2", "/run/qgs"] {
            assert!(
                config(&format!("quote_service = {bad:?}")).unwrap_err().contains("vsock:CID:PORT"),
                "{bad}"
            );
        }
    }

    #[test]
    fn only_models_with_a_known_signature_are_taken() {
        assert_eq!(config("snp_cpu = \"EPYC-Genoa-v1\"").unwrap().snp_cpu.as_str(), "EPYC-Genoa-v1");
        let error = config("snp_cpu = \"host\"").unwrap_err();
        assert!(error.contains("EPYC-Milan"), "{error}");
    }
}
