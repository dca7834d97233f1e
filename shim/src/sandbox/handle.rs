//! The one way into a sandbox: a cheap handle that services share.

use std::path::PathBuf;
use std::sync::Arc;

use slog::Logger;
use tokio::sync::watch;

use super::api::{
    Connected, ContainerId, CreateRequest, CreateSandboxRequest, Deleted, ExecRequest, Exit, KillRequest,
    Namespace, ProcessId, ProcessInfo, ProcessState, SandboxStarted, SandboxStatus, TerminalSize,
    UpdateRequest,
};
use super::{Error, Result};
use crate::publisher::Events;

/// What a sandbox is told when its shim starts.
#[derive(Debug)]
pub struct Context {
    /// containerd's namespace.
    pub namespace: Namespace,
    /// The sandbox that this shim serves.
    pub id: ContainerId,
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
    context: Arc<Context>,
}

fn todo<T>(what: &str) -> Result<T> {
    Err(Error::Unsupported(format!("{what} is")))
}

impl Handle {
    /// A sandbox that has nothing yet.
    pub fn new(context: Context) -> Self {
        Self { context: Arc::new(context) }
    }

    /// Creates a container, and boots the VM for the first one. Returns the process id that stands for it.
    pub async fn create(&self, request: CreateRequest) -> Result<u32> {
        todo(&format!("creating container {} from {}", request.id, request.bundle.display()))
    }

    /// Starts a created process.
    pub async fn start(&self, _process: ProcessId) -> Result<u32> {
        todo("start")
    }

    /// Where a process is in its life.
    pub async fn state(&self, process: ProcessId) -> Result<ProcessState> {
        Err(Error::NoProcess(process))
    }

    /// The processes of a container.
    pub async fn pids(&self, _id: ContainerId) -> Result<Vec<ProcessInfo>> {
        todo("pids")
    }

    /// Sends a signal; the sandbox's own id stops the VM.
    pub async fn kill(&self, _request: KillRequest) -> Result<()> {
        todo("kill")
    }

    /// Adds a process, not yet started.
    pub async fn exec(&self, _request: ExecRequest) -> Result<()> {
        todo("exec")
    }

    /// Sets the size of a process's terminal.
    pub async fn resize_pty(&self, _process: ProcessId, _size: TerminalSize) -> Result<()> {
        todo("resize")
    }

    /// Closes a process's standard input once it is drained.
    pub async fn close_stdin(&self, _process: ProcessId) -> Result<()> {
        todo("close io")
    }

    /// Freezes a container.
    pub async fn pause(&self, _id: ContainerId) -> Result<()> {
        todo("pause")
    }

    /// Thaws a container.
    pub async fn resume(&self, _id: ContainerId) -> Result<()> {
        todo("resume")
    }

    /// Changes a container's limits.
    pub async fn update(&self, _request: UpdateRequest) -> Result<()> {
        todo("update")
    }

    /// Waits until a process ends.
    pub async fn wait(&self, process: ProcessId) -> Result<Exit> {
        Err(Error::NoProcess(process))
    }

    /// A container's resource usage.
    pub async fn stats(&self, id: ContainerId) -> Result<crate::metrics::ContainerStats> {
        Err(Error::NoContainer(id))
    }

    /// Process ids of the shim and of the container.
    pub async fn connect(&self, id: ContainerId) -> Result<Connected> {
        Err(Error::NoContainer(id))
    }

    /// Forgets an ended process and returns how it ended.
    pub async fn delete(&self, process: ProcessId) -> Result<Deleted> {
        Err(Error::NoProcess(process))
    }

    /// Ends the shim if it has no container left, or in any case with `now`.
    pub async fn shutdown(&self, _now: bool) -> Result<()> {
        self.context.end.send_replace(true);
        Ok(())
    }

    /// Takes note of a sandbox that has no pause container.
    pub async fn create_sandbox(&self, _request: CreateSandboxRequest) -> Result<()> {
        todo("the Sandbox API")
    }

    /// Boots its VM.
    pub async fn start_sandbox(&self, _id: ContainerId) -> Result<SandboxStarted> {
        todo("the Sandbox API")
    }

    /// Stops its VM and with it every container; `grace` is how long they may take.
    pub async fn stop_sandbox(&self, _id: ContainerId, _grace: std::time::Duration) -> Result<()> {
        todo("the Sandbox API")
    }

    /// Waits until the VM ends.
    pub async fn wait_sandbox(&self, _id: ContainerId) -> Result<Exit> {
        todo("the Sandbox API")
    }

    /// State of the sandbox.
    pub async fn sandbox_status(&self, _id: ContainerId, _verbose: bool) -> Result<SandboxStatus> {
        todo("the Sandbox API")
    }

    /// Whether the VM's agent answers.
    pub async fn ping(&self, _id: ContainerId) -> Result<()> {
        todo("the Sandbox API")
    }

    /// Stops the VM, releases everything and ends the shim.
    pub async fn shutdown_sandbox(&self, _id: ContainerId) -> Result<()> {
        self.shutdown(true).await
    }

    /// Resource usage of the whole VM.
    pub async fn sandbox_metrics(&self, id: ContainerId) -> Result<crate::metrics::ContainerStats> {
        self.stats(id).await
    }

    /// The directory that containerd gave the shim.
    pub fn bundle(&self) -> PathBuf {
        std::env::current_dir().unwrap_or_default()
    }
}
