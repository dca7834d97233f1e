//! What the core is told, and what it wants done.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agent_client::proto::oci::{LinuxResources, Process as OciProcess};
use guest_spec::{Role, TerminationLog};

use crate::api::{
    Connected, ContainerId, CreateSandboxRequest, Deleted, Error, Exit, KillRequest, NewContainer, ProcessId,
    ProcessInfo, ProcessState, Result, SandboxStarted, SandboxStatus, StdioPaths, TerminalSize,
};
use crate::metrics::ContainerStats;

use super::process::Step;

/// Names a caller that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// An engine asks for something.
    Call(Ticket, Call),
    /// [`Effect::Boot`] is over. All that a failed one took is given back.
    Booted(Result<Up>),
    /// [`Effect::Make`] is over. All that a failed one took is given back.
    Made(ContainerId, Result<Made>),
    /// [`Effect::Start`] is over.
    Started(Ticket, ProcessId, Result<()>),
    /// [`Effect::Signal`] is over.
    Signalled(Ticket, KillRequest, Result<()>),
    /// [`Effect::Freeze`] is over.
    Frozen(Ticket, ContainerId, Step, Result<()>),
    /// [`Effect::Pass`] is over.
    Passed(Ticket, Result<Reply>),
    /// [`Effect::LastWords`] is over.
    LastWords(ContainerId, Exit),
    /// [`Effect::Remove`] is over.
    Removed(ContainerId),
    /// A started process has ended.
    Exited(ProcessId, Exit),
    /// The guest does not say how a process ended that has; [`Self::Exited`] follows.
    ExitLost(ProcessId, String),
    /// The VM is there no longer; what it had on the host may still be taken.
    VmEnded(End),
    /// What the VM had on the host is given back, but for these.
    Released(Vec<String>),
    /// The guest says that this container ran out of memory.
    Oom(String),
    /// The time of [`Effect::Wake`] is over.
    Woken(Wake),
}

/// What an engine asks for.
#[derive(Debug, Clone)]
pub enum Call {
    /// Create a container, and the VM for the first one.
    Create(Arc<NewContainer>),
    /// Start a created process.
    Start(ProcessId),
    /// Where a process is in its life.
    State(ProcessId),
    /// A container's processes.
    Pids(ContainerId),
    /// The process ids of shim and container.
    Connect(ContainerId),
    /// Send a signal.
    Kill(KillRequest),
    /// Add a process.
    Exec(ProcessId, StdioPaths, Arc<OciProcess>),
    /// Freeze or thaw a container.
    Freeze(ContainerId, Step),
    /// What only the guest can answer.
    Pass(Pass),
    /// Wait for a process's end.
    Wait(ProcessId),
    /// Forget an ended process.
    Delete(ProcessId),
    /// End the shim: at once, or with its last container.
    Shutdown {
        /// At once.
        now: bool,
    },
    /// Take note of a sandbox without pause container.
    CreateSandbox(Arc<CreateSandboxRequest>),
    /// Boot its VM.
    StartSandbox(ContainerId),
    /// Stop its VM.
    StopSandbox(ContainerId),
    /// Wait for its VM's end.
    WaitSandbox(ContainerId),
    /// Its state.
    SandboxStatus(ContainerId, bool),
    /// End the shim.
    ShutdownSandbox(ContainerId),
}

/// A call that decides nothing here: it goes to the guest if there is one.
#[derive(Debug, Clone)]
pub enum Pass {
    /// Set a terminal's size.
    Resize(ProcessId, TerminalSize),
    /// Close a process's input.
    CloseStdin(ProcessId),
    /// Change a container's limits.
    Update(ContainerId, Box<LinuxResources>),
    /// Measure a container.
    Stats(ContainerId),
    /// Whether the agent answers for the sandbox with this name.
    Ping(ContainerId),
}

/// The answer to a [`Call`].
#[derive(Debug, Clone)]
pub enum Reply {
    /// It is done.
    Done,
    /// The process id that stands for a process.
    Pid(u32),
    /// State.
    State(ProcessState),
    /// Pids.
    Pids(Vec<ProcessInfo>),
    /// Connect.
    Connected(Connected),
    /// Wait.
    Exit(Exit),
    /// Delete.
    Deleted(Deleted),
    /// Stats.
    Stats(Box<ContainerStats>),
    /// StartSandbox.
    SandboxStarted(SandboxStarted),
    /// SandboxStatus.
    SandboxStatus(SandboxStatus),
}

/// A VM that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Up {
    /// QEMU's process id, which stands for all that runs in the guest.
    pub pid: u32,
    /// When the sandbox was up.
    pub since: SystemTime,
}

/// How a VM ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Why, for people.
    pub why: Arc<str>,
    /// Whether it was asked for.
    pub asked: bool,
    /// When.
    pub at: SystemTime,
}

