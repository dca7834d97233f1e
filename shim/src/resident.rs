//! Keeps the idle shim small: what booted a pod is not needed while it runs.
//!
//! The kernel maps sixteen pages of a program around each one that is touched, so that a boot leaves nearly the whole
//! program mapped, for as long as the pod lives. What is dropped here stays in the page cache, and comes back by a
//! page fault if it is called again.

use std::ffi::c_void;
use std::ptr::{NonNull, addr_of};

use nix::sys::mman::{MmapAdvise, madvise};

unsafe extern "C" {
    /// First byte of the program's image, defined by the linker.
    #[link_name = "__executable_start"]
    static START: u8;
    /// First byte behind the program's code, defined by the linker.
    #[link_name = "etext"]
    static END: u8;
}

/// The largest page size of the architectures that the shim is built for; smaller ones divide it.
const PAGE: usize = 64 << 10;

/// Unmaps the program's constants and code from this process until they are used again.
pub fn drop_idle_code() {
    // Constants and code are the image's first segments, and only they lie below `etext`: written data lies above.
    let (start, end) = (addr_of!(START) as usize, addr_of!(END) as usize);
    let (start, end) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
    let (Some(length), Some(address)) = (end.checked_sub(start), NonNull::new(start as *mut c_void)) else {
        return;
    };
    // SAFETY: the range is whole pages of private file mappings that are never written, so that the file brings back
    // the same bytes; no Rust object in it can be changed.
    let dropped = unsafe { madvise(address, length, MmapAdvise::MADV_DONTNEED) };
    // A range that the linker laid out differently is refused (ENOMEM for a hole), and nothing is lost by that.
    let _ = dropped;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Resident bytes of this program's file mappings.
    fn resident() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("RssFile:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn code_goes_and_comes_back() {
        let text: Vec<_> = (0..10_000).map(|number| number.to_string()).collect();
        let before = resident();
        drop_idle_code();
        let after = resident();
        assert!(after < before, "{before} KiB before, {after} KiB after");
        assert_eq!(text.concat().parse::<f64>().ok(), Some(f64::INFINITY));
    }
}
