//! The one way into a sandbox: a cheap handle that services share.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use guest_spec::Role;
use nix::sys::signal::Signal;
use oci_spec::runtime::{LinuxResources, Process as OciProcess};
use slog::{Logger, info, warn};
use tokio::sync::watch;
use tokio::time::sleep;

use super::api::{
    Connected, ContainerId, CreateRequest, CreateSandboxRequest, Deleted, ExecRequest, Exit, KillRequest,
    Namespace, ProcessId, ProcessInfo, ProcessState, RuntimeOptions, SandboxStarted, SandboxState,
    SandboxStatus, Status, TerminalSize, UpdateRequest,
};
use super::container::{Container, Exec};
use super::launch::Launch;
use super::lifecycle::Step;
use super::pod::{Machine, Pod};
use super::process::Process;
use super::{Error, Result, create};
use crate::metrics::ContainerStats;
use crate::publisher::{Event, Events};
use crate::resident::drop_idle_code;
use crate::stdio::Stdio;

/// How long after a start the shim is idle.
const SETTLED: Duration = Duration::from_secs(1);

/// What a sandbox is told when its shim starts.
#[derive(Debug)]
pub struct Context {
    /// containerd's namespace.
    pub namespace: Namespace,
    /// The sandbox that this shim serves.
    pub id: ContainerId,
    /// Runtime options that came with the shim's start; those of a request come before them.
    pub options: RuntimeOptions,
    /// containerd's socket; empty for an engine that has none.
    pub engine: String,
    /// Where events go.
    pub events: Events,
    /// The shim's log.
    pub log: Logger,
    /// Set to true when the shim shall end.
    pub end: watch::Sender<bool>,
}

/// Handle of the sandbox.
#[derive(Debug, Clone)]
pub struct Handle {
    pod: Arc<Pod>,
}

fn wrong_state(action: &'static str, process: &Process) -> Error {
    Error::WrongState { action, what: process.id.to_string(), state: process.status().name() }
}

impl Handle {
    /// A sandbox that has nothing yet.
    pub fn new(context: Context) -> Self {
        Self { pod: Arc::new(Pod::new(context)) }
    }

    fn log(&self) -> &Logger {
        &self.pod.context.log
    }

    fn publish(&self, event: &Event) {
        self.pod.context.events.publish(event);
    }

    /// The container and the process that `id` names.
    fn find(&self, id: &ProcessId) -> Result<(Arc<Container>, Arc<Process>)> {
        let container = self.pod.container(&id.container)?;
        let process = container.process(id)?;
        Ok((container, process))
    }

    /// Creates a container, and boots the VM for the first one. Returns the process id that stands for it.
    pub async fn create(&self, request: CreateRequest) -> Result<u32> {
        create::create(&self.pod, request).await
    }

    /// Starts a created process.
    pub async fn start(&self, id: ProcessId) -> Result<u32> {
        let (container, process) = self.find(&id)?;
        process.life.check(Step::Start).map_err(|_| wrong_state("start", &process))?;
        let up = self.pod.up()?;
        let agent = up.vm.agent();
        let stdio = Stdio::open(&process.paths, process.guest_name(), agent.clone(), self.log())
            .map_err(|error| Error::failed(format!("open the streams of {id}"), error))?;
        process.connect(Arc::new(stdio));
        match &id.exec {
            None => agent.start_container(id.container.as_str()).await.map(drop)?,
            Some(name) => {
                let spec = container.exec(&id)?.spec;
                agent.exec_process(id.container.as_str(), name.as_str(), (*spec).clone()).await?;
            }
        }
        if let Some(stdio) = process.stdio() {
            stdio.pump();
        }
        // A VM that ended meanwhile has ended the process too.
        process.life.take(Step::Start).map_err(|_| wrong_state("start", &process))?;
        self.publish(&Event::started(&id, process.pid));
        info!(self.log(), "process started"; "process" => %id);
        let follow =
            Arc::clone(&process).follow(agent.clone(), self.pod.context.events.clone(), self.log().clone());
        tokio::spawn(follow);
        if id.exec.is_none() {
            settle();
        }
        Ok(process.pid)
    }

