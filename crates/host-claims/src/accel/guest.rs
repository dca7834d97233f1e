//! The test guest: four pages of memory, one vCPU that starts in 64-bit mode.

use std::path::Path;
use std::time::Duration;

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use nix::time::{ClockId, clock_gettime};

use super::{Broken, EXITS};
use crate::sys;

/// Steps between two exits, and how often.
const STEPS: u32 = 20_000;
const ROUNDS: u64 = 100;
/// How much slower than this very program the guest may count.
const SLOWER: u32 = 10;

/// ```text
///         pxor xmm0, xmm0 ; movq xmm1, rax
/// start:  paddq xmm0, xmm1 ; mov ecx, STEPS
/// next:   dec ecx ; jnz next ; movq rax, xmm0 ; out 0x10, al ; jmp start
/// ```
///
/// The sum comes and goes by a general register: KVM_SET_FPU does not make the SSE registers those of the guest where the
/// processor's record of them, which it does not touch, says that they are in their initial state.
const CODE: [u8; 31] = {
    let [a, b, c, d] = STEPS.to_le_bytes();
    [
        0x66, 0x0f, 0xef, 0xc0, 0x66, 0x48, 0x0f, 0x6e, 0xc8, 0x66, 0x0f, 0xd4, 0xc1, 0xb9, a, b, c, d, 0xff,
        0xc9, 0x75, 0xfc, 0x66, 0x48, 0x0f, 0x7e, 0xc0, 0xe6, 0x10, 0xeb, 0xea,
    ]
};

/// Page tables first: PML4, PDPT and a directory whose first entry maps 2 MiB onto themselves. Then code.
const PML4: u64 = 0;
const CODE_AT: u64 = 0x3000;
const PRESENT_WRITABLE: u64 = 0b11;
const LARGE: u64 = 1 << 7;

/// CR0: protection, monitor coprocessor, numeric errors, extension type and paging on.
const CR0: u64 = 1 << 31 | 1 << 5 | 1 << 4 | 1 << 1 | 1;
/// CR4: physical address extension, SSE.
const CR4: u64 = 1 << 10 | 1 << 9 | 1 << 5;
/// EFER: long mode enabled and active.
const EFER: u64 = 1 << 10 | 1 << 8;
/// Below the firmware, out of the guest's way; Intel's KVM wants three pages somewhere.
const TSS: usize = 0xfffb_d000;

#[repr(C, align(4096))]
struct Memory([u8; 0x4000]);

impl Memory {
    fn new() -> Box<Self> {
        let mut memory = Box::new(Self([0; 0x4000]));
        memory.put(0, &(0x1000 | PRESENT_WRITABLE).to_le_bytes());
        memory.put(0x1000, &(0x2000 | PRESENT_WRITABLE).to_le_bytes());
        memory.put(0x2000, &(LARGE | PRESENT_WRITABLE).to_le_bytes());
        memory.put(0x3000, &CODE);
        memory
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// Runs the guest to its end, or until it has shown that it will not get there.
pub(super) fn run(device: &Path) -> Result<(), Broken> {
    let failed = |what| move |e| Broken::Ioctl(what, e);
    let path = std::ffi::CString::new(device.as_os_str().as_encoded_bytes()).unwrap_or_default();
    let kvm = Kvm::new_with_path(&path).map_err(|e| Broken::Open(device.to_owned(), e))?;
    let vm = kvm.create_vm().map_err(failed("KVM_CREATE_VM"))?;
    vm.set_tss_address(TSS).map_err(failed("KVM_SET_TSS_ADDR"))?;
    let memory = Memory::new();
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: 0x4000,
        userspace_addr: std::ptr::from_ref(&*memory).expose_provenance() as u64,
    };
    sys::set_memory(&vm, region).map_err(failed("KVM_SET_USER_MEMORY_REGION"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(failed("KVM_CREATE_VCPU"))?;
    // A vCPU without features has no 64-bit mode: newer kernels then refuse the registers (seen with kvm-amd of 7.2).
    let features =
        kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(failed("KVM_GET_SUPPORTED_CPUID"))?;
    vcpu.set_cpuid2(&features).map_err(failed("KVM_SET_CPUID2"))?;
    set_up(&vcpu).map_err(failed("setting the vCPU's registers"))?;
    let result = drive(&mut vcpu);
    // The guest's memory outlives the guest.
    drop(vcpu);
    drop(vm);
    drop(memory);
    result
}

fn set_up(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let data = kvm_segment {
        limit: u32::MAX,
        selector: 16,
        type_: 3,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    let code = kvm_segment { selector: 8, type_: 11, db: 0, l: 1, ..data };
    let mut special = vcpu.get_sregs()?;
    special.cs = code;
    (special.ds, special.es, special.ss) = (data, data, data);
    (special.cr0, special.cr3, special.cr4, special.efer) = (CR0, PML4, CR4, EFER);
    vcpu.set_sregs(&special)?;
    vcpu.set_regs(&kvm_regs { rip: CODE_AT, rax: 1, rflags: 2, ..Default::default() })
}

fn drive(vcpu: &mut VcpuFd) -> Result<(), Broken> {
    let limit = native() * SLOWER + EXITS;
    let begin = cpu_time();
    for _ in 0..ROUNDS {
        match vcpu.run().map_err(|e| Broken::Ioctl("KVM_RUN", e))? {
            VcpuExit::IoOut(0x10, _) => {}
            other => return Err(Broken::Exit(format!("{other:?}"))),
        }
        if cpu_time().saturating_sub(begin) > limit {
            return Err(Broken::Slow(limit));
        }
    }
    let sum = vcpu.get_regs().map_err(|e| Broken::Ioctl("KVM_GET_REGS", e))?.rax;
    if sum == ROUNDS { Ok(()) } else { Err(Broken::Wrong(sum, ROUNDS)) }
}

/// What the same counting costs us. The host's CPU may itself be emulated, then all limits have to stretch.
fn native() -> Duration {
    let begin = cpu_time();
    let mut left = u64::from(STEPS) * ROUNDS;
    while left > 0 {
        left = std::hint::black_box(left - 1);
    }
    cpu_time().saturating_sub(begin)
}

/// What this thread has used of a CPU, KVM's work for it included.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_jumps_back_to_its_start_and_its_loop() {
        let jump = |at: usize| at + 2 + usize::from(CODE[at + 1]) - 256;
        assert_eq!((CODE[29], jump(29)), (0xeb, 9));
        assert_eq!((CODE[20], jump(20)), (0x75, 18));
    }

    #[test]
    fn the_tables_map_the_code() {
        let memory = Memory::new();
        assert_eq!(memory.0[0x1000], 0x03);
        assert_eq!(memory.0[0x2000], 0x83);
        assert_eq!(memory.0[0x3000..0x301f], CODE);
    }
}
