//! SIGKILL to all of a container.
//!
//! kata-agent 4.1.0 sends it to the processes of the container's own cgroup (`do_signal_process`; `get_pids` of rustjail's
//! cgroup manager), and to none in a cgroup below. Who may write to cgroups puts itself into such a one: the entry points of
//! Docker and kind in a container, systemd. The agent answers then that all is well, and nobody is dead. So the first process
//! is killed by its name as well: the kernel ends its PID namespace with it, whatever cgroups that is in.
//!
//! Once the first process has ended there is nobody to name: what a container in the sandbox's PID namespace leaves in
//! cgroups of its own making lives until the pod ends.

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
