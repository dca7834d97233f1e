//! Virtual CPUs: all in one socket, one thread per core.

use super::arg::{Arg, Options};
use crate::spec::Accelerator;
use crate::units::Vcpus;

/// The VM's CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpu {
    /// How many.
    pub vcpus: Vcpus,
    /// Decides the model: the host's own under KVM, all that is emulated under TCG.
    pub accel: Accelerator,
}

impl Cpu {
    pub(super) fn args(&self) -> [Arg; 2] {
        let model = match self.accel {
            Accelerator::Kvm => Options::new("host"),
            // With them the kernel clears memory by `rep stosb`, which TCG does byte by byte: a sixth of a boot.
            Accelerator::Tcg => {
                Options::new("max").flag("erms", false).flag("fsrm", false).flag("fsrs", false)
            }
        };
        let topology = Options::new(&self.vcpus.to_string())
            .number("sockets", 1)
            .number("cores", self.vcpus)
            .number("threads", 1);
        [Arg::new("-cpu", model), Arg::new("-smp", topology)]
    }
}
