//! One process: its life, and who waits for its end.

use std::sync::Arc;
use std::time::SystemTime;

use agent_client::proto::oci::Process as OciProcess;

use crate::api::{Exit, ProcessId, Status, StdioPaths, TerminalSize};

use super::message::Ticket;

/// What may happen to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The agent started it.
    Start,
    /// It was frozen.
    Pause,
    /// It was thawed.
    Resume,
    /// It ended, or its VM did.
    Exit(Exit),
}

/// A step that a process in this status cannot take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is {from} and cannot be {step}")]
pub struct IllegalStep {
    from: &'static str,
    step: &'static str,
}

impl Status {
    /// The transition table: the status after `step`.
    ///
    /// # Errors
    /// There is no such transition.
    pub fn after(self, step: Step) -> Result<Self, IllegalStep> {
        match (self, step) {
            (Self::Created, Step::Start) | (Self::Paused, Step::Resume) => Ok(Self::Running),
            (Self::Running, Step::Pause) => Ok(Self::Paused),
            (Self::Created | Self::Running | Self::Paused, Step::Exit(exit)) => Ok(Self::Stopped(exit)),
            (from, step) => Err(IllegalStep { from: from.name(), step: step.name() }),
        }
    }

    /// The word for error messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped(_) => "stopped",
        }
    }
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Start => "started",
            Self::Pause => "paused",
            Self::Resume => "resumed",
            Self::Exit(_) => "stopped",
        }
    }

    /// The verb for error messages.
    pub(super) fn verb(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Exit(_) => "stop",
        }
    }
}

impl Exit {
    /// The code of a process that went down with its VM, as of a SIGKILL.
    pub const KILLED: u32 = 128 + 9;

    /// An exit that is learned of now.
    pub fn now(status: u32) -> Self {
        Self { status, at: SystemTime::now() }
    }
}

/// A container's first process, or an exec.
#[derive(Debug)]
pub struct Process {
    /// Which one.
    pub id: ProcessId,
    /// Where the engine wants its streams.
    pub paths: StdioPaths,
    /// The process id that stands for it on the host.
    pub pid: u32,
    /// Where it is in its life.
    pub status: Status,
    /// Whether the guest is starting it.
    pub starting: bool,
    /// Whether the engine has it killed.
    pub killed: bool,
    /// How it ended, as the guest saw it: from then on nothing else can be its end, though nobody is told yet.
    pub seen: Option<Exit>,
    /// The size its terminal is to have, told before the guest knew the process.
    pub size: Option<TerminalSize>,
    /// What an exec is started with.
    pub spec: Option<Arc<OciProcess>>,
    /// Who waits for its end.
    pub waiting: Vec<Ticket>,
}

impl Process {
    /// A process that is made, not started.
    pub fn new(id: ProcessId, paths: StdioPaths, pid: u32, spec: Option<Arc<OciProcess>>) -> Self {
        Self {
            id,
            paths,
            pid,
            status: Status::Created,
            starting: false,
            killed: false,
            seen: None,
            size: None,
            spec,
            waiting: Vec::new(),
        }
    }

    /// Takes `step`.
    ///
    /// # Errors
    /// The status does not allow it; nothing changed.
    pub fn take(&mut self, step: Step) -> Result<(), IllegalStep> {
        self.status = self.status.after(step)?;
        Ok(())
    }

    /// Whether it has ended, told of or not.
    pub fn has_ended(&self) -> bool {
        self.exit().or(self.seen).is_some()
    }

    /// How it ended, if that was told.
    pub fn exit(&self) -> Option<Exit> {
        match self.status {
            Status::Stopped(exit) => Some(exit),
            Status::Created | Status::Running | Status::Paused => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXIT: Step = Step::Exit(Exit { status: 3, at: SystemTime::UNIX_EPOCH });

    #[test]
    fn the_whole_table() {
        let stopped = Status::Created.after(EXIT).unwrap();
        let statuses = [Status::Created, Status::Running, Status::Paused, stopped];
        let steps = [Step::Start, Step::Pause, Step::Resume, EXIT];
        let table = statuses.map(|status| steps.map(|step| status.after(step).map_or("-", Status::name)));
        assert_eq!(
            table,
            [
                ["running", "-", "-", "stopped"],
                ["-", "paused", "-", "stopped"],
                ["-", "-", "running", "stopped"],
                ["-", "-", "-", "-"],
            ]
        );
    }

    #[test]
    fn an_illegal_step_says_so() {
        let error = Status::Created.after(Step::Pause).unwrap_err();
        assert_eq!(error.to_string(), "it is created and cannot be paused");
    }
}
