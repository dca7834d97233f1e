//! PID 1 of the guest image: prepares the system that the guest agent expects, runs the agent, and powers
//! the VM off when the agent ends.
//!
//! Everything it says goes to the console as `coffer-init: ...` lines: one per [`Phase`], so that the host
//! sees the boot move, and one with the reason when the VM goes down. Nothing here may make PID 1 end
//! by itself: the kernel would panic and hide the reason.

mod agent;
mod cgroups;
mod console;
mod mounts;
mod power;
mod settings;

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use agent::AgentEnd;
use console::say;

/// What the boot is doing; its text is what the host reads on the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Mounting the kernel's file systems and the writable ones.
    Mounts,
    /// Enabling the cgroup controllers that containers are limited by.
    Cgroups,
    /// Host name, loopback, limits.
    Settings,
    /// Starting the agent; from here on the agent speaks.
    Agent,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Mounts => "mounting file systems",
            Phase::Cgroups => "enabling cgroup controllers",
            Phase::Settings => "applying settings",
            Phase::Agent => "starting the agent",
        })
    }
}

/// Why the boot stopped: the step that failed, with its own reason.
#[derive(Debug, thiserror::Error)]
enum BootError {
    #[error(transparent)]
    Mount(#[from] mounts::MountError),
    #[error(transparent)]
    Cgroup(#[from] cgroups::CgroupError),
    #[error(transparent)]
    Setting(#[from] settings::SettingError),
    #[error(transparent)]
    Agent(#[from] agent::AgentError),
}

fn main() -> ExitCode {
    if !nix::unistd::Pid::this().eq(&nix::unistd::Pid::from_raw(1)) {
        say("this is PID 1 of a Coffer guest and would power the machine off; not started");
        return ExitCode::FAILURE;
    }
    // A panic would end PID 1 and with it the kernel; say where it came from and go down in order instead.
    std::panic::set_hook(Box::new(|panic| {
        say(format_args!("fatal: {panic}"));
        power::off();
    }));
    match boot() {
        Ok(end) => say(format_args!("the agent {end}; powering off")),
        Err(error) => say(format_args!("fatal: {}; powering off", Chain(&error))),
    }
    power::off()
}

/// Runs the boot to its end, which is the agent's end.
fn boot() -> Result<AgentEnd, BootError> {
    say(Phase::Mounts);
    mounts::mount_all(Path::new("/"))?;
    say(Phase::Cgroups);
    cgroups::enable_controllers(Path::new("/sys/fs/cgroup"))?;
    say(Phase::Settings);
    settings::apply(Path::new("/"))?;
    say(Phase::Agent);
    Ok(agent::run(Path::new("/usr/bin/kata-agent"))?)
}

/// An error with its sources, outermost first.
struct Chain<'a>(&'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fatal_error_names_the_object_and_the_reason() {
        let error = BootError::from(agent::AgentError::Spawn {
            path: "/usr/bin/kata-agent".into(),
            source: std::io::Error::from_raw_os_error(2),
        });
        let text = Chain(&error).to_string();
        assert!(text.contains("/usr/bin/kata-agent"), "{text}");
        assert!(text.ends_with("No such file or directory (os error 2)"), "{text}");
    }
}
