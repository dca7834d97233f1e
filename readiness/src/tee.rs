//! Which confidential VMs this host makes.

use vmm_config::config::Tee;
use vmm_config::tee::{HostTee, SevAddressing};

use crate::check::Class;
use crate::preflight::{Failed, preflight_with};
use crate::probe::{Now, Quick};
use crate::root::Root;

/// CPUID leaf with SEV's addressing.
const ENCRYPTION: u32 = 0x8000_001f;

/// What the host, whose files are below `root`, offers of what is wanted, as far as [`preflight`](crate::preflight)
/// can tell.
///
/// # Errors
/// The check that fails for the TEE that is wanted. For [`Tee::Auto`] a host without any is no error here.
pub fn tee(root: &Root, wanted: Tee) -> Result<HostTee, Failed> {
    tee_with(root, &Now, wanted)
}

/// [`tee`] of another host than this.
///
/// # Errors
/// As [`tee`].
pub fn tee_with(root: &Root, answers: &dyn Quick, wanted: Tee) -> Result<HostTee, Failed> {
    let absent = |reason: String| HostTee::Absent { reason };
    Ok(match wanted {
        Tee::None => absent("none is configured".to_owned()),
        Tee::Tdx => {
            preflight_with(root, answers, Class::Tdx)?;
            HostTee::Tdx
        }
        Tee::Snp => {
            preflight_with(root, answers, Class::Snp)?;
            let leaf = answers.cpuid(ENCRYPTION).and_then(|[_, ebx, ..]| SevAddressing::from_cpuid(ebx));
            leaf.map_or_else(|| absent("CPUID leaf 8000_001F has no C bit".to_owned()), HostTee::Snp)
        }
        Tee::Auto => match (tee_with(root, answers, Tee::Tdx), tee_with(root, answers, Tee::Snp)) {
            (Ok(found), _) | (_, Ok(found)) => found,
            (Err(tdx), Err(snp)) => absent(format!("{tdx}; {snp}")),
        },
    })
}
