//! PID 1 of the guest image: the guest's gate. It prepares the system that the guest agent expects, lets in what is
//! checked and nothing else, runs the agent, and powers the VM off when the agent ends.
//!
//! Everything it says goes to the console as `coffer-init: ...` lines, and without that prefix to the host's end of the
//! gate channel: one per [`Phase`], so that the host sees the boot move, and one with the reason when the VM goes down.
//! Nothing here may make PID 1 end by itself: the kernel would panic and hide the reason.

#![cfg_attr(not(test), no_main)]
#![cfg_attr(test, allow(dead_code))]

mod agent;
mod attestation;
mod cgroups;
mod checks;
mod cmdline;
mod components;
mod console;
mod dev;
mod device_program;
mod dm;
#[cfg(any(test, feature = "fake-report"))]
#[path = "../../../tests/fake-report/report.rs"]
mod fake_report;
mod gate;
mod gpu;
mod initdata;
mod inventory;
mod layers;
mod lun;
mod mapper;
mod mounts;
mod opener;
mod power;
mod private;
mod profile;
#[cfg_attr(
    all(feature = "fake-report", not(test)),
    allow(dead_code, reason = "the made-up report is read instead")
)]
mod report;
mod scratch;
mod settings;
mod supervise;
mod sys;
mod tee;
mod uevent;

use std::fmt;
use std::io;
use std::path::Path;

use agent::AgentEnd;
use console::{gate, say};
use inventory::Found;
use layers::Layers;
use mapper::Kernel;
use private::Private;
use shared_types::one_line;
use uevent::Uevents;

/// What the boot is doing; its text is what the host reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Mounting the kernel's file systems and the writable ones.
    Mounts,
    /// Comparing what the host brought with what it may bring.
    Checks,
    /// Host name, loopback, limits.
    Settings,
    /// Bringing up the declared GPUs.
    Gpus,
    /// Making the cgroup that containers are limited by and kept from devices by.
    Cgroups,
    /// Encrypting the scratch disk.
    Scratch,
    /// Opening the layers that are there already.
    Layers,
    /// Starting what gets the pod its keys, where it has a key broker.
    Attestation,
    /// Starting the agent; from here on the agent speaks.
    Agent,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Mounts => "mounting file systems",
            Phase::Checks => "checking what the host brought",
            Phase::Gpus => "bringing up GPUs",
            Phase::Cgroups => "enabling cgroup controllers",
            Phase::Settings => "applying settings",
            Phase::Scratch => "making the scratch disk",
            Phase::Layers => "looking for image layers",
            Phase::Attestation => "starting the attestation service",
            Phase::Agent => "starting the agent",
        })
    }
}

/// Why the boot stopped: the step that failed, with its own reason.
#[derive(Debug, thiserror::Error)]
enum BootError {
    #[error("cannot make a place for private device nodes")]
    Private(#[source] io::Error),
    #[error("cannot open standard streams")]
    Streams(#[source] io::Error),
    #[error(transparent)]
    Dev(#[from] dev::DevError),
    #[error(transparent)]
    Mount(#[from] mounts::MountError),
    #[error(transparent)]
    Check(#[from] checks::CheckError),
    #[error(transparent)]
    Gpu(#[from] gpu::GpuError),
    #[error(transparent)]
    Cgroup(#[from] cgroups::CgroupError),
    #[error(transparent)]
    DeviceProgram(#[from] device_program::DeviceProgramError),
    #[error(transparent)]
    Setting(#[from] settings::SettingError),
    #[error(transparent)]
    Scratch(#[from] scratch::ScratchError),
    #[error("cannot use the device mapper")]
    Mapper(#[source] io::Error),
    #[error("cannot listen to the kernel's messages about devices")]
    Listen(#[source] io::Error),
    #[error(transparent)]
    Supervise(#[from] supervise::SuperviseError),
    #[error(transparent)]
    Agent(#[from] agent::AgentError),
    #[error(transparent)]
    Attestation(#[from] attestation::AttestationError),
    #[error(transparent)]
    Components(#[from] components::ComponentsError),
}

/// The program, called by its entry in [`sys`].
fn start() -> i32 {
    if nix::unistd::Pid::this() != nix::unistd::Pid::from_raw(1) {
        say("this is PID 1 of a Coffer guest and would power the machine off; not started");
        return 1;
    }
    // A panic would end PID 1 and with it the kernel; say where it came from and go down in order instead.
    std::panic::set_hook(Box::new(|panic| {
        say(format_args!("fatal: {panic}"));
        power::off();
    }));
    match boot() {
        Ok(end) => say(format_args!("the agent {end}; powering off")),
        Err(error) => say(format_args!("fatal: {}; powering off", one_line(&error))),
    }
    power::off()
}

/// Runs the boot to its end, which is the agent's end.
fn boot() -> Result<AgentEnd, BootError> {
    let root = Path::new("/");
    let sys = Path::new("/sys");
    let private = Private::new().map_err(BootError::Private)?;
    dev::open_streams(&private).map_err(BootError::Streams)?;
    say(Phase::Mounts);
    dev::mount_dev(Path::new("/dev"))?;
    mounts::mount_all(root)?;
    gate().connect(&private, root);
    say(Phase::Checks);
    let checked = checks::run(&private, root)?;
    say(Phase::Settings);
    settings::apply(root)?;
    if let Some(order) = checked.bring_up.as_ref().filter(|_| checked.gpus != Found::default()) {
        say(Phase::Gpus);
        gpu::of_this_vm(root, &checked.gpus, order)?;
    }
    say(Phase::Cgroups);
    let cgroup = Path::new("/sys/fs/cgroup");
    let containers = cgroups::prepare(cgroup)?;
    device_program::attach(&containers, Path::new("/proc/devices"), !checked.gpus.gpus.is_empty())?;
    cgroups::cover(cgroup, &containers)?;
    settings::lock_modules(root)?;
    if let Some(disk) = checked.scratch {
        say(Phase::Scratch);
        scratch::prepare(&private, root, disk)?;
    }
    say(Phase::Layers);
    let uevents = Uevents::listen().map_err(BootError::Listen)?;
    let kernel = Kernel::new(&private, Path::new("/dev/mapper")).map_err(BootError::Mapper)?;
    let mut layers = Layers::new(kernel, checked.volumes);
    layers.look(sys).map_err(supervise::SuperviseError::Disks)?.iter().for_each(say);
    let service = match &checked.attestation {
        None => None,
        Some(order) => {
            say(Phase::Attestation);
            attestation::start(root, order)?
        }
    };
    if components::are_in(root) {
        components::prepare(root, &checked.components)?;
    }
    say(Phase::Agent);
    agent::discard_requests(root)?;
    let agent = agent::start(Path::new("/usr/bin/kata-agent"), checked.policy.as_deref())?;
    Ok(supervise::run(agent, service, sys, &uevents, &mut layers)?)
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
        let text = one_line(&error);
        assert!(text.contains("/usr/bin/kata-agent"), "{text}");
        assert!(text.ends_with("No such file or directory (os error 2)"), "{text}");
    }
}
