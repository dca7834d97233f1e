//! Lines on stderr, which PID 1 leaves connected to the console.

use std::fmt::Display;
use std::io::{self, Write};

/// What the binary is recognised by; release images must not hold it.
pub const MARKER: &str = "coffer-agent-standin";

/// Writes one line; what cannot be written is lost.
pub fn line(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "agent-standin: {text}");
}
