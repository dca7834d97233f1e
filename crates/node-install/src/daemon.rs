//! The node's daemon, as far as an installation needs it.

use std::collections::BTreeMap;

use crate::engine::Kind;

/// Runtimes by their handlers' names, each with its type.
pub type Runtimes = BTreeMap<String, String>;

/// containerd or CRI-O. A failure is one line of what was seen.
pub trait Daemon {
    /// The schema of its own defaults, where it has one.
    fn default_schema(&self, kind: Kind) -> Option<u64>;

    /// Its version's first two numbers.
    fn version(&self, kind: Kind) -> Option<(u32, u32)>;

    /// The runtimes of the configuration that is on the disk, as the daemon reads it.
    ///
    /// # Errors
    /// It does not read it, or there is no such program.
    fn configured(&self, kind: Kind) -> Result<Runtimes, String>;

    /// Starts it anew.
    ///
    /// # Errors
    /// It does not start.
    fn restart(&self, kind: Kind) -> Result<(), String>;

    /// The runtimes that it serves; waits until it serves.
    ///
    /// # Errors
    /// It does not serve.
    fn serving(&self, kind: Kind) -> Result<Runtimes, String>;
}

/// What is missing of what must be there.
pub(crate) fn lost(wanted: &Runtimes, found: &Runtimes, ours: &[String]) -> Option<String> {
    let missing: Vec<_> = wanted
        .keys()
        .filter(|name| !found.contains_key(*name) && !ours.contains(name))
        .map(String::as_str)
        .collect();
    let unregistered: Vec<_> =
        ours.iter().filter(|name| !found.contains_key(*name)).map(String::as_str).collect();
    match (missing.as_slice(), unregistered.as_slice()) {
        ([], []) => None,
        ([], _) => Some(format!("it does not know the handler {}", unregistered.join(", "))),
        _ => Some(format!("it has lost the runtime {} that was there before", missing.join(", "))),
    }
}
