//! Which confidential VMs this host makes.

use vmm_config::config::{NodeConfig, Tee};
use vmm_config::tee::{HostTee, SevAddressing};

use crate::check::Class;
use crate::preflight::{Failed, Warned, preflight_with};
use crate::probe::{Now, Quick};
use crate::root::Root;

/// CPUID leaf with SEV's addressing.
const ENCRYPTION: u32 = 0x8000_001f;

/// What a host offers.
#[derive(Debug, PartialEq, Eq)]
pub struct Offer {
    /// The TEE, or why there is none.
    pub tee: HostTee,
    /// Checks that found something wrong which does not keep such VMs from starting.
    pub warnings: Vec<Warned>,
}

/// What the host, whose files are below `root`, offers of the TEE that the configuration wants, as far as
/// [`preflight`](crate::preflight) can tell.
///
/// # Errors
/// The check that fails for the TEE that is wanted. For [`Tee::Auto`] a host without any is no error here.
pub fn tee(root: &Root, config: &NodeConfig) -> Result<Offer, Failed> {
    tee_with(root, &Now, config)
}

/// [`tee`] of another host than this.
///
/// # Errors
/// As [`tee`].
pub fn tee_with(root: &Root, answers: &dyn Quick, config: &NodeConfig) -> Result<Offer, Failed> {
    let absent = |reason: String| Offer { tee: HostTee::Absent { reason }, warnings: Vec::new() };
    let tdx = || {
        let warnings = preflight_with(root, answers, config, Class::Tdx)?;
        Ok(Offer { tee: HostTee::Tdx, warnings })
    };
    let snp = || {
        let warnings = preflight_with(root, answers, config, Class::Snp)?;
        let leaf = answers.cpuid(ENCRYPTION).and_then(|[_, ebx, ..]| SevAddressing::from_cpuid(ebx));
        Ok(match leaf {
            Some(addressing) => Offer { tee: HostTee::Snp(addressing), warnings },
            None => absent("CPUID leaf 8000_001F has no C bit".to_owned()),
        })
    };
    match config.tee {
        Tee::None => Ok(absent("none is configured".to_owned())),
        Tee::Tdx => tdx(),
        Tee::Snp => snp(),
        Tee::Auto => Ok(match (tdx(), snp()) {
            (Ok(found), _) | (_, Ok(found)) => found,
            (Err::<_, Failed>(tdx), Err::<_, Failed>(snp)) => absent(format!("{tdx}; {snp}")),
        }),
    }
}
