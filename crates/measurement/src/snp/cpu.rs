//! CPU models of QEMU and their CPUID signatures.

use std::fmt;
use std::str::FromStr;

/// Model names and their family, model and stepping, as QEMU 11.1 reports them (QMP
/// `query-cpu-model-expansion`). All versions (`-v1` and so on) of a model have the same signature.
const MODELS: &[(&str, u8, u8, u8)] = &[
    ("EPYC", 23, 1, 2),
    ("EPYC-Genoa", 25, 17, 0),
    ("EPYC-IBPB", 23, 1, 2),
    ("EPYC-Milan", 25, 1, 1),
    ("EPYC-Rome", 23, 49, 0),
    ("EPYC-Turin", 26, 0, 0),
];

/// EAX of CPUID leaf 1: family, model and stepping. It is in EDX when a vCPU starts, and so in its VMSA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuSignature(u32);

impl CpuSignature {
    /// From family, model and stepping as people write them (AMD, "CPUID Specification" (25481)).
    pub(crate) const fn from_parts(family: u8, model: u8, stepping: u8) -> Self {
        let (base, extended) = if family < 15 { (family, 0) } else { (15, family - 15) };
        Self(
            (extended as u32) << 20
                | (model as u32 >> 4) << 16
                | (base as u32) << 8
                | (model as u32 & 0xf) << 4
                | stepping as u32 & 0xf,
        )
    }

    /// The signature of QEMU's model `name`, with or without a version. Case matters, as in QEMU.
    ///
    /// # Errors
    /// [`UnknownCpu`] with the names that are known.
    pub fn of_model(name: &str) -> Result<Self, UnknownCpu> {
        let unversioned = match name.rsplit_once("-v") {
            Some((model, version)) if is_version(version) => model,
            _ => name,
        };
        MODELS
            .iter()
            .find(|(model, ..)| *model == unversioned)
            .map(|(_, family, model, stepping)| Self::from_parts(*family, *model, *stepping))
            .ok_or_else(|| UnknownCpu { name: name.to_owned() })
    }

    /// The models that [`CpuSignature::of_model`] knows.
    pub fn models() -> impl Iterator<Item = &'static str> {
        MODELS.iter().map(|(name, ..)| *name)
    }

    /// EAX of CPUID leaf 1.
    pub const fn bits(self) -> u32 {
        self.0
    }
}

/// A version is a number without leading zeros.
fn is_version(text: &str) -> bool {
    !text.starts_with('0') && text.len() <= 2 && !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

impl fmt::Display for CpuSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Accepts what [`CpuSignature`] prints: a hexadecimal number that starts with `0x`.
impl FromStr for CpuSignature {
    type Err = NoSignature;

    fn from_str(text: &str) -> Result<Self, NoSignature> {
        let digits = text.strip_prefix("0x").filter(|d| !d.starts_with('+')).ok_or(NoSignature)?;
        u32::from_str_radix(digits, 16).map(Self).map_err(|_| NoSignature)
    }
}

/// A text that is no CPUID signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a CPUID signature is EAX of leaf 1 in hexadecimal, such as 0x800f12")]
pub struct NoSignature;

/// A CPU model whose signature is not known here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the CPU model {name:?} is not known; known are {known}, or give its CPUID signature", known = known())]
pub struct UnknownCpu {
    /// What was asked for.
    pub name: String,
}

fn known() -> String {
    CpuSignature::models().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_has_its_models_signature() {
        for (name, bits) in [
            ("EPYC", 0x0080_0f12),
            ("EPYC-v4", 0x0080_0f12),
            ("EPYC-IBPB", 0x0080_0f12),
            ("EPYC-Rome-v5", 0x0083_0f10),
            ("EPYC-Milan", 0x00a0_0f11),
            ("EPYC-Genoa-v3", 0x00a1_0f10),
            ("EPYC-Turin-v2", 0x00b0_0f00),
        ] {
            assert_eq!(CpuSignature::of_model(name).unwrap().bits(), bits, "{name}");
        }
    }

    #[test]
    fn other_names_are_refused_with_those_known() {
        for name in ["", "epyc", "EPYC-v", "EPYC-v04", "EPYC-v100", "EPYC-v-4", "EPYC-Naples", "host", "-v1"]
        {
            let error = CpuSignature::of_model(name).unwrap_err().to_string();
            assert!(error.contains("EPYC-Genoa") && error.contains(&format!("{name:?}")), "{error}");
        }
    }

    #[test]
    fn signatures_are_hexadecimal() {
        assert_eq!("0x800f12".parse(), Ok(CpuSignature::from_parts(23, 1, 2)));
        assert_eq!(CpuSignature::from_parts(23, 1, 2).to_string(), "0x800f12");
        assert_eq!(CpuSignature::from_parts(6, 0x8f, 8).bits(), 0x0008_06f8);
        for bad in ["", "800f12", "0x", "0x+1", "0x1ffffffff", "0xg"] {
            assert_eq!(bad.parse::<CpuSignature>(), Err(NoSignature), "{bad}");
        }
    }
}