    /// Where a process is in its life.
    pub async fn state(&self, id: ProcessId) -> Result<ProcessState> {
        let (container, process) = self.find(&id)?;
        Ok(ProcessState {
            process: id,
            bundle: container.bundle.clone(),
            pid: process.pid,
            status: process.status(),
            stdio: process.paths.clone(),
        })
    }

    /// The processes of a container. The host sees one for all of them: QEMU. The first one is there until it is
    /// deleted: a containerd that was restarted takes a task without processes for one that was never made, and
    /// deletes it, exit status and all.
    pub async fn pids(&self, id: ContainerId) -> Result<Vec<ProcessInfo>> {
        let container = self.pod.container(&id)?;
        let listed = container.processes().into_iter().filter(|process| {
            process.id.exec.is_none() || matches!(process.status(), Status::Running | Status::Paused)
        });
        Ok(listed.map(|process| ProcessInfo { pid: process.pid, exec: process.id.exec.clone() }).collect())
    }

    /// Sends a signal; SIGKILL or SIGTERM to the pod's sandbox container stops the VM.
    pub async fn kill(&self, request: KillRequest) -> Result<()> {
        let (container, process) = self.find(&request.process)?;
        if matches!(process.status(), Status::Stopped(_)) {
            // What containerd understands as: it has ended already.
            return Err(Error::NoProcess(request.process));
        }
        let ends = [Signal::SIGKILL as u32, Signal::SIGTERM as u32].contains(&request.signal);
        if ends && container.role == Role::Sandbox && process.id.exec.is_none() {
            self.pod.stop().await;
            return Ok(());
        }
        let sent = self.signal(&process, &request).await;
        let created = process.status() == Status::Created;
        match sent {
            Ok(()) if created && ends => {
                process.exited(Exit::now(128 + request.signal), &self.pod.context.events, self.log());
                Ok(())
            }
            // An agent that does not carry out a SIGKILL is no reason for the container to live on.
            Err(error) if request.signal == Signal::SIGKILL as u32 && self.is_only(&container) => {
                warn!(self.log(), "the guest does not kill its only container, stopping the VM"; "error" => %error);
                self.pod.stop().await;
                Ok(())
            }
            sent => sent,
        }
    }

    async fn signal(&self, process: &Process, request: &KillRequest) -> Result<()> {
        if process.id.exec.is_some() && process.status() == Status::Created {
            return Ok(()); // the guest does not know it yet
        }
        let up = self.pod.up()?;
        let agent = up.vm.agent();
        if request.signal == Signal::SIGKILL as u32 {
            process.note_kill();
        }
        if request.all {
            agent.signal_all(process.id.container.as_str(), request.signal).await?;
        } else {
            agent.signal_process(process.guest_name(), request.signal).await?;
        }
        Ok(())
    }

    fn is_only(&self, container: &Container) -> bool {
        self.pod.all_containers().iter().all(|other| other.id() == container.id())
            && self.pod.has_no_sandbox()
    }

    /// Adds a process, not yet started.
    pub async fn exec(&self, request: ExecRequest) -> Result<()> {
        let container = self.pod.container(&request.container)?;
        if container.init.status() != Status::Running {
            return Err(wrong_state("execute a process in", &container.init));
        }
        let spec: OciProcess = serde_json::from_slice(&request.process).map_err(|error| {
            Error::InvalidRequest { field: "spec", reason: format!("it is no OCI process: {error}") }
        })?;
        let mut notes = Vec::new();
        let spec = guest_spec::process(&spec, &mut notes);
        let id = ProcessId { container: request.container, exec: Some(request.exec.clone()) };
        for note in notes {
            info!(self.log(), "process changed for the guest: {note}"; "process" => %id);
        }
        let process = Arc::new(Process::new(id.clone(), request.stdio, container.init.pid));
        container.add_exec(request.exec, Exec { process, spec: Arc::new(spec) })?;
        self.publish(&Event::exec_added(&id));
        Ok(())
    }

