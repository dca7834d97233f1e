//! What wakes the VMs in this VM.
//!
//! KVM on an emulated processor loses a timer of its guest now and then, most of all with a device of VFIO's: the guest then
//! sleeps until it is interrupted, for a minute or for ever (a `sleep 1` in a container was seen to take 132 s). Any
//! interrupt has it look at its timers again. A connection to a port of its vsock device where nobody listens is one.

use std::fs;
use std::os::fd::AsRawFd;
use std::sync::Once;
use std::thread;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};

/// A port of the guest's that nobody serves.
const NOBODY: u32 = 1;
const PAUSE: Duration = Duration::from_millis(500);

/// From now on every VM of this host is interrupted twice a second.
pub(crate) fn keep_awake() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        thread::spawn(|| {
            loop {
                guests().for_each(nudge);
                thread::park_timeout(PAUSE);
            }
        });
    });
}

/// The address of each VM, by its QEMU's command line.
pub(crate) fn guests() -> impl Iterator<Item = u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(|process| {
        let line = fs::read(process.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        let (_, rest) = line.split_once("guest-cid")?;
        let digits = rest.trim_start_matches(['=', '"', ':', ' ']);
        digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    })
}

fn nudge(guest: u32) {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let Ok(socket) = socket(AddressFamily::Vsock, SockType::Stream, flags, None) else { return };
    // Refused, or not answered in time to be known here: the guest was interrupted.
    let _ = connect(socket.as_raw_fd(), &VsockAddr::new(guest, NOBODY));
    thread::park_timeout(Duration::from_millis(50));
}
