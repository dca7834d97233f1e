//! Virtual CPUs: all in one socket, or in one for each NUMA node; one thread per core.

use shared_types::Accelerator;

use super::arg::{Arg, Options};
use super::confidential::ConfidentialGuest;
use crate::passthrough::AddressWidth;
use crate::units::Vcpus;

/// The VM's CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpu {
    /// How many.
    pub vcpus: Vcpus,
    /// Decides the model: the host's own under KVM, all that is emulated under TCG.
    pub accel: Accelerator,
    /// How many sockets they are in: one for each of the guest's NUMA nodes.
    pub sockets: u8,
    /// How far physical addresses must reach, where devices have large BARs. Else QEMU's default does.
    pub width: Option<AddressWidth>,
}

impl Cpu {
    pub(super) fn args(&self, guest: Option<&ConfidentialGuest>) -> [Arg; 2] {
        let topology = Options::new(&self.vcpus.to_string())
            .number("sockets", self.sockets)
            .number("cores", self.vcpus.get() / self.sockets)
            .number("threads", 1);
        let model = guest.map_or_else(|| self.plain_model(), confidential_model);
        [Arg::new("-cpu", model), Arg::new("-smp", topology)]
    }

    fn plain_model(&self) -> Options {
        let model = match self.accel {
            Accelerator::Kvm => Options::new("host"),
            // With them the kernel clears memory by `rep stosb`, which TCG does byte by byte: a sixth of a boot.
            Accelerator::Tcg => {
                Options::new("max").flag("erms", false).flag("fsrm", false).flag("fsrs", false)
            }
        };
        match (self.width, self.accel) {
            (None, _) => model,
            (Some(_), Accelerator::Kvm) => model.flag("host-phys-bits", true),
            (Some(width), Accelerator::Tcg) => model.number("phys-bits", width),
        }
    }
}

/// Nothing that differs between hosts of one kind may be left to chance: what the guest can do is in its report (TDX's
/// PKS and PERFMON attributes) or in its launch digest (the signature). TDX refuses a guest whose physical addresses are
/// not as long as the host's, and large BARs need them in any case.
fn confidential_model(guest: &ConfidentialGuest) -> Options {
    match guest {
        ConfidentialGuest::Tdx(_) => Options::new("host").flag("pks", false),
        ConfidentialGuest::Snp(guest) => Options::new(guest.cpu.as_str()),
    }
    .flag("pmu", false)
    .flag("host-phys-bits", true)
}