    /// Sets the size of a process's terminal.
    pub async fn resize_pty(&self, id: ProcessId, size: TerminalSize) -> Result<()> {
        let (_, process) = self.find(&id)?;
        let up = self.pod.up()?;
        up.vm.agent().tty_win_resize(process.guest_name(), size.height, size.width).await?;
        Ok(())
    }

    /// Closes a process's standard input once it is drained.
    pub async fn close_stdin(&self, id: ProcessId) -> Result<()> {
        let (_, process) = self.find(&id)?;
        if let Some(stdio) = process.stdio() {
            stdio.close_stdin();
        }
        Ok(())
    }

    /// Freezes a container.
    pub async fn pause(&self, id: ContainerId) -> Result<()> {
        let container = self.pod.container(&id)?;
        container.init.life.check(Step::Pause).map_err(|_| wrong_state("pause", &container.init))?;
        self.pod.up()?.vm.agent().pause_container(id.as_str()).await?;
        step_all(&container, Step::Pause);
        self.publish(&Event::paused(id.as_str()));
        Ok(())
    }

    /// Thaws a container.
    pub async fn resume(&self, id: ContainerId) -> Result<()> {
        let container = self.pod.container(&id)?;
        container.init.life.check(Step::Resume).map_err(|_| wrong_state("resume", &container.init))?;
        self.pod.up()?.vm.agent().resume_container(id.as_str()).await?;
        step_all(&container, Step::Resume);
        self.publish(&Event::resumed(id.as_str()));
        Ok(())
    }

    /// Changes a container's limits.
    pub async fn update(&self, request: UpdateRequest) -> Result<()> {
        self.pod.container(&request.id)?;
        let resources: LinuxResources =
            serde_json::from_slice(&request.resources).map_err(|error| Error::InvalidRequest {
                field: "resources",
                reason: format!("they are no OCI resources: {error}"),
            })?;
        let mut notes = Vec::new();
        let resources = guest_spec::resources(&resources, &mut notes);
        for note in notes {
            info!(self.log(), "limits changed for the guest: {note}"; "container" => %request.id);
        }
        self.pod.up()?.vm.agent().update_container(request.id.as_str(), resources).await?;
        Ok(())
    }

    /// Waits until a process ends.
    pub async fn wait(&self, id: ProcessId) -> Result<Exit> {
        let (_, process) = self.find(&id)?;
        Ok(process.life.exited().await)
    }

    /// A container's resource usage.
    pub async fn stats(&self, id: ContainerId) -> Result<ContainerStats> {
        self.pod.container(&id)?;
        Ok(self.pod.up()?.vm.agent().stats_container(id.as_str()).await?)
    }

    /// Process ids of the shim and of the container.
    pub async fn connect(&self, id: ContainerId) -> Result<Connected> {
        let container = self.pod.container(&id)?;
        Ok(Connected { shim_pid: std::process::id(), task_pid: container.init.pid })
    }

    /// Forgets an ended process and returns how it ended. The pod's VM goes with its last container.
    pub async fn delete(&self, id: ProcessId) -> Result<Deleted> {
        let (container, process) = self.find(&id)?;
        let exit = match process.status() {
            Status::Stopped(exit) => exit,
            Status::Created => Exit::now(Exit::KILLED),
            Status::Running | Status::Paused => return Err(wrong_state("delete", &process)),
        };
        let deleted = Deleted { pid: process.pid, exit };
        match &id.exec {
            // containerd's own shims tell of no exec's deletion.
            Some(name) => container.remove_exec(name),
            None => {
                self.remove(&container).await;
                self.publish(&Event::delete(id.container.as_str(), deleted));
            }
        }
        Ok(deleted)
    }

    async fn remove(&self, container: &Container) {
        let last = self.is_only(container);
        if last {
            create::remove_last(&self.pod, container).await;
        } else {
            create::remove(&self.pod, container).await;
        }
        self.pod.forget(container.id());
        if self.pod.shutdown_was_asked() && self.pod.is_empty() {
            self.end().await;
        }
    }

