//! What engines send to the shim.

use containerd_shim_coffer::input;

/// The whole of standard input of `start`.
pub(super) fn start(input: &[u8]) {
    let _ = input::start(input);
}

/// `config.json`.
pub(super) fn bundle(input: &[u8]) {
    let _ = input::bundle(input);
}

/// An encoded `Any`.
pub(super) fn sandbox_options(input: &[u8]) {
    let _ = input::sandbox_options(input);
}

/// A volume's JSON.
pub(super) fn guest_pull(input: &[u8]) {
    let _ = input::guest_pull(input);
}
