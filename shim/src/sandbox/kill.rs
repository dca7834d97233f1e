//! SIGKILL to all of a container.
//!
//! kata-agent 4.1.0 sends it to the processes in the container's own cgroup (`do_signal_process`; `get_pids` of rustjail's
//! cgroup manager), and to none in a cgroup below it. A process that may write to cgroups can move into one: systemd does, and
//! so do the entry points of Docker's and kind's images. The agent then answers that all is well, and nobody is dead. So the
//! first process is killed by its id as well: the kernel ends its PID namespace with it, whatever cgroups that one's processes
//! are in.
//!
//! A container that shares the sandbox's PID namespace has no such end: what it leaves in cgroups of its own making lives until
//! the pod ends.

use agent_client::{AgentError, Code, ProcessRef};
use nix::sys::signal::Signal;

use crate::api::ContainerId;
use crate::machine::Guest;

/// Kills a container's processes, wherever its first one has put itself.
///
/// # Errors
/// The guest does not carry it out.
pub async fn kill<G: Guest>(guest: &G, container: &ContainerId) -> Result<(), AgentError> {
    const SIGKILL: u32 = Signal::SIGKILL as u32;
    let all = guest.signal_all(container.as_str(), SIGKILL).await;
    match guest.signal(ProcessRef::init(container.as_str()), SIGKILL).await {
        // It has ended by then, and somebody knows it.
        Err(AgentError::Refused { code: Code::NOT_FOUND, .. }) => all,
        first => all.and(first),
    }
}
