//! System calls that neither std nor nix wraps safely. The only unsafe code of this crate.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(crate) mod bpf;

/// `VHOST_VSOCK_SET_GUEST_CID`, `_IOW(0xAF, 0x60, __u64)` of linux/vhost.h.
const VHOST_VSOCK_SET_GUEST_CID: libc::Ioctl = 0x4008_af60;

/// Whether a queue makes the tap device or joins the one that the first queue made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queue {
    /// Makes the device, fails with `EBUSY` when the name is taken.
    First,
    /// Attaches to the device.
    Further,
}

/// Binds an open `/dev/net/tun` to one queue of the tap `name` in the calling thread's network namespace.
pub(crate) fn attach_tap(tun: &File, name: &str, queue: Queue) -> io::Result<()> {
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    if queue == Queue::First {
        flags |= libc::IFF_TUN_EXCL;
    }
    // SAFETY: ifreq is plain old data; all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // The kernel takes the flags as 16 bits, the highest of them in use.
    let [low, high, ..] = flags.to_le_bytes();
    request.ifr_ifru.ifru_flags = libc::c_short::from_le_bytes([low, high]);
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives through the call.
    Errno::result(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    Ok(())
}

/// Gives the guest behind an open `/dev/vhost-vsock` its context id; `EADDRINUSE` when another has it.
pub(crate) fn set_guest_cid(vhost: &File, cid: u64) -> nix::Result<()> {
    // SAFETY: the request reads one u64, which lives through the call.
    Errno::result(unsafe { libc::ioctl(vhost.as_raw_fd(), VHOST_VSOCK_SET_GUEST_CID, &raw const cid) })?;
    Ok(())
}

/// A pidfd, close-on-exec, for a process that exists (a zombie counts).
pub(crate) fn pidfd_open(pid: i32) -> nix::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal to exactly the process that the pidfd stands for.
pub(crate) fn pidfd_send_signal(pidfd: impl AsFd, signal: Signal) -> nix::Result<()> {
    let info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a null siginfo is allowed and means what kill(2) would send.
    let done = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_fd().as_raw_fd(), signal as i32, info, 0)
    };
    Errno::result(done)?;
    Ok(())
}

/// Registers a descriptor with the runtime, to learn when it becomes readable.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the result owns the descriptor; an OwnedFd names the same one until it is dropped, and is
    // dropped after its registration.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// A descriptor that the kernel has just made for us.
pub(crate) fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the callers pass what accept4 returned; nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A thread of ours, as something to interrupt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ThreadId(Pthread);

// A pthread_t is an opaque number here.
impl ThreadId {
    /// The calling thread.
    pub(crate) fn own() -> Self {
        Self(pthread_self())
    }

    /// Makes the thread's system call return `EINTR`. The thread must not have been joined yet.
    pub(crate) fn interrupt(self) -> nix::Result<()> {
        extern "C" fn nothing(_: libc::c_int) {}
        let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing; SIGURG is ignored by default and has no other use here.
        unsafe { sigaction(Signal::SIGURG, &action) }?;
        pthread_kill(self.0, Signal::SIGURG)
    }
}

/// Gives a VM its memory.
pub(crate) fn set_memory(vm: &VmFd, region: kvm_userspace_memory_region) -> Result<(), kvm_ioctls::Error> {
    // SAFETY: the caller keeps the memory until the VM and its vCPUs are closed.
    unsafe { vm.set_user_memory_region(region) }
}

/// Makes the child die with the thread that spawns it, and nothing of its own survive an interrupted start.
pub(crate) fn die_with_parent(command: &mut Command) {
    let parent = nix::unistd::getpid();
    let in_child = move || {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have died before the line above took effect.
        if nix::unistd::getppid() != parent {
            return Err(Errno::ESRCH.into());
        }
        Ok(())
    };
    // SAFETY: the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(in_child) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pidfd_of_a_free_pid_is_refused() {
        assert_eq!(pidfd_open(i32::MAX).unwrap_err(), Errno::ESRCH);
    }

    #[test]
    fn a_tap_name_that_does_not_fit_is_refused() {
        let null = File::open("/dev/null").unwrap();
        let error = attach_tap(&null, "sixteen_letters_", Queue::First).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
