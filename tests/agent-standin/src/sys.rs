//! The system calls that need `unsafe`.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::libc::{TIOCSWINSZ, winsize};
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
