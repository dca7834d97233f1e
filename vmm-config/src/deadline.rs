//! How long a VM may take to boot.
//!
//! Two limits, both growing with the VM. The *stall* limit is reset by every sign of life (console, QMP)
//! and ends a boot that hangs; the *total* limit ends one that only seems to live. With M the memory in
//! GiB, C the vCPUs and D the passed-through devices:
//!
//! ```text
//! stall = 20 s + 0.25 s × M + 0.5 s × C +  5 s × D
//! total = 60 s + 1.0  s × M + 2.5 s × C + 15 s × D
//! ```
//!
//! and four times that under TCG, and under KVM on a host that is a VM itself, where each exit of the guest costs
//! several of the host. Memory counts because pinning and accepting it does; CPUs because
//! bringing up each one is serial; devices because each is reset and its BARs are mapped. The factors
//! are about twice the slowest boots known of large confidential VMs (800 GiB and 8 GPUs: 4.5 minutes;
//! 248 vCPUs: 11 minutes).
//!
//! A firmware that accepts all memory of a confidential VM before the kernel starts ([`Acceptance::Eager`]) adds
//! 4 s × M to both, since it says nothing meanwhile. Of such boots only a lower bound is known (64 GiB were not
//! accepted after 90 s); this is about three times that.

use std::time::Duration;

use measurement::ovmf::Acceptance;
use shared_types::Accelerator;

use crate::spec::VmSpec;
use crate::units::{MemorySize, Vcpus};

/// What the host runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// Its hardware.
    Hardware,
    /// A hypervisor.
    Hypervisor,
}

impl Ground {
    /// How many times longer what a VM does may take on it.
    pub fn slower(self) -> u32 {
        match self {
            Self::Hardware => 1,
            Self::Hypervisor => SLOWER,
        }
    }
}

/// Emulation, or a VM in a VM, against hardware.
const SLOWER: u32 = 4;

/// What a boot's duration depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootShape {
    /// The VM's memory.
    pub memory: MemorySize,
    /// Its CPUs.
    pub vcpus: Vcpus,
    /// Host devices passed through to it.
    pub passthrough: u32,
    /// What executes it.
    pub accel: Accelerator,
    /// Who accepts its memory, if that has to be.
    pub acceptance: Acceptance,
    /// What that itself runs on.
    pub ground: Ground,
}

/// Limits of one boot, from QEMU's start to the agent's first answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootDeadlines {
    /// Longest time without a sign of life.
    pub stall: Duration,
    /// Longest time altogether.
    pub total: Duration,
}

impl BootDeadlines {
    /// The limits for a VM on this host.
    pub fn of(spec: &VmSpec, ground: Ground) -> Self {
        let limits = Self::for_shape(BootShape {
            memory: spec.memory().size(),
            vcpus: spec.vcpus(),
            passthrough: u32::try_from(spec.passthrough().len()).unwrap_or(u32::MAX),
            accel: spec.accelerator(),
            acceptance: spec.acceptance(),
            ground,
        });
        match spec.console {
            Some(_) => limits,
            // A guest without a console cannot say that it lives: only the total limit means anything.
            None => Self { stall: limits.total, ..limits },
        }
    }

    /// The limits for a shape.
    pub(crate) fn for_shape(shape: BootShape) -> Self {
        let slower = u64::from(match shape.accel {
            Accelerator::Kvm => shape.ground.slower(),
            Accelerator::Tcg => SLOWER,
        });
        let gib = shape.memory.mib().div_ceil(1024);
        let (vcpus, devices) = (u64::from(shape.vcpus.get()), u64::from(shape.passthrough));
        let accepting = match shape.acceptance {
            Acceptance::Eager => 4_000,
            Acceptance::Lazy | Acceptance::Unknown => 0,
        };
        let limit = |base: u64, per_gib: u64, per_vcpu: u64, per_device: u64| {
            let ms = base + (per_gib + accepting) * gib + per_vcpu * vcpus + per_device * devices;
            Duration::from_millis(ms * slower)
        };
        Self { stall: limit(20_000, 250, 500, 5_000), total: limit(60_000, 1_000, 2_500, 15_000) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::VmMemory;

    fn shape(gib: u64, vcpus: u64, passthrough: u32, accel: Accelerator) -> BootShape {
        let vcpus = Vcpus::new(vcpus).unwrap();
        let memory = MemorySize::from_mib(gib * 1024);
        let (acceptance, ground) = (Acceptance::Unknown, Ground::Hardware);
        BootShape { memory, vcpus, passthrough, accel, acceptance, ground }
    }

    #[test]
    fn a_firmware_that_accepts_all_memory_has_time_for_it() {
        let unknown = shape(64, 8, 0, Accelerator::Kvm);
        let of = |acceptance| BootDeadlines::for_shape(BootShape { acceptance, ..unknown });
        assert_eq!(of(Acceptance::Lazy), BootDeadlines::for_shape(unknown));
        let (lazy, eager) = (of(Acceptance::Lazy), of(Acceptance::Eager));
        assert_eq!(eager.stall - lazy.stall, Duration::from_secs(256));
        assert_eq!(eager.total - lazy.total, Duration::from_secs(256));
    }

    #[test]
    fn small_vm_by_the_formula() {
        let kvm = BootDeadlines::for_shape(shape(2, 1, 0, Accelerator::Kvm));
        assert_eq!(kvm.stall, Duration::from_secs(21));
        assert_eq!(kvm.total, Duration::from_millis(64_500));
        let tcg = BootDeadlines::for_shape(shape(2, 1, 0, Accelerator::Tcg));
        assert_eq!((tcg.stall, tcg.total), (kvm.stall * 4, kvm.total * 4));
        let nested = |accel| BootShape { ground: Ground::Hypervisor, ..shape(2, 1, 0, accel) };
        for accel in [Accelerator::Kvm, Accelerator::Tcg] {
            assert_eq!(BootDeadlines::for_shape(nested(accel)), tcg);
        }
    }

    #[test]
    fn known_slow_boots_have_room() {
        let gpus = BootDeadlines::for_shape(shape(800, 64, 12, Accelerator::Kvm));
        assert!(gpus.total > 2 * Duration::from_secs(270), "{gpus:?}");
        let cpus = BootDeadlines::for_shape(shape(64, 248, 0, Accelerator::Kvm));
        assert!(cpus.total > Duration::from_secs(680), "{cpus:?}");
    }

    #[test]
    fn every_dimension_adds_and_nothing_overflows() {
        let base = BootDeadlines::for_shape(shape(1, 1, 0, Accelerator::Kvm));
        for larger in [(2, 1, 0), (1, 2, 0), (1, 1, 1)] {
            let more = BootDeadlines::for_shape(shape(larger.0, larger.1, larger.2, Accelerator::Kvm));
            assert!(more.stall > base.stall && more.total > base.total, "{larger:?}");
        }
        let most = BootShape { memory: VmMemory::MAX, ..shape(1, 255, u32::MAX, Accelerator::Tcg) };
        assert!(BootDeadlines::for_shape(most).total > BootDeadlines::for_shape(most).stall);
    }
}
