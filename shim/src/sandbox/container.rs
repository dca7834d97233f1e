//! A container of the pod: its processes, and what it holds of the host and the VM.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent::proto::oci::Process as OciProcess;
use guest_spec::{Role, TerminationLog};
use vmm_config::hotplug::Lun;

use super::api::{ContainerId, ExecId, ProcessId};
use super::process::Process;
use super::volumes::Volumes;
use super::{Error, Result};

/// What a container needs given back when it is removed.
#[derive(Debug, Default)]
pub struct Holdings {
    /// The disks with its layers.
    pub luns: Vec<Lun>,
    /// The images behind them.
    pub rootfs: Option<host::rootfs::Rootfs>,
    /// Its copied volumes that are watched for changes.
    pub volumes: Volumes,
}

/// A created container.
#[derive(Debug)]
pub struct Container {
    /// Its first process.
    pub init: Arc<Process>,
    /// What it is to the pod.
    pub role: Role,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Where its last words are wanted.
    pub termination_log: Option<TerminationLog>,
    /// Taken when it is deleted.
    pub holdings: Mutex<Holdings>,
    execs: Mutex<BTreeMap<ExecId, Exec>>,
}

/// An added process and the spec that it will be started with.
#[derive(Debug, Clone)]
pub struct Exec {
    /// The process.
    pub process: Arc<Process>,
    /// Its spec in the agent's terms.
    pub spec: Arc<OciProcess>,
}

impl Container {
    /// A container that the agent has created.
    pub fn new(
        init: Process,
        role: Role,
        bundle: PathBuf,
        termination_log: Option<TerminationLog>,
        holdings: Holdings,
    ) -> Self {
        Self {
            init: Arc::new(init),
            role,
            bundle,
            termination_log,
            holdings: Mutex::new(holdings),
            execs: Mutex::default(),
        }
    }

    /// Its name.
    pub fn id(&self) -> &ContainerId {
        &self.init.id.container
    }

    fn execs(&self) -> MutexGuard<'_, BTreeMap<ExecId, Exec>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process that `id` names.
    ///
    /// # Errors
    /// There is no such exec.
    pub fn process(&self, id: &ProcessId) -> Result<Arc<Process>> {
        match &id.exec {
            None => Ok(Arc::clone(&self.init)),
            Some(_) => self.exec(id).map(|exec| exec.process),
        }
    }

    /// The exec that `id` names.
    ///
    /// # Errors
    /// There is none.
    pub fn exec(&self, id: &ProcessId) -> Result<Exec> {
        let exec = id.exec.as_ref().and_then(|exec| self.execs().get(exec).cloned());
        exec.ok_or_else(|| Error::NoProcess(id.clone()))
    }

    /// Adds an exec.
    ///
    /// # Errors
    /// The name is taken.
    pub fn add_exec(&self, name: ExecId, exec: Exec) -> Result<()> {
        let mut execs = self.execs();
        if execs.contains_key(&name) {
            return Err(Error::Exists(exec.process.id.clone()));
        }
        execs.insert(name, exec);
        Ok(())
    }

    /// Forgets an exec.
    pub fn remove_exec(&self, name: &ExecId) {
        self.execs().remove(name);
    }

    /// The first process and all execs.
    pub fn processes(&self) -> Vec<Arc<Process>> {
        let execs = self.execs();
        std::iter::once(&self.init).chain(execs.values().map(|exec| &exec.process)).cloned().collect()
    }
}
