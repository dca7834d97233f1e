//! The one way into a sandbox: a cheap handle that services share.
//!
//! A call is carried out whatever becomes of its caller: a half-made container is worse than one that nobody waits for,
//! which the engine deletes.

use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::{LinuxResources, Process as OciProcess};
use slog::{Logger, info};
use tokio::sync::{mpsc, oneshot, watch};

use super::bundle;
use super::driver::{Asked, Driver, Outlets};
use super::pod_vm::Context;
use super::real::ThisHost;
use crate::api::{
    Connected, ContainerId, CreateRequest, CreateSandboxRequest, Deleted, Error, ExecRequest, Exit,
    KillRequest, NewContainer, ProcessId, ProcessInfo, ProcessState, Result, SandboxStarted, SandboxStatus,
    TerminalSize, UpdateRequest, one_line,
};
use crate::core::{Call, Core, Pass, Reply, Step};
use crate::metrics::ContainerStats;
use crate::publisher::{self, Events};

/// Where a sandbox tells of itself.
#[derive(Debug)]
pub struct Outward {
    /// Where events go.
    pub events: Events,
    /// Set to true when the shim shall end.
    pub end: watch::Sender<bool>,
}

/// Handle of the sandbox.
#[derive(Debug, Clone)]
pub struct Handle {
    calls: mpsc::UnboundedSender<Asked>,
    context: Arc<Context>,
}

/// What the answer to `$call` holds; another answer than the core's own does not come.
macro_rules! expect {
    ($self:ident, $call:expr, $pattern:pat => $value:expr) => {
        match $self.call($call).await? {
            $pattern => Ok($value),
            other => Err(Error::failed("understand the answer", format!("{other:?}"))),
        }
    };
}

impl Handle {
    /// A sandbox that has nothing yet. Must be called in a runtime.
    pub fn new(context: Context, outward: Outward) -> Self {
        let context = Arc::new(context);
        let Outward { events, end } = outward;
        let tell = move |event| events.publish(&publisher::Event::from(event));
        let namespace = context.namespace.to_string();
        let outlets = Outlets { events: Box::new(tell), namespace, log: context.log.clone(), end };
        let core = Core::new(context.id.clone());
        let calls = Driver::start(core, ThisHost(Arc::clone(&context)), outlets);
        Self { calls, context }
    }

    fn log(&self) -> &Logger {
        &self.context.log
    }

    async fn call(&self, call: Call) -> Result<Reply> {
        let (caller, answer) = oneshot::channel();
        let ending = || Error::VmGone("the shim is ending".to_owned());
        self.calls.send((call, caller)).map_err(|_| ending())?;
        answer.await.map_err(|_| ending())?
    }

    /// Creates a container, and boots the VM for the first one. Returns the process id that stands for it.
    pub async fn create(&self, request: CreateRequest) -> Result<u32> {
        let spec = bundle::read_spec(&request.bundle)?;
        let new = Arc::new(NewContainer { request, spec });
        expect!(self, Call::Create(new), Reply::Pid(pid) => pid)
    }

    /// Starts a created process.
    pub async fn start(&self, id: ProcessId) -> Result<u32> {
        expect!(self, Call::Start(id), Reply::Pid(pid) => pid)
    }

    /// Where a process is in its life.
    pub async fn state(&self, id: ProcessId) -> Result<ProcessState> {
        expect!(self, Call::State(id), Reply::State(state) => state)
    }

    /// The processes of a container.
    pub async fn pids(&self, id: ContainerId) -> Result<Vec<ProcessInfo>> {
        expect!(self, Call::Pids(id), Reply::Pids(pids) => pids)
    }

    /// Sends a signal.
    pub async fn kill(&self, request: KillRequest) -> Result<()> {
        self.call(Call::Kill(request)).await.map(drop)
    }

    /// Adds a process, not yet started.
    pub async fn exec(&self, request: ExecRequest) -> Result<()> {
        let spec: OciProcess = serde_json::from_slice(&request.process).map_err(|error| {
            Error::InvalidRequest { field: "spec", reason: format!("it is no OCI process: {error}") }
        })?;
        let mut notes = Vec::new();
        let spec = Arc::new(guest_spec::process(&spec, &mut notes));
        let id = ProcessId { container: request.container, exec: Some(request.exec) };
        for note in notes {
            info!(self.log(), "process changed for the guest: {note}"; "process" => %id);
        }
        self.call(Call::Exec(id, request.stdio, spec)).await.map(drop)
    }

    /// Sets the size of a process's terminal.
    pub async fn resize_pty(&self, id: ProcessId, size: TerminalSize) -> Result<()> {
        self.call(Call::Pass(Pass::Resize(id, size))).await.map(drop)
    }

