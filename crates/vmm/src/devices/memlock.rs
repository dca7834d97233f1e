//! The limit on locked memory, which QEMU inherits.
//!
//! A device may write to any of the guest's memory at any time, so the kernel locks all of it when QEMU maps it for the
//! device. Without CAP_IPC_LOCK that counts against RLIMIT_MEMLOCK.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use vmm_config::units::MemorySize;

use super::DevicesError;

/// What is locked besides: the device's own tables and QEMU's rings, by measure of others a few MiB.
const OTHERS: MemorySize = MemorySize::from_mib(64);

/// CAP_IPC_LOCK, by its bit (`linux/capability.h`): who has it may lock as much as there is.
const IPC_LOCK: u32 = 14;

/// Makes the limit of this process, and of the children that it starts from now on, enough for a VM with this memory.
///
/// # Errors
/// [`DevicesError::MemoryLock`]: the hard limit is lower and may not be raised.
pub(crate) fn raise(memory: MemorySize) -> Result<(), DevicesError> {
    let needed = memory.saturating_add(OTHERS);
    let failed = |limit: u64, errno: nix::errno::Errno| DevicesError::MemoryLock {
        limit: MemorySize::from_bytes(limit),
        needed,
        source: errno.into(),
    };
    let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK).map_err(|errno| failed(0, errno))?;
    if soft >= needed.bytes() {
        return Ok(());
    }
    let hard = hard.max(needed.bytes());
    match setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard) {
        Err(errno) if !is_exempt() => Err(failed(soft, errno)),
        _ => Ok(()),
    }
}

/// Whether the limit does not hold for this process and its children.
fn is_exempt() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    has_capability(&status, IPC_LOCK)
}

fn has_capability(status: &str, bit: u32) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    effective.is_some_and(|mask| mask >> bit & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_as_the_kernel_writes_them() {
        let status = "Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000004000\n";
        assert!(has_capability(status, IPC_LOCK) && !has_capability(status, 15));
        assert!(!has_capability("", IPC_LOCK));
    }

    #[test]
    fn the_limit_ends_above_the_need_or_is_an_error_with_both_numbers() {
        match raise(MemorySize::from_mib(1 << 10)) {
            Ok(()) => {
                let (soft, _) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap();
                assert!(soft >= 1088 << 20 || is_exempt());
            }
            Err(error) => assert!(error.to_string().contains("all of its 1088 MiB"), "{error}"),
        }
    }
}
