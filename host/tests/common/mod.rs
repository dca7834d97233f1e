//! What the tests that need root share.

pub mod pod;

/// Says on stderr, where nobody can miss it, that a test does nothing.
pub fn root_or_skip() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: {:?} needs root", std::thread::current().name().unwrap_or("?"));
    }
    root
}
