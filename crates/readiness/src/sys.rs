//! What needs `unsafe`: one instruction and one ioctl.

use std::arch::x86_64::__cpuid_count;
use std::fs::File;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;

/// `SEV_ISSUE_CMD`, `_IOWR('S', 0, struct sev_issue_cmd)` of linux/psp-sev.h: 16 packed bytes.
const SEV_ISSUE_CMD: libc::Ioctl = 0xc010_5300;
/// `SNP_PLATFORM_STATUS` of linux/psp-sev.h.
const SNP_PLATFORM_STATUS: u32 = 9;

/// `struct sev_issue_cmd`.
#[repr(C, packed)]
struct Command {
    command: u32,
    data: u64,
    error: u32,
}

/// EAX, EBX, ECX and EDX of a CPUID leaf, subleaf 0; `None` where the CPU's highest leaf is below.
pub(crate) fn cpuid(leaf: u32) -> Option<[u32; 4]> {
    let highest = raw_cpuid(leaf & 0x8000_0000)[0];
    (leaf <= highest).then(|| raw_cpuid(leaf))
}

#[allow(unused_unsafe, reason = "newer compilers know that the instruction is safe")]
fn raw_cpuid(leaf: u32) -> [u32; 4] {
    // SAFETY: every x86-64 CPU has the instruction, and it touches nothing but four registers.
    let result = unsafe { __cpuid_count(leaf, 0) };
    [result.eax, result.ebx, result.ecx, result.edx]
}

/// The 32 bytes that an open `/dev/sev` answers to `SNP_PLATFORM_STATUS`.
pub(crate) fn snp_platform_status(sev: &File) -> nix::Result<[u8; 32]> {
    let mut status = [0_u8; 32];
    let data = std::ptr::from_mut(&mut status).expose_provenance() as u64;
    let mut command = Command { command: SNP_PLATFORM_STATUS, data, error: 0 };
    // SAFETY: the request reads and writes one Command, and writes at most the 32 bytes of
    // `struct sev_user_data_snp_status` to where `data` points; both live through the call.
    Errno::result(unsafe { libc::ioctl(sev.as_raw_fd(), SEV_ISSUE_CMD, &raw mut command) })?;
    Ok(status)
}
