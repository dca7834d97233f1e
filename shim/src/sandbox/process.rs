//! One process in the guest: its life, its streams, and how its exit is learned.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agent::{Agent, AgentError, ProcessRef};
use slog::{Logger, info, warn};
use tokio::time::sleep;

use super::api::{Exit, ProcessId, Status};
use super::lifecycle::{Lifecycle, Step};
use crate::publisher::{Event, Events};
use crate::stdio::{Stdio, StdioPaths};

/// How long output may lie unread on the host before the exit is learned without it. kata-agent closes a process's
/// streams when it answers WaitProcess, so asking earlier can cut the output off; asking never would hide the exit of
/// a process whose output nobody reads.
const UNREAD_PATIENCE: Duration = Duration::from_secs(5);

/// How long the exit of a first process that nobody here killed waits for the guest to say that memory ran out: the
/// agent learns of the two in either order, containerd expects the reason first.
const OOM_GRACE: Duration = Duration::from_millis(100);

/// A container's first process, or an exec.
#[derive(Debug)]
pub struct Process {
    /// Which one.
    pub id: ProcessId,
    /// Where the engine wants its streams.
    pub paths: StdioPaths,
    /// Where it is in its life.
    pub life: Lifecycle,
    /// The process id that stands for it on the host.
    pub pid: u32,
    stdio: Mutex<Option<Arc<Stdio>>>,
    killed: AtomicBool,
}

impl Process {
    /// A process that is made, not started.
    pub fn new(id: ProcessId, paths: StdioPaths, pid: u32) -> Self {
        Self {
            id,
            paths,
            life: Lifecycle::default(),
            pid,
            stdio: Mutex::new(None),
            killed: AtomicBool::new(false),
        }
    }

    /// The process's name as the agent knows it.
    pub fn guest_name(&self) -> ProcessRef<'_> {
        let container = self.id.container.as_str();
        match &self.id.exec {
            None => ProcessRef::init(container),
            Some(exec) => ProcessRef::exec(container, exec.as_str()),
        }
    }

    /// Gives the process its streams.
    pub fn connect(&self, stdio: Arc<Stdio>) {
        *self.stdio.lock().unwrap_or_else(PoisonError::into_inner) = Some(stdio);
    }

    /// The process's streams, once it has some.
    pub fn stdio(&self) -> Option<Arc<Stdio>> {
        self.stdio.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes note that the engine has it killed.
    pub fn note_kill(&self) {
        self.killed.store(true, Ordering::Relaxed);
    }

    /// The status in containerd's terms.
    pub fn status(&self) -> Status {
        self.life.status()
    }

    /// Notes the exit, tells containerd, and closes the streams. The first exit is the one that counts.
    pub fn exited(&self, exit: Exit, events: &Events, log: &Logger) {
        if self.life.take(Step::Exit(exit)).is_err() {
            return;
        }
        info!(log, "process ended"; "process" => %self.id, "status" => exit.status);
        events.publish(&Event::exit(&self.id, self.pid, exit));
        *self.stdio.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Follows a started process to its exit. Ends without one when the agent goes away: then the VM's end is the
    /// process's.
    pub async fn follow(self: Arc<Self>, agent: Agent, events: Events, log: Logger) {
        if let Some(stdio) = self.stdio() {
            stdio.drained(UNREAD_PATIENCE).await;
        }
        match agent.wait_process(self.guest_name()).await {
            Ok(status) => {
                if let Some(stdio) = self.stdio() {
                    stdio.drained(UNREAD_PATIENCE).await;
                }
                let exit = Exit::now(exit_code(status));
                if exit.status == Exit::KILLED
                    && self.id.exec.is_none()
                    && !self.killed.load(Ordering::Relaxed)
                {
                    sleep(OOM_GRACE).await;
                }
                self.exited(exit, &events, &log);
            }
            Err(AgentError::Disconnected { .. } | AgentError::Violation { .. }) => {}
            Err(error) => {
                // The agent is there and does not know the process: its exit is lost, not its end.
                warn!(log, "exit status is lost"; "process" => %self.id, "error" => %error);
                self.exited(Exit::now(UNKNOWN), &events, &log);
            }
        }
    }
}

/// The exit code for a process whose status nobody knows, as containerd uses it.
const UNKNOWN: u32 = 255;

/// The agent's status as an exit code: what a guest sends is cut to the range that codes have.
fn exit_code(status: i32) -> u32 {
    u32::try_from(status).unwrap_or(UNKNOWN) & 0xff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_stay_in_their_range() {
        assert_eq!([0, 137, 256, -1].map(exit_code), [0, 137, 0, 255]);
    }
}
