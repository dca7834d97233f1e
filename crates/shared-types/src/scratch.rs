//! A pod's scratch disk: how it is asked for, and how the guest knows it.

use std::fmt;
use std::str::FromStr;

/// A size of a scratch disk, in whole MiB: 64 MiB to 16 TiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScratchSize(u64);

/// A text or a number that is no size of a scratch disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a scratch disk has 64Mi to 16Ti: a whole number with Mi, Gi or Ti, such as 100Gi")]
pub struct BadScratchSize;

impl ScratchSize {
    /// The pod's annotation that asks for one. It begins as the annotations do that engines hand on to the runtime.
    pub const ANNOTATION: &str = "io.katacontainers.config.coffer.scratch";
    /// The disk's serial number.
    pub const SERIAL: &str = "coffer-scratch";
    const LEAST: u64 = 64;
    const MOST: u64 = 16 << 20;

    /// So many MiB.
    ///
    /// # Errors
    /// [`BadScratchSize`].
    pub const fn from_mib(mib: u64) -> Result<Self, BadScratchSize> {
        if mib < Self::LEAST || mib > Self::MOST { Err(BadScratchSize) } else { Ok(Self(mib)) }
    }

    /// In MiB.
    pub const fn mib(self) -> u64 {
        self.0
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0 << 20
    }
}

impl FromStr for ScratchSize {
    type Err = BadScratchSize;

    /// Of Kubernetes' ways to write a quantity the usual one, so that there is nothing to round.
    fn from_str(text: &str) -> Result<Self, BadScratchSize> {
        let units = [("Mi", 1), ("Gi", 1 << 10), ("Ti", 1 << 20)];
        let (number, unit) = units
            .into_iter()
            .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, unit)))
            .ok_or(BadScratchSize)?;
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let number = Some(number).filter(|_| is_number).and_then(|number| number.parse::<u64>().ok());
        Self::from_mib(number.and_then(|number| number.checked_mul(unit)).ok_or(BadScratchSize)?)
    }
}

impl fmt::Display for ScratchSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_and_within_bounds() {
        for (text, mib) in
            [("64Mi", 64), ("1Gi", 1024), ("100Gi", 102_400), ("16Ti", 16 << 20), ("016Gi", 16_384)]
        {
            let size: ScratchSize = text.parse().unwrap();
            assert_eq!((size.mib(), size.bytes()), (mib, mib << 20), "{text}");
        }
        for text in [
            "",
            "Gi",
            "63Mi",
            "17Ti",
            "100",
            "100G",
            "100GiB",
            "1.5Gi",
            "-1Gi",
            "+1Gi",
            " 1Gi",
            "1 Gi",
            "1e3Mi",
            "1024Ki",
            "99999999999999999999Gi",
            "18014398509481985Gi",
        ] {
            assert_eq!(text.parse::<ScratchSize>(), Err(BadScratchSize), "{text}");
        }
    }
}
