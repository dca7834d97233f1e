//! Keys that may be on the guest kernel's command line. The shim gives a guest no other, and PID 1 ends a boot with another: both
//! have this list.
//!
//! Sources: Linux, `Documentation/admin-guide/kernel-parameters`; kata-agent 4.1.0, `src/agent/src/config.rs`.

/// Keys of every image: what the builder writes, and limits of the agent. What the agent has beside these (its debug
/// console, tracing, log ports, another configuration or policy file, another address) is on no list for a release image.
pub const ALWAYS: [&str; 11] = [
    "agent.cdi_timeout",
    "agent.guest_components_procs",
    "agent.hotplug_timeout",
    "agent.log",
    "console",
    "dm-mod.create",
    "panic",
    "quiet",
    "ro",
    "root",
    "rootfstype",
];

/// The word of an image whose agent starts no guest components: it then asks whoever listens where a confidential data hub would,
/// which is Coffer's own attestation service (kata-agent 4.1.0, `src/agent/src/main.rs`).
pub const NO_COMPONENTS: (&str, &str) = ("agent.guest_components_procs", "none");

/// Keys of images that are looked into: profiles dev and debug.
pub const INSIGHT: [&str; 14] = [
    "8250.nr_uarts",
    "agent.debug_console",
    "agent.debug_console_vport",
    "agent.log_vport",
    "agent.unified_cgroup_hierarchy",
    "cgroup_no_v1",
    "dm-mod.waitfor",
    "loglevel",
    "net.ifnames",
    "no_timer_check",
    "random.trust_cpu",
    "reboot",
    "rootwait",
    "tsc",
];

/// Misbehaviour of the stand-in agent, for tests; only images of the dev profile may ask for it.
pub const STANDIN: &str = "coffer.standin";

/// All keys.
pub fn all() -> impl Iterator<Item = &'static str> {
    ALWAYS.into_iter().chain(INSIGHT).chain([STANDIN])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_are_listed_once() {
        assert_eq!(all().collect::<BTreeSet<_>>().len(), all().count());
    }
}
