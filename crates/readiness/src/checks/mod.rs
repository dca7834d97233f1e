//! The checks, group by group.

mod containerd;
mod gpu;
mod jail;
mod machine;
mod qemu;
mod qgs;
pub(crate) mod snp;
pub(crate) mod tdx;
pub(crate) mod vm;

use shared_types::Accelerator;
use vmm_config::config::AutoOr;

use crate::check::{Class, Step};
use crate::host::Host;

/// Checks that belong together, and what they mean for each class.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) root: Step,
    pub(crate) weight: fn(&Host<'_>, Class) -> Weight,
}

/// What a failure in a group means for a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    /// Nothing.
    None,
    /// Its pods run, with a loss.
    Warns,
    /// Its pods do not run.
    Stops,
}

/// All groups, in the order of the report.
pub(crate) const GROUPS: [Group; 12] = [
    Group { root: machine::CONFIG, weight: always },
    Group { root: machine::CGROUP, weight: |_, _| Weight::Warns },
    Group { root: machine::MEMORY, weight: |_, _| Weight::Warns },
    Group { root: vm::KVM, weight: kvm },
    Group { root: vm::VSOCK, weight: always },
    Group { root: qemu::QEMU, weight: always },
    Group { root: vm::IMAGE, weight: always },
    Group { root: jail::JAIL, weight: always },
    Group { root: qemu::BUILDER, weight: |_, _| Weight::Warns },
    Group { root: containerd::CONTAINERD, weight: |_, _| Weight::Warns },
    Group { root: tdx::TDX, weight: |_, class| only(Class::Tdx, class) },
    Group { root: snp::SNP, weight: |_, class| only(Class::Snp, class) },
];

/// The GPUs', apart because they stop no pod that wants none.
pub(crate) const GPUS: Group = Group { root: gpu::GPUS, weight: |_, _| Weight::Warns };

fn always(_: &Host<'_>, _: Class) -> Weight {
    Weight::Stops
}

fn only(wanted: Class, class: Class) -> Weight {
    if class == wanted { Weight::Stops } else { Weight::None }
}

/// Emulation stands in for KVM in a plain VM, unless the configuration forbids it.
fn kvm(host: &Host<'_>, class: Class) -> Weight {
    match (class, host.config().accel) {
        (Class::Plain, AutoOr::Is(Accelerator::Tcg)) => Weight::None,
        (Class::Plain, AutoOr::Auto) => Weight::Warns,
        _ => Weight::Stops,
    }
}

/// A kernel's version, the first two numbers of its release.
pub(crate) fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_real_kernels() {
        assert_eq!(kernel_version("6.16.0-8-generic"), Some((6, 16)));
        assert_eq!(kernel_version("7.2.12+deb14-amd64"), Some((7, 2)));
        assert_eq!(kernel_version("6.11-rc3"), Some((6, 11)));
        assert_eq!(kernel_version("linux"), None);
        assert_eq!(kernel_version(""), None);
    }

    #[test]
    fn names_are_unique() {
        fn names(step: &Step, all: &mut Vec<&'static str>) {
            all.push(step.name);
            step.then.iter().for_each(|step| names(step, all));
        }
        let mut all = Vec::new();
        GROUPS.iter().chain([&GPUS]).for_each(|group| names(&group.root, &mut all));
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