    /// Closes a process's standard input once it is drained.
    pub async fn close_stdin(&self, id: ProcessId) -> Result<()> {
        self.call(Call::Pass(Pass::CloseStdin(id))).await.map(drop)
    }

    /// Freezes a container.
    pub async fn pause(&self, id: ContainerId) -> Result<()> {
        self.call(Call::Freeze(id, Step::Pause)).await.map(drop)
    }

    /// Thaws a container.
    pub async fn resume(&self, id: ContainerId) -> Result<()> {
        self.call(Call::Freeze(id, Step::Resume)).await.map(drop)
    }

    /// Changes a container's limits.
    pub async fn update(&self, request: UpdateRequest) -> Result<()> {
        let resources: LinuxResources =
            serde_json::from_slice(&request.resources).map_err(|error| Error::InvalidRequest {
                field: "resources",
                reason: format!("they are no OCI resources: {error}"),
            })?;
        guest_spec::check_limits(request.id.as_str(), &resources)
            .map_err(|error| Error::InvalidRequest { field: "resources", reason: one_line(&error) })?;
        let mut notes = Vec::new();
        let limits = Box::new(guest_spec::resources(&resources, &mut notes));
        for note in notes {
            info!(self.log(), "limits changed for the guest: {note}"; "container" => %request.id);
        }
        self.call(Call::Pass(Pass::Update(request.id, limits))).await.map(drop)
    }

    /// Waits until a process ends.
    pub async fn wait(&self, id: ProcessId) -> Result<Exit> {
        expect!(self, Call::Wait(id), Reply::Exit(exit) => exit)
    }

    /// A container's resource usage.
    pub async fn stats(&self, id: ContainerId) -> Result<ContainerStats> {
        expect!(self, Call::Pass(Pass::Stats(id)), Reply::Stats(stats) => *stats)
    }

    /// Process ids of the shim and of the container.
    pub async fn connect(&self, id: ContainerId) -> Result<Connected> {
        expect!(self, Call::Connect(id), Reply::Connected(connected) => connected)
    }

    /// Forgets an ended process and returns how it ended. The pod's VM goes with its last container.
    pub async fn delete(&self, id: ProcessId) -> Result<Deleted> {
        expect!(self, Call::Delete(id), Reply::Deleted(deleted) => deleted)
    }

    /// Ends the shim: with `now` at once, else as soon as it has no container left.
    pub async fn shutdown(&self, now: bool) -> Result<()> {
        self.call(Call::Shutdown { now }).await.map(drop)
    }

    /// Takes note of a sandbox that has no pause container.
    pub async fn create_sandbox(&self, request: CreateSandboxRequest) -> Result<()> {
        self.call(Call::CreateSandbox(Arc::new(request))).await.map(drop)
    }

    /// Boots its VM.
    pub async fn start_sandbox(&self, id: ContainerId) -> Result<SandboxStarted> {
        expect!(self, Call::StartSandbox(id), Reply::SandboxStarted(started) => started)
    }

    /// Stops its VM and with it every container. A guest has its own limit for going down, so `grace` may be cut.
    pub async fn stop_sandbox(&self, id: ContainerId, grace: Duration) -> Result<()> {
        info!(self.log(), "sandbox is stopped"; "grace_s" => grace.as_secs());
        self.call(Call::StopSandbox(id)).await.map(drop)
    }

    /// Waits until the VM ends.
    pub async fn wait_sandbox(&self, id: ContainerId) -> Result<Exit> {
        expect!(self, Call::WaitSandbox(id), Reply::Exit(exit) => exit)
    }

    /// State of the sandbox.
    pub async fn sandbox_status(&self, id: ContainerId, verbose: bool) -> Result<SandboxStatus> {
        expect!(self, Call::SandboxStatus(id, verbose), Reply::SandboxStatus(status) => status)
    }

    /// Whether the VM's agent answers.
    pub async fn ping(&self, id: ContainerId) -> Result<()> {
        self.call(Call::Pass(Pass::Ping(id))).await.map(drop)
    }

    /// Stops the VM, releases everything and ends the shim.
    pub async fn shutdown_sandbox(&self, id: ContainerId) -> Result<()> {
        self.call(Call::ShutdownSandbox(id)).await.map(drop)
    }

    /// Resource usage of the whole VM: what its containers use together is the guest's affair, so this is the
    /// sandbox container's where there is one.
    pub async fn sandbox_metrics(&self, id: ContainerId) -> Result<ContainerStats> {
        self.stats(id).await
    }
}
