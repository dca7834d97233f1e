//! What PID 1 says: to the guest console and to the host's end of the gate channel.

use std::fmt::Display;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::termios::tcdrain;

use crate::gate::Gate;

/// How long the last lines may take to reach the host before the power goes.
const LAST_LINES: Duration = Duration::from_secs(1);

static GATE: Mutex<Gate> = Mutex::new(Gate::new());

/// The channel. Whoever panicked while holding it left nothing half-done that matters.
pub fn gate() -> MutexGuard<'static, Gate> {
    GATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says one line, as far as that is possible: there is nobody to report a failure to.
pub fn say(message: impl Display) {
    let text = message.to_string();
    // One write, so that the agent's output cannot split the line.
    let line = format!("coffer-init: {text}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    // A panic while the channel is held must still come to its end.
    if let Ok(mut gate) = GATE.try_lock() {
        gate.line(&text);
    }
}

/// Waits until console and host have taken everything said so far.
pub fn drain() {
    let _ = tcdrain(std::io::stderr());
    if let Ok(mut gate) = GATE.try_lock() {
        gate.drain(LAST_LINES);
    }
}
