//! Claims on a real kernel: namespaces, traffic control, mounts. They need root; without it each test says
//! that it was skipped, and passes.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod net;
mod pod;
mod rootfs;
mod vsock;

/// Says on stderr, where nobody can miss it, that a test does nothing.
fn root_or_skip() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: {:?} needs root", std::thread::current().name().unwrap_or("?"));
    }
    root
}
