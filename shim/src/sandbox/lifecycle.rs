//! The states of a process and of a sandbox, and the only ways from one to another.

use std::time::SystemTime;

use tokio::sync::watch;

use super::api::{Exit, Status};

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

impl Exit {
    /// The code of a process that went down with its VM, as of a SIGKILL.
    pub const KILLED: u32 = 128 + 9;

    /// An exit that is learned of now.
    pub fn now(status: u32) -> Self {
        Self { status, at: SystemTime::now() }
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
}

/// A process's status as something that many can read and wait for.
#[derive(Debug)]
pub struct Lifecycle(watch::Sender<Status>);

impl Default for Lifecycle {
    fn default() -> Self {
        Self(watch::Sender::new(Status::Created))
    }
}

impl Lifecycle {
    /// The status now.
    pub fn status(&self) -> Status {
        *self.0.borrow()
    }

    /// Takes `step`; all who wait see it.
    ///
    /// # Errors
    /// The status does not allow the step; nothing changed.
    pub fn take(&self, step: Step) -> Result<(), IllegalStep> {
        let mut outcome = Ok(());
        self.0.send_if_modified(|status| match status.after(step) {
            Ok(next) => {
                *status = next;
                true
            }
            Err(illegal) => {
                outcome = Err(illegal);
                false
            }
        });
        outcome
    }

    /// Whether `step` would be legal now.
    ///
    /// # Errors
    /// It would not.
    pub fn check(&self, step: Step) -> Result<(), IllegalStep> {
        self.status().after(step).map(drop)
    }

    /// Waits for the exit.
    pub async fn exited(&self) -> Exit {
        let mut watch = self.0.subscribe();
        loop {
            if let Status::Stopped(exit) = *watch.borrow_and_update() {
                return exit;
            }
            // The sender lives as long as `self`.
            let _ = watch.changed().await;
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
        let statuss = [Status::Created, Status::Running, Status::Paused, stopped];
        let steps = [Step::Start, Step::Pause, Step::Resume, EXIT];
        let table = statuss.map(|status| steps.map(|step| status.after(step).map_or("-", Status::name)));
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
    fn an_illegal_step_says_so_and_changes_nothing() {
        let lifecycle = Lifecycle::default();
        let error = lifecycle.take(Step::Pause).unwrap_err();
        assert_eq!(error.to_string(), "it is created and cannot be paused");
        assert_eq!(lifecycle.status(), Status::Created);
    }

    #[tokio::test]
    async fn the_first_exit_is_the_one_that_stays() {
        let lifecycle = Lifecycle::default();
        lifecycle.take(EXIT).unwrap();
        assert!(lifecycle.take(Step::Exit(Exit::now(137))).is_err());
        assert_eq!(lifecycle.exited().await.status, 3);
    }
}
