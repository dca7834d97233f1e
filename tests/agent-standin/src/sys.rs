//! The system calls that need `unsafe`.

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc::{self, TIOCSWINSZ, winsize};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Pid, Whence, lseek, write};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

nix::ioctl_write_ptr_bad!(set_window_size, TIOCSWINSZ, winsize);
nix::ioctl_none!(reseed_crng, b'R', 0x07);

/// Sets the size of the terminal behind `terminal`, in characters.
pub fn resize(terminal: &impl AsRawFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open for the whole call and `size` is a valid winsize.
    unsafe { set_window_size(terminal.as_raw_fd(), &size) }?;
    Ok(())
}

/// Makes the kernel's random number generator use what was mixed in (`RNDRESEEDCRNG`, random(4)).
pub fn reseed(random: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for the whole call; the request takes no argument.
    unsafe { reseed_crng(random.as_raw_fd()) }?;
    Ok(())
}

/// Sends a signal, or what is none: the kernel looks for the process first, and refuses the number then.
pub fn kill(pid: Pid, signal: c_int) -> nix::Result<()> {
    // SAFETY: the call takes two numbers and touches no memory of ours.
    Errno::result(unsafe { libc::kill(pid.as_raw(), signal) }).map(drop)
}

/// Takes over a descriptor that the parent process left open for this one under a known number.
pub fn inherited(number: RawFd) -> OwnedFd {
    // SAFETY: the helper process is started with exactly this descriptor open and nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Watches a non-blocking descriptor of our own.
pub fn watched(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd names the same open file for as long as it lives, and the AsyncFd owns it.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(|failed| failed.into_parts().1)
}

/// What the library reads to learn whether it is in a user namespace of its own.
const UID_MAP: &CStr = c"/proc/self/uid_map";
/// What a process reads there that is in the first one (user_namespaces(7)).
const FIRST_NAMESPACE: &str = "         0          0 4294967295\n";

/// `open64` of every call of the standard library. The guest's kernel has no user namespaces, so that [`UID_MAP`] does not
/// exist, and libcontainer 0.7 needs it to learn that there is none: it gets what the first namespace's says.
///
/// # Safety
/// As open(2): `path` is a C string.
#[unsafe(no_mangle)]
unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: the caller's arguments go to the kernel as they are.
    let opened = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode) };
    let opened = c_int::try_from(opened).unwrap_or(-1);
    // SAFETY: the caller passed a C string.
    if opened >= 0 || Errno::last() != Errno::ENOENT || unsafe { CStr::from_ptr(path) } != UID_MAP {
        return opened;
    }
    let made = memfd_create(c"uid_map", MFdFlags::MFD_CLOEXEC).and_then(|file| {
        write(&file, FIRST_NAMESPACE.as_bytes())?;
        lseek(&file, 0, Whence::SeekSet)?;
        Ok(file)
    });
    made.map_or(-1, IntoRawFd::into_raw_fd)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_are_opened_as_ever() {
        let missing = fs::read("/no/such/file").unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "text").unwrap();
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "text");
        // Of this kernel, or made up.
        assert!(fs::read_to_string("/proc/self/uid_map").unwrap().contains("4294967295"));
    }
}
