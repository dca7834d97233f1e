//! The pod: its VM and the containers in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use slog::{Logger, error, info, warn};
use tokio::sync::{Mutex as AsyncMutex, watch};
use vmm::Vm;
use vmm::ended::Ended;

use super::api::{ContainerId, CreateSandboxRequest, Exit, ProcessId, Status};
use super::container::Container;
use super::gpus::GuestDevice;
use super::handle::Context;
use super::launch::{Launch, launch};
use super::pinned::Pinned;
use super::{Error, Result};
use crate::publisher::Event;

/// The pod's VM through its life. There is no way back: a pod has one VM.
#[derive(Debug)]
pub enum Machine {
    /// Not asked for yet.
    Absent,
    /// It runs.
    Up(Up),
    /// It ended, and why.
    Down(Down),
}

/// A running VM.
#[derive(Debug, Clone)]
pub struct Up {
    /// The VM.
    pub vm: Vm,
    /// Whether the guest's agent filters system calls.
    pub seccomp: bool,
    /// The layers that the pod's policy demands.
    pub pinned: Arc<Pinned>,
    /// The VM's GPUs and NVSwitches.
    pub devices: Arc<[GuestDevice]>,
    /// When the sandbox was up.
    pub since: SystemTime,
}

/// The end of a VM.
#[derive(Debug, Clone)]
pub struct Down {
    /// Why it ended.
    pub why: Arc<Ended>,
    /// When the sandbox was up.
    pub since: SystemTime,
    /// When it ended.
    pub at: SystemTime,
}

/// A place in the pod for a container's name.
#[derive(Debug)]
enum Slot {
    /// It is being created; the name is taken.
    Creating,
    /// It exists.
    Created(Arc<Container>),
}

/// The pod that a shim serves.
#[derive(Debug)]
pub struct Pod {
    /// Names, events, log.
    pub context: Context,
    /// What the Sandbox API was told, where it is used.
    pub sandbox_request: Mutex<Option<CreateSandboxRequest>>,
    /// Held through a boot, so that two creations cannot boot two VMs.
    machine: AsyncMutex<()>,
    state: Mutex<Machine>,
    containers: Mutex<BTreeMap<ContainerId, Slot>>,
    /// Set when the engine wants the shim to end but containers were left.
    shutdown_asked: OnceLock<()>,
}

/// A name that is taken for a container in the making; given back when dropped.
#[derive(Debug)]
pub struct Reservation<'a> {
    pod: &'a Pod,
    id: Option<ContainerId>,
}

impl Reservation<'_> {
    /// The container exists now.
    pub fn fill(mut self, container: Arc<Container>) {
        if let Some(id) = self.id.take() {
            self.pod.containers().insert(id, Slot::Created(container));
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.pod.containers().remove(&id);
        }
    }
}

impl Pod {
    /// A pod without anything.
    pub fn new(context: Context) -> Self {
        Self {
            context,
            sandbox_request: Mutex::default(),
            machine: AsyncMutex::default(),
            state: Mutex::new(Machine::Absent),
            containers: Mutex::default(),
            shutdown_asked: OnceLock::new(),
        }
    }

    fn log(&self) -> &Logger {
        &self.context.log
    }

    fn containers(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Slot>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The VM's state.
    pub fn machine(&self) -> MutexGuard<'_, Machine> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The running VM.
    ///
    /// # Errors
    /// There is none, or it ended.
    pub fn up(&self) -> Result<Up> {
        match &*self.machine() {
            Machine::Up(up) => Ok(up.clone()),
            Machine::Down(down) => Err(Error::VmGone(down.why.to_string())),
            Machine::Absent => Err(Error::VmGone("it was never started".to_owned())),
        }
    }

    /// Takes the name of a container that is about to be created.
    ///
    /// # Errors
    /// The name is taken.
    pub fn reserve(&self, id: &ContainerId) -> Result<Reservation<'_>> {
        let mut containers = self.containers();
        if containers.contains_key(id) {
            return Err(Error::Exists(ProcessId::init(id.clone())));
        }
        containers.insert(id.clone(), Slot::Creating);
        Ok(Reservation { pod: self, id: Some(id.clone()) })
    }

    /// A container that exists.
    ///
    /// # Errors
    /// It does not, or not yet.
    pub fn container(&self, id: &ContainerId) -> Result<Arc<Container>> {
        match self.containers().get(id) {
            Some(Slot::Created(container)) => Ok(Arc::clone(container)),
            Some(Slot::Creating) | None => Err(Error::NoContainer(id.clone())),
        }
    }

    /// All containers that exist.
    pub fn all_containers(&self) -> Vec<Arc<Container>> {
        let slots = self.containers();
        let created = slots.values().filter_map(|slot| match slot {
            Slot::Created(container) => Some(Arc::clone(container)),
            Slot::Creating => None,
        });
        created.collect()
    }

    /// Forgets a container.
    pub fn forget(&self, id: &ContainerId) {
        self.containers().remove(id);
    }