/// A container that the guest has created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// What it is to the pod.
    pub role: Role,
    /// Whether its processes live in a PID namespace with those of other containers.
    pub shares_pids: bool,
    /// Where its termination message is wanted.
    pub last_words: Option<Arc<TerminationLog>>,
}

/// For whom a VM is booted.
#[derive(Debug, Clone)]
pub enum For {
    /// The pod's first container.
    Container(Arc<NewContainer>),
    /// The sandbox without pause container.
    Sandbox(Arc<CreateSandboxRequest>),
}

/// Something to be done. Those that end in an [`Input`] name it.
#[derive(Debug)]
pub enum Effect {
    /// The caller gets its answer.
    Answer(Ticket, Result<Reply>),
    /// containerd is told.
    Tell(Event),
    /// A line for the log.
    Say(Line),
    /// Boot the VM; [`Input::Booted`].
    Boot(For),
    /// Give the boot up that is under way; it ends in an error.
    CancelBoot,
    /// Create a container in the guest; [`Input::Made`].
    Make(Arc<NewContainer>),
    /// Start a process, an exec with its spec; [`Input::Started`].
    Start(Ticket, ProcessId, StdioPaths, Option<Arc<OciProcess>>),
    /// Wait for a process's end; [`Input::Exited`], unless the VM ends before.
    Follow(ProcessId),
    /// Send a signal; [`Input::Signalled`].
    Signal(Ticket, KillRequest),
    /// Set a terminal's size.
    Resize(ProcessId, TerminalSize),
    /// Kill what is left of a container whose first process is gone.
    KillRest(ContainerId),
    /// Leave a note of it in this bundle, where an engine that takes no events finds out that memory ran out.
    NoteOom(PathBuf),
    /// Freeze or thaw a container; [`Input::Frozen`].
    Freeze(Ticket, ContainerId, Step),
    /// Ask the guest; [`Input::Passed`].
    Pass(Ticket, Pass),
    /// Close a process's streams once the output that is there is written.
    CloseStreams(ProcessId),
    /// Fetch the termination message of a container whose first process ended so; [`Input::LastWords`].
    LastWords(ContainerId, Exit, Arc<TerminationLog>),
    /// Remove a container from the guest, if there is one, and give back what it held; [`Input::Removed`].
    Remove(ContainerId),
    /// Stop the VM; [`Input::VmEnded`], then [`Input::Released`].
    Stop,
    /// Say so later; [`Input::Woken`].
    Wake(Duration, Wake),
    /// A start is over: give back what only starts need.
    Settle,
    /// End the shim.
    End,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wake {
    /// The end of a process is told now: a reason for it would have come by then.
    Exit(ProcessId, Exit),
}

/// What containerd is told of.
#[derive(Debug, Clone)]
pub enum Event {
    /// A container was created.
    Created(Arc<NewContainer>, u32),
    /// A process was started.
    Started(ProcessId, u32),
    /// An exec was added.
    ExecAdded(ProcessId),
    /// A process ended.
    Exited(ProcessId, u32, Exit),
    /// A container was deleted.
    Deleted(ContainerId, Deleted),
    /// A container ran out of memory.
    Oom(ContainerId),
    /// A container was frozen.
    Paused(ContainerId),
    /// A container was thawed.
    Resumed(ContainerId),
}

/// A line for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A process was started.
    Started(ProcessId),
    /// A process ended.
    Ended(ProcessId, u32),
    /// Nobody knows how a process ended.
    ExitLost(ProcessId, String),
    /// A process went down with its VM.
    EndsWithVm(ProcessId, Arc<str>),
    /// A container ran out of memory; whether it is the last time that this is said of it.
    Oom(ContainerId, bool),
    /// The guest told of a container that is none.
    UnknownOom(String),
    /// The VM is stopped, and why.
    Stopping(&'static str),
    /// The guest did not kill the pod's only container.
    NotKilled(ContainerId, String),
    /// Something of the host is still taken.
    NotReleased(String),
    /// All that the VM had on the host is given back.
    Released,
}

impl Event {
    /// The container that it is about.
    #[cfg(test)]
    pub fn container(&self) -> &ContainerId {
        match self {
            Self::Created(new, _) => &new.request.id,
            Self::Started(process, _) | Self::ExecAdded(process) | Self::Exited(process, ..) => {
                &process.container
            }
            Self::Deleted(id, _) | Self::Oom(id) | Self::Paused(id) | Self::Resumed(id) => id,
        }
    }
}

/// An operation whose object is in the wrong state.
pub(super) fn wrong_state(action: &'static str, what: &ProcessId, state: &'static str) -> Error {
    Error::WrongState { action, what: what.to_string(), state }
}