    /// Ends the shim: with `now` at once, else as soon as it has no container left. containerd asks once for a pod,
    /// with the deletion of its sandbox container, and that may come before the others' when they all died.
    pub async fn shutdown(&self, now: bool) -> Result<()> {
        if now || (self.pod.is_empty() && self.pod.has_no_sandbox()) {
            self.end().await;
        } else if self.pod.has_no_sandbox() {
            self.pod.ask_for_shutdown();
        }
        Ok(())
    }

    async fn end(&self) {
        self.pod.stop().await;
        self.pod.context.end.send_replace(true);
    }

    /// Takes note of a sandbox that has no pause container.
    pub async fn create_sandbox(&self, request: CreateSandboxRequest) -> Result<()> {
        self.check_sandbox(&request.id)?;
        let mut known = self.pod.sandbox_request.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_some() {
            return Err(Error::Exists(ProcessId::init(request.id)));
        }
        *known = Some(request);
        Ok(())
    }

    fn check_sandbox(&self, id: &ContainerId) -> Result<()> {
        let served = &self.pod.context.id;
        if id == served {
            return Ok(());
        }
        Err(Error::NoSandbox { id: id.clone(), served: served.clone() })
    }

    /// Boots its VM.
    pub async fn start_sandbox(&self, id: ContainerId) -> Result<SandboxStarted> {
        self.check_sandbox(&id)?;
        let request = self.pod.sandbox_request.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let request = request.ok_or_else(|| Error::NoContainer(id))?;
        let launch = Launch::of_sandbox(&request, self.pod.context.options.clone());
        let up = self.pod.ensure_up(|| Ok(launch)).await?;
        settle();
        Ok(SandboxStarted { pid: up.vm.pid(), created_at: up.since })
    }

    /// Stops its VM and with it every container. A guest has its own limit for going down, so `grace` may be cut.
    pub async fn stop_sandbox(&self, id: ContainerId, grace: Duration) -> Result<()> {
        self.check_sandbox(&id)?;
        info!(self.log(), "sandbox is stopped"; "grace_s" => grace.as_secs());
        self.pod.stop().await;
        Ok(())
    }

    /// Waits until the VM ends.
    pub async fn wait_sandbox(&self, id: ContainerId) -> Result<Exit> {
        self.check_sandbox(&id)?;
        self.pod.ended().await
    }

    /// State of the sandbox.
    pub async fn sandbox_status(&self, id: ContainerId, verbose: bool) -> Result<SandboxStatus> {
        self.check_sandbox(&id)?;
        let mut info = BTreeMap::new();
        let (pid, state, created_at, exited_at) = match &*self.pod.machine() {
            Machine::Absent => (0, SandboxState::NotReady, None, None),
            Machine::Up(up) => (up.vm.pid(), SandboxState::Ready, Some(up.since), None),
            Machine::Down(down) => {
                info.insert("ended".to_owned(), down.why.to_string());
                (0, SandboxState::NotReady, Some(down.since), Some(down.at))
            }
        };
        if !verbose {
            info.clear();
        }
        Ok(SandboxStatus { pid, state, info, created_at, exited_at })
    }

    /// Whether the VM's agent answers.
    pub async fn ping(&self, id: ContainerId) -> Result<()> {
        self.check_sandbox(&id)?;
        Ok(self.pod.up()?.vm.agent().check().await?)
    }

    /// Stops the VM, releases everything and ends the shim.
    pub async fn shutdown_sandbox(&self, id: ContainerId) -> Result<()> {
        self.check_sandbox(&id)?;
        self.shutdown(true).await
    }

    /// Resource usage of the whole VM: what its containers use together is the guest's affair, so this is the
    /// sandbox container's where there is one.
    pub async fn sandbox_metrics(&self, id: ContainerId) -> Result<ContainerStats> {
        self.check_sandbox(&id)?;
        self.stats(id).await
    }
}

/// Gives back, once the start is over, what only starts need.
fn settle() {
    tokio::spawn(async {
        sleep(SETTLED).await;
        drop_idle_code();
    });
}

/// Moves every process of a container that can take the step; an ended exec cannot.
fn step_all(container: &Container, step: Step) {
    for process in container.processes() {
        let _ = process.life.take(step);
    }
}
