//! What the driver works with: a host that boots machines, a machine with containers, and the guest in it.
//!
//! Three small traits, so that the tests play all three. The real ones are in `sandbox::real`.

use std::future::Future;
use std::sync::Arc;

use agent_client::proto::oci::{LinuxResources, Process as OciProcess};
use agent_client::{AgentError, ProcessRef};
use guest_spec::TerminationLog;
use tokio::sync::oneshot;

use crate::api::{ContainerId, NewContainer, ProcessId, Result, TerminalSize};
use crate::core::{End, For, Made, Up};
use crate::metrics::ContainerStats;

/// What a process's pipe in the guest holds, in bytes.
pub const PIPE: usize = 64 << 10;

type Answer<T> = std::result::Result<T, AgentError>;

/// Where machines are booted.
pub trait Host: Send + Sync + 'static {
    /// A machine of this host.
    type Machine: Machine;

    /// Boots a machine for a pod. Gives up when `cancelled` is told, or its sender is gone.
    ///
    /// # Errors
    /// Anything that is missing or fails; whatever was taken is given back.
    fn boot(
        &self,
        whom: For,
        cancelled: oneshot::Receiver<()>,
    ) -> impl Future<Output = Result<Self::Machine>> + Send;
}

/// A machine that runs. Clones are the same one.
pub trait Machine: Clone + Send + Sync + 'static {
    /// The guest in it.
    type Guest: Guest;
    /// What one container holds of host and machine.
    type Holdings: Send + 'static;

    /// Its process id and when it was up.
    fn up(&self) -> Up;

    /// The guest.
    fn guest(&self) -> Self::Guest;

    /// Makes an update's limits good: none becomes as much as the machine has.
    ///
    /// # Errors
    /// They are more than the machine has.
    fn fit(&self, id: &ContainerId, limits: &mut LinuxResources) -> Result<()>;

    /// Creates a container, from its layers to the guest's answer.
    ///
    /// # Errors
    /// A step fails; all that it took is given back.
    fn make(&self, new: Arc<NewContainer>) -> impl Future<Output = Result<(Made, Self::Holdings)>> + Send;

    /// Fetches a container's termination message, within a limit.
    fn last_words(&self, id: &ContainerId, to: &TerminationLog) -> impl Future<Output = ()> + Send;

    /// Removes a container from the guest, if there is one any more, and gives back what it held.
    fn remove(&self, id: ContainerId, holdings: Self::Holdings) -> impl Future<Output = ()> + Send;

    /// Has it stopped.
    fn stop(&self) -> impl Future<Output = ()> + Send;

    /// Waits until it is there no longer.
    fn ended(&self) -> impl Future<Output = End> + Send;

    /// Waits until all that it had on the host is given back; returns what could not be.
    fn released(&self) -> impl Future<Output = Vec<String>> + Send;
}

/// An output stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// What a terminal shows as well.
    Stdout,
    /// Not there with a terminal.
    Stderr,
}

/// What the guest says of a process's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It is there.
    Lives,
    /// It has ended.
    Gone,
    /// No answer in time: it may be told the next time.
    Late,
    /// That is not told here, now or later.
    Untold,
}

/// The guest's agent. Clones share the connection.
pub trait Guest: Clone + Send + Sync + 'static {
    /// Lets a created container's first process run.
    fn start(&self, container: &str) -> impl Future<Output = Answer<()>> + Send;
    /// Starts another process in a container.
    fn exec(&self, process: ProcessRef<'_>, spec: OciProcess) -> impl Future<Output = Answer<()>> + Send;
    /// Sends a signal to one process.
    fn signal(&self, process: ProcessRef<'_>, signal: u32) -> impl Future<Output = Answer<()>> + Send;
    /// Sends a signal to a container.
    fn signal_all(&self, container: &str, signal: u32) -> impl Future<Output = Answer<()>> + Send;
    /// Whether a process is there still.
    fn lives(&self, process: ProcessRef<'_>) -> impl Future<Output = Life> + Send;
    /// Waits for a process's end; the guest closes its streams with the answer and forgets it.
    fn wait(&self, process: ProcessRef<'_>) -> impl Future<Output = Answer<i32>> + Send;
    /// Sets a terminal's size.
    fn resize(&self, process: ProcessRef<'_>, size: TerminalSize) -> impl Future<Output = Answer<()>> + Send;
    /// Freezes or thaws a container.
    fn freeze(&self, container: &str, frozen: bool) -> impl Future<Output = Answer<()>> + Send;
    /// Changes a container's limits.
    fn update(&self, container: &str, limits: LinuxResources) -> impl Future<Output = Answer<()>> + Send;
    /// Measures a container.
    fn stats(&self, container: &str) -> impl Future<Output = Answer<ContainerStats>> + Send;
    /// Asks whether the agent serves.
    fn check(&self) -> impl Future<Output = Answer<()>> + Send;
    /// Waits until a container runs out of memory; returns its name as the guest has it.
    fn out_of_memory(&self) -> impl Future<Output = Answer<String>> + Send;
    /// How much is best asked of its output at once, in bytes.
    fn read_size(&self) -> usize;
    /// Reads some output; empty is the end, or a process that ended while this was asked.
    fn read(
        &self,
        process: ProcessRef<'_>,
        output: Output,
        length: usize,
    ) -> impl Future<Output = Answer<Vec<u8>>> + Send;
    /// Writes to a process's input.
    fn write(&self, process: ProcessRef<'_>, data: Vec<u8>) -> impl Future<Output = Answer<()>> + Send;
    /// Closes a process's input.
    fn close_stdin(&self, process: ProcessRef<'_>) -> impl Future<Output = Answer<()>> + Send;
}

/// The process's name as the agent knows it.
pub fn name(id: &ProcessId) -> ProcessRef<'_> {
    let container = id.container.as_str();
    match &id.exec {
        None => ProcessRef::init(container),
        Some(exec) => ProcessRef::exec(container, exec.as_str()),
    }
}
