//! Which confidential VMs this host makes.

use vmm_config::config::Tee;
use vmm_config::tee::{HostTee, SevAddressing};

use crate::check::Class;
use crate::preflight::preflight_with;
use crate::probe::{Now, Quick};
use crate::root::Root;

/// CPUID leaf with SEV's addressing.
const ENCRYPTION: u32 = 0x8000_001f;

/// What the host, whose files are below `root`, offers of what is wanted, as far as [`preflight`](crate::preflight)
/// can tell.
pub fn tee(root: &Root, wanted: Tee) -> HostTee {
    tee_with(root, &Now, wanted)
}

/// [`tee`] of another host than this.
pub fn tee_with(root: &Root, answers: &dyn Quick, wanted: Tee) -> HostTee {
    let absent = |reason: String| HostTee::Absent { reason };
    match wanted {
        Tee::None => absent("none is configured".to_owned()),
        Tee::Tdx => preflight_with(root, answers, Class::Tdx)
            .map_or_else(|failed| absent(failed.to_string()), |()| HostTee::Tdx),
        Tee::Snp => match preflight_with(root, answers, Class::Snp) {
            Err(failed) => absent(failed.to_string()),
            Ok(()) => answers
                .cpuid(ENCRYPTION)
                .and_then(|[_, ebx, ..]| SevAddressing::from_cpuid(ebx))
                .map_or_else(|| absent("CPUID leaf 8000_001F has no C bit".to_owned()), HostTee::Snp),
        },
        Tee::Auto => match (tee_with(root, answers, Tee::Tdx), tee_with(root, answers, Tee::Snp)) {
            (HostTee::Absent { reason: tdx }, HostTee::Absent { reason: snp }) => {
                absent(format!("{tdx}; {snp}"))
            }
            (HostTee::Absent { .. }, snp) => snp,
            (tdx, _) => tdx,
        },
    }
}
