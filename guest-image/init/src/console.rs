//! Lines on the guest console.

use std::fmt::Display;
use std::io::Write;

use nix::sys::termios::tcdrain;

/// Writes one line to the console, as far as that is possible: there is nobody to report a failure to.
pub fn say(message: impl Display) {
    // One write, so that the agent's output cannot split the line.
    let line = format!("coffer-init: {message}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Waits until the console has taken everything written so far.
pub fn drain() {
    let _ = tcdrain(std::io::stderr());
}
