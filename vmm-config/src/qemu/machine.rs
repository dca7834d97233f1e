//! The board and what executes it.

use shared_types::Accelerator;

use super::arg::{Arg, Options};
use super::confidential::{ConfidentialGuest, TEE_ID};
use super::memory::{Memory, RAM_ID};
use crate::units::MemorySize;

/// A q35 board with everything off that a guest with virtio devices has no use for: each legacy part is
/// code that the guest could attack and time that its boot would lose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// What executes the guest.
    pub accel: Accelerator,
}

impl Machine {
    /// Most memory that TCG keeps translated code in. QEMU's own choice is an eighth of the guest's memory
    /// and up to 1 GiB, none of which the pod's limit knows of; a whole boot translates less than this.
    pub(crate) const TCG_CACHE: MemorySize = MemorySize::from_mib(128);

    pub(super) fn args(&self, memory: &Memory, guest: Option<&ConfidentialGuest>) -> [Arg; 2] {
        let mut machine = Options::new("q35");
        // Memory that is shared out over NUMA nodes is named by each node instead.
        if memory.nodes.len() < 2 {
            machine = machine.text("memory-backend", RAM_ID);
        }
        if guest.is_some() {
            machine = machine.text("confidential-guest-support", TEE_ID);
        }
        machine = machine
            .flag("hpet", false)
            .flag("i8042", false)
            .flag("sata", false)
            .flag("smbus", false)
            .flag("smm", false)
            .flag("usb", false)
            .flag("vmport", false)
            .flag("graphics", false)
            .flag("dump-guest-core", false)
            .flag("mem-merge", false);
        let accel = match self.accel {
            // TDX takes no other interrupt controller; for SEV-SNP it keeps most of it out of the host's kernel.
            Accelerator::Kvm if guest.is_some() => Options::new("kvm").text("kernel-irqchip", "split"),
            Accelerator::Kvm => Options::new("kvm"),
            Accelerator::Tcg => {
                // KVM keeps these two in the kernel and they cost nothing. Emulated, the guest spends a
                // twentieth of its boot calibrating against a timer that it then never uses. Only both or
                // none: with the interrupt controller alone Linux waits for the timer and panics.
                machine = machine.flag("pic", false).flag("pit", false);
                Options::new("tcg").text("thread", "multi").number("tb-size", Self::TCG_CACHE.mib())
            }
        };
        [Arg::new("-machine", machine), Arg::new("-accel", accel)]
    }
}