    /// Whether the pod is not the Sandbox API's: then it lives as long as its containers.
    pub fn has_no_sandbox(&self) -> bool {
        self.sandbox_request.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Whether the engine asked the shim to end while containers were left.
    pub fn shutdown_was_asked(&self) -> bool {
        self.shutdown_asked.get().is_some()
    }

    /// Notes that the shim shall end with its last container.
    pub fn ask_for_shutdown(&self) {
        self.shutdown_asked.get_or_init(|| ());
    }

    /// Whether no container is there or in the making.
    pub fn is_empty(&self) -> bool {
        self.containers().is_empty()
    }

    /// The running VM; boots it first where there was none.
    ///
    /// # Errors
    /// The boot fails (all it took is released, and it may be tried again), or the VM has ended already.
    pub async fn ensure_up(self: &Arc<Self>, launch_of: impl FnOnce() -> Result<Launch>) -> Result<Up> {
        let _booting = self.machine.lock().await;
        if !matches!(*self.machine(), Machine::Absent) {
            return self.up();
        }
        let plan = launch_of()?;
        let end = self.context.end.subscribe();
        let up = tokio::select! {
            up = launch(plan, &self.context) => up?,
            // Dropping the boot kills QEMU; what it recorded is released like a dead shim's.
            () = told(end) => {
                self.release_remains().await;
                return Err(Error::VmGone("the shim was told to end during its boot".to_owned()));
            }
        };
        *self.machine() = Machine::Up(up.clone());
        tokio::spawn(Arc::clone(self).follow_vm(up.clone()));
        tokio::spawn(Arc::clone(self).follow_ooms(up.vm.clone()));
        Ok(up)
    }

    /// Waits for the VM's end, which is the end of every process in it.
    async fn follow_vm(self: Arc<Self>, up: Up) {
        let why = up.vm.ended().await;
        *self.machine() =
            Machine::Down(Down { why: Arc::clone(&why), since: up.since, at: SystemTime::now() });
        for container in self.all_containers() {
            for process in container.processes() {
                if matches!(process.status(), Status::Stopped(_)) {
                    continue;
                }
                warn!(self.log(), "process ends with its VM"; "process" => %process.id, "reason" => %why);
                process.exited(Exit::now(Exit::KILLED), &self.context.events, self.log());
            }
        }
    }

    /// Passes the guest's out-of-memory events on, for as long as the agent is there.
    async fn follow_ooms(self: Arc<Self>, vm: Vm) {
        while let Ok(id) = vm.agent().get_oom_event().await {
            // What the guest names must be one of ours.
            match ContainerId::new(id).and_then(|id| self.container(&id)) {
                Ok(container) => {
                    warn!(self.log(), "container ran out of memory"; "container" => %container.id());
                    self.context.events.publish(&Event::oom(container.id().as_str()));
                }
                Err(error) => warn!(self.log(), "guest told of an unknown container"; "error" => %error),
            }
        }
    }

    /// Stops the VM, if there is one, and waits until nothing is left of it.
    pub async fn stop(&self) {
        let vm = match &*self.machine() {
            Machine::Up(up) => up.vm.clone(),
            Machine::Absent | Machine::Down(_) => return,
        };
        info!(self.log(), "stopping the VM");
        vm.stop().await;
        // The containers' exits are published by `follow_vm`, which sees the same end.
        for container in self.all_containers() {
            for process in container.processes() {
                process.life.exited().await;
            }
        }
    }

    /// Releases what a cancelled boot recorded.
    async fn release_remains(&self) {
        let path = self.state_dir();
        for failure in vmm::state::release(&path).await {
            error!(self.log(), "could not release a claim on the host"; "error" => super::error::one_line(&failure));
        }
    }

    /// The sandbox's state directory.
    pub fn state_dir(&self) -> PathBuf {
        vmm::state::StateDir::path_of(
            Path::new(vmm::state::ROOT),
            self.context.namespace.as_str(),
            self.context.id.as_str(),
        )
    }

    /// Waits until the VM has ended.
    ///
    /// # Errors
    /// There was never one.
    pub async fn ended(&self) -> Result<Exit> {
        let up = match &*self.machine() {
            Machine::Absent => return Err(Error::VmGone("it was never started".to_owned())),
            Machine::Down(down) => return Ok(down.exit()),
            Machine::Up(up) => up.clone(),
        };
        let why = up.vm.ended().await;
        Ok(Down { why, since: up.since, at: SystemTime::now() }.exit())
    }
}

/// Waits until the shim is told to end.
async fn told(mut end: watch::Receiver<bool>) {
    let _ = end.wait_for(|end| *end).await;
}

impl Down {
    /// The end as an exit status: 0 where it was asked for.
    pub fn exit(&self) -> Exit {
        let status = match self.why.cause {
            vmm::ended::Cause::Stopped => 0,
            _ => Exit::KILLED,
        };
        Exit { status, at: self.at }
    }
}
