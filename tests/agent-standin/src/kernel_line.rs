//! The kernel command line's keys for the agent.

use std::fs;
use std::time::Duration;

/// What the command line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelLine {
    /// How long to wait for a device (`agent.hotplug_timeout=`, seconds).
    pub hotplug_timeout: Duration,
    /// Whether it is to start no guest components (`agent.guest_components_procs=none`). Else kata-agent asks nobody whose
    /// program it has not started, and this image has none.
    pub no_components: bool,
    /// Text of `coffer.standin=`, if it is there.
    pub fault: Option<String>,
}

impl KernelLine {
    /// Reads `/proc/cmdline`; the environment variable `COFFER_STANDIN` stands in for `coffer.standin=` on a host.
    pub fn read() -> Self {
        let mut line = Self::parse(&fs::read_to_string("/proc/cmdline").unwrap_or_default());
        line.fault = std::env::var("COFFER_STANDIN").ok().or(line.fault);
        line
    }

    fn parse(text: &str) -> Self {
        let mut line = Self { hotplug_timeout: Duration::from_secs(3), no_components: false, fault: None };
        for word in text.split_whitespace() {
            if let Some(seconds) = word.strip_prefix("agent.hotplug_timeout=") {
                line.hotplug_timeout = seconds.parse().map_or(line.hotplug_timeout, Duration::from_secs);
            } else if word == "agent.guest_components_procs=none" {
                line.no_components = true;
            } else if let Some(fault) = word.strip_prefix("coffer.standin=") {
                line.fault = Some(fault.to_owned());
            }
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_its_keys_among_others() {
        let line = KernelLine::parse(
            "console=ttyS0 agent.hotplug_timeout=9 agent.guest_components_procs=none coffer.standin=die-at=CreateSandbox ro\n",
        );
        assert_eq!(line.hotplug_timeout, Duration::from_secs(9));
        assert!(line.no_components);
        assert_eq!(line.fault.as_deref(), Some("die-at=CreateSandbox"));
    }

    #[test]
    fn has_defaults() {
        let line =
            KernelLine::parse("agent.hotplug_timeout=soon agent.guest_components_procs=api-server-rest");
        let expected =
            KernelLine { hotplug_timeout: Duration::from_secs(3), no_components: false, fault: None };
        assert_eq!(line, expected);
    }
}
