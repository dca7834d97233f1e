//! Registers that grow by events.

use sha2::{Digest as _, Sha384};

use crate::{Sha384Digest, digest};

digest::register! {
    /// The value of a run-time measurement register.
    Rtmr
}

/// Something that firmware or kernel measure while they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// What it is, for people.
    pub name: &'static str,
    /// The digest with which the register is extended.
    pub digest: Sha384Digest,
}

impl Event {
    /// The event that measures `data`.
    pub(super) fn of(name: &'static str, data: &[u8]) -> Self {
        Self { name, digest: Sha384Digest::of(data) }
    }
}

/// All events of one register, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLog(Vec<Event>);

impl EventLog {
    pub(super) const fn new(events: Vec<Event>) -> Self {
        Self(events)
    }

    /// The events.
    pub fn events(&self) -> &[Event] {
        &self.0
    }

    /// The register after all of them: for each, SHA-384 of the old value and the event's digest (Intel, "TDX
    /// Module Base Architecture Specification" (348549), TDG.MR.RTMR.EXTEND).
    pub fn value(&self) -> Rtmr {
        Rtmr(self.0.iter().fold(Sha384Digest::ZERO, |old, event| {
            let mut hash = Sha384::new();
            hash.update(old.as_bytes());
            hash.update(event.digest.as_bytes());
            Sha384Digest::finish(hash)
        }))
    }
}
