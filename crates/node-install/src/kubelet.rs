//! How long kubelet waits for the runtime (`runtimeRequestTimeout`, KubeletConfiguration v1beta1).

use std::time::Duration;

use crate::error::Result;
use crate::root::Root;

/// Where kubeadm and most others have kubelet's configuration.
const FILE: &str = "/var/lib/kubelet/config.yaml";
/// kubelet's own value.
const DEFAULT: Duration = Duration::from_secs(120);
/// What pods with several GPUs and much memory need to start.
pub(crate) const RECOMMENDED: Duration = Duration::from_secs(20 * 60);

/// What is known of kubelet's patience.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kubelet {
    /// There is no configuration file; it may be given in another way.
    Unknown,
    /// It waits so long.
    Waits(Duration),
}

impl Kubelet {
    /// Reads the node's.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(root: &Root) -> Result<Self> {
        Ok(root.text(FILE)?.map_or(Self::Unknown, |text| Self::parse(&text)))
    }

    fn parse(text: &str) -> Self {
        let value = text.lines().find_map(|line| line.strip_prefix("runtimeRequestTimeout:"));
        let Some(value) = value else { return Self::Waits(DEFAULT) };
        let value = value.split('#').next().unwrap_or_default().trim().trim_matches(['"', '\'']);
        match duration(value) {
            // kubelet reads 0 as unset.
            Some(Duration::ZERO) => Self::Waits(DEFAULT),
            Some(duration) => Self::Waits(duration),
            None => Self::Unknown,
        }
    }

    /// One line that says what to do, where it is too short.
    #[must_use]
    pub fn advice(self) -> Option<String> {
        match self {
            Self::Waits(patience) if patience >= RECOMMENDED => None,
            Self::Waits(patience) => Some(format!(
                "kubelet gives up on a pod's start after {} s, and a large confidential VM with GPUs takes longer: set runtimeRequestTimeout: {}m in {FILE} and restart kubelet",
                patience.as_secs(),
                RECOMMENDED.as_secs() / 60
            )),
            Self::Unknown => Some(format!(
                "there is no {FILE}: see that kubelet's runtimeRequestTimeout is {}m, which is 2m by itself",
                RECOMMENDED.as_secs() / 60
            )),
        }
    }
}

/// Go's form: `20m`, `1h30m0s`, `0s`.
fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut total, mut rest) = (0u64, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let (unit, after) = rest[digits..]
            .split_at(rest[digits..].find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len() - digits));
        let milliseconds = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(milliseconds)?)?;
        rest = after;
    }
    (!text.is_empty()).then(|| Duration::from_millis(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_patience_is_told() {
        let of = |line: &str| Kubelet::parse(&format!("kind: KubeletConfiguration\n{line}\n"));
        for (line, seconds) in [
            ("runtimeRequestTimeout: 15m", 900),
            ("runtimeRequestTimeout: \"1h30m0s\" # long", 5400),
            ("runtimeRequestTimeout: 0s", 120),
            ("other: 1", 120),
        ] {
            assert_eq!(of(line), Kubelet::Waits(Duration::from_secs(seconds)), "{line}");
        }
        assert_eq!(of("runtimeRequestTimeout: soon"), Kubelet::Unknown);
        assert!(of("runtimeRequestTimeout: 20m").advice().is_none());
        assert!(of("x: 1").advice().unwrap().contains("after 120 s"));
    }
}
