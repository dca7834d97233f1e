//! What PID 1 does while the agent runs: reap what ends, take notice of disks, pass on what it says.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::agent::AgentEnd;
use crate::attestation::Service;
use crate::console::{gate, say};
use crate::layers::{Layers, Mapper};
use crate::uevent::{Next, Uevents};

/// Why PID 1 cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// The agent's end cannot be observed.
    #[error("cannot wait for the agent")]
    Wait(#[source] Errno),
    /// There is no telling when something happens.
    #[error("cannot wait for what happens")]
    Poll(#[source] Errno),
    /// The kernel's messages cannot be read.
    #[error("cannot read the kernel's messages about devices")]
    Uevents(#[source] io::Error),
    /// What is there cannot be listed.
    #[error("cannot list disks")]
    Disks(#[source] io::Error),
}

/// Watches until the agent ends; `sys` is /sys. When the attestation service ends, the pod goes on without new keys.
///
/// # Errors
///
/// [`SuperviseError`].
pub fn run<M: Mapper>(
    agent: Pid,
    mut service: Option<Service>,
    sys: &Path,
    uevents: &Uevents,
    layers: &mut Layers<M>,
) -> Result<AgentEnd, SuperviseError> {
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGCHLD);
    // Only now: the agent would inherit the mask. What ended before is reaped by the first round.
    ends.thread_block().map_err(SuperviseError::Poll)?;
    let signals = SignalFd::with_flags(&ends, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(SuperviseError::Poll)?;
    loop {
        while signals.read_signal().map_err(SuperviseError::Poll)?.is_some() {}
        let other = |pid, end| {
            if Some(pid) == service.as_ref().map(Service::pid) {
                say(format_args!("the attestation service {end}: containers get no keys from here on"));
            }
        };
        if let Some(end) = reap(agent, other, || waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)))? {
            return Ok(end);
        }
        disks(sys, uevents, layers)?;
        layers.progress().iter().for_each(say);
        service.iter_mut().flat_map(Service::lines).for_each(say);
        let mut gate = gate();
        gate.progress();
        let mut fds = vec![
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(uevents.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(layers.wanted().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        fds.extend(service.as_ref().and_then(Service::as_fd).map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        fds.extend(gate.wanted().map(|(fd, flags)| PollFd::new(fd, flags)));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(SuperviseError::Poll(errno)),
        }
    }
}

/// Takes notice of everything that the kernel has said.
pub fn disks<M: Mapper>(sys: &Path, uevents: &Uevents, layers: &mut Layers<M>) -> Result<(), SuperviseError> {
    loop {
        let lines = match uevents.next().map_err(SuperviseError::Uevents)? {
            Next::Message(message) => layers.handle(sys, &message),
            Next::Lost => layers.look(sys).map_err(SuperviseError::Disks)?,
            Next::Nothing => return Ok(()),
        };
        lines.iter().for_each(say);
    }
}

/// Takes the ends of children from `next` until there is none, or it is `agent`'s; tells `other` of the others.
fn reap(
    agent: Pid,
    mut other: impl FnMut(Pid, AgentEnd),
    mut next: impl FnMut() -> Result<WaitStatus, Errno>,
) -> Result<Option<AgentEnd>, SuperviseError> {
    loop {
        match next() {
            Ok(WaitStatus::Exited(pid, status)) if pid == agent => return Ok(Some(AgentEnd::Exited(status))),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == agent => {
                return Ok(Some(AgentEnd::Killed(signal)));
            }
            Ok(WaitStatus::Exited(pid, status)) => other(pid, AgentEnd::Exited(status)),
            Ok(WaitStatus::Signaled(pid, signal, _)) => other(pid, AgentEnd::Killed(signal)),
            Ok(WaitStatus::StillAlive) => return Ok(None),
            // EINVAL: an orphan died of a real-time signal, for which nix has no name; it is reaped all the same.
            Ok(_) | Err(Errno::EINTR | Errno::EINVAL) => {}
            Err(errno) => return Err(SuperviseError::Wait(errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(list: Vec<Result<WaitStatus, Errno>>) -> Result<Option<AgentEnd>, SuperviseError> {
        let mut list = list.into_iter();
        reap(Pid::from_raw(7), |_, _| {}, || list.next().unwrap_or(Err(Errno::ECHILD)))
    }

    #[test]
    fn the_ends_of_others_are_told() {
        let mut list = vec![
            Ok(WaitStatus::Exited(Pid::from_raw(9), 1)),
            Ok(WaitStatus::Signaled(Pid::from_raw(10), Signal::SIGKILL, false)),
            Ok(WaitStatus::StillAlive),
        ]
        .into_iter();
        let mut told = Vec::new();
        let end = reap(Pid::from_raw(7), |pid, end| told.push((pid.as_raw(), end)), || list.next().unwrap());
        assert_eq!(end.unwrap(), None);
        assert_eq!(told, [(9, AgentEnd::Exited(1)), (10, AgentEnd::Killed(Signal::SIGKILL))]);
    }

    #[test]
    fn orphans_are_reaped_until_the_agent_ends() {
        let end = ends(vec![
            Ok(WaitStatus::Exited(Pid::from_raw(9), 1)),
            Err(Errno::EINTR),
            Err(Errno::EINVAL),
            Ok(WaitStatus::Signaled(Pid::from_raw(10), Signal::SIGKILL, false)),
            Ok(WaitStatus::Exited(Pid::from_raw(7), 3)),
        ]);
        assert_eq!(end.unwrap(), Some(AgentEnd::Exited(3)));
    }

    #[test]
    fn a_killed_agent_is_told_from_one_that_exits() {
        let end = ends(vec![Ok(WaitStatus::Signaled(Pid::from_raw(7), Signal::SIGSEGV, true))]).unwrap();
        assert_eq!(end, Some(AgentEnd::Killed(Signal::SIGSEGV)));
    }

    #[test]
    fn an_agent_that_runs_is_left_alone() {
        let list = vec![Ok(WaitStatus::Exited(Pid::from_raw(9), 1)), Ok(WaitStatus::StillAlive)];
        assert_eq!(ends(list).unwrap(), None);
    }

    #[test]
    fn losing_the_agent_is_an_error_not_a_loop() {
        assert!(matches!(ends(Vec::new()), Err(SuperviseError::Wait(Errno::ECHILD))));
    }
}
