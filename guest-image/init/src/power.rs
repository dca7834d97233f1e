//! The way down.

use std::convert::Infallible;

use nix::sys::reboot::{RebootMode, reboot};

use crate::console::{drain, say};

/// Powers the VM off. There is nothing to write back: the root is read-only, the rest is memory.
///
/// Returns never; if the kernel refuses, it waits for the host to end the VM rather than end PID 1.
pub fn off() -> ! {
    drain();
    let Err(errno): Result<Infallible, _> = reboot(RebootMode::RB_POWER_OFF);
    say(format_args!("power off refused ({errno}); waiting for the host"));
    loop {
        nix::unistd::pause();
    }
}
