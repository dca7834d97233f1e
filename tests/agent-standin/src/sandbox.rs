//! The sandbox: what the service's calls work on.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as SyncMutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_client::proto::agent::{CreateContainerRequest, CreateSandboxRequest, Storage};
use tokio::sync::Mutex;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::cdh::Hub;
use crate::container::{self, BASE, Container};
use crate::devices;
use crate::error::{Error, Result};
use crate::id;
use crate::namespaces::Shared;
use crate::oom;
use crate::reaper::Reaper;
use crate::spec;
use crate::storage::Storages;
use crate::sysctl;

/// How long a container's processes may take to die when the call sets no limit.
const END_LIMIT: Duration = Duration::from_secs(20);

/// What exists once CreateSandbox was called.
#[derive(Debug)]
struct Made {
    id: String,
    shared: Shared,
    /// First process of the first container: the owner of the PID namespace that containers may share.
    first: Option<i32>,
}

#[derive(Debug)]
struct Entry {
    container: Arc<Container>,
    storages: Vec<PathBuf>,
}

#[derive(Debug, Default)]
struct State {
    made: Option<Made>,
    containers: HashMap<String, Entry>,
    /// Ids of containers that are being created or removed.
    busy: HashSet<String>,
}

/// The one sandbox of this agent.
pub struct Sandbox {
    state: SyncMutex<State>,
    storages: Mutex<Storages>,
    reaper: Reaper,
    hotplug: Duration,
    hub: Option<Hub>,
    oom_sender: Sender<String>,
    oom_events: Mutex<Receiver<String>>,
}

/// Frees a busy id.
struct Busy<'a> {
    sandbox: &'a Sandbox,
    id: String,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.sandbox.lock().busy.remove(&self.id);
    }
}

impl Sandbox {
    /// No sandbox yet; `hub` opens sealed secrets.
    pub fn new(reaper: Reaper, hotplug: Duration, hub: Option<Hub>) -> Self {
        let (oom_sender, oom_events) = channel(100);
        Self {
            state: SyncMutex::default(),
            storages: Mutex::default(),
            reaper,
            hotplug,
            hub,
            oom_sender,
            oom_events: Mutex::new(oom_events),
        }
    }

    /// Remounts the sandbox's memory-backed storages.
    pub async fn update_ephemeral(&self, storages: &[Storage]) -> Result<()> {
        self.storages.lock().await.update_ephemeral(storages)
    }

    /// CreateSandbox.
    pub async fn create(&self, request: &CreateSandboxRequest) -> Result<()> {
        if request.sandbox_id.is_empty() {
            return Err(Error::refused("sandbox without id"));
        }
        if request.sandbox_pidns {
            return Err(Error::Unsupported("sandbox_pidns of the sandbox; ask for it per container"));
        }
        if !request.guest_hook_path.is_empty() || !request.kernel_modules.is_empty() {
            return Err(Error::Unsupported("guest hooks and kernel modules"));
        }
        if self.lock().made.is_some() {
            return Err(Error::Order("the sandbox was created before"));
        }
        // Whatever was copied before is lost here, as with kata-agent.
        let _ = fs::remove_dir_all(BASE);
        fs::create_dir_all(BASE).map_err(Error::path("create directory", BASE))?;
        let shared = Shared::new(&request.hostname)?;
        write_dns(&request.dns)?;
        self.storages.lock().await.add(&request.storages, Path::new(BASE))?;
        self.lock().made = Some(Made { id: request.sandbox_id.clone(), shared, first: None });
        Ok(())
    }

    /// Refuses calls that mean nothing before CreateSandbox.
    pub fn expect_made(&self) -> Result<()> {
        match self.lock().made {
            Some(_) => Ok(()),
            None => Err(Error::Order("no sandbox was created yet")),
        }
    }

    /// CreateContainer.
    pub async fn create_container(&self, request: &CreateContainerRequest) -> Result<()> {
        let id = &request.container_id;
        id::verify(id)?;
        self.expect_made()?;
        if !request.shared_mounts.is_empty() {
            return Err(Error::Unsupported("mounts shared between containers"));
        }
        if request.stdin_port != 0 || request.stdout_port != 0 || request.stderr_port != 0 {
            return Err(Error::Unsupported("streams over their own vsock ports"));
        }
        let oci = request.OCI.as_ref().ok_or_else(|| Error::refused("container without specification"))?;
        devices::check(&request.devices, &oci.Annotations, Path::new("/sys"), self.hotplug).await?;
        let mut spec = spec::container(oci)?;
        sysctl::apply_network(&mut spec)?;
        let _busy = self.reserve(id)?;
        self.share_namespaces(&mut spec, request.sandbox_pidns)?;
        let bundle = container::bundle(id);
        fs::create_dir_all(&bundle).map_err(Error::path("create directory", &bundle))?;
        let storages = self.storages.lock().await.add(&request.storages, &bundle);
        let storages = storages.inspect_err(|_| discard(id, &bundle))?;
        if let Some(hub) = &self.hub {
            hub.open(&mut spec).await;
        }
        let container = match Container::create(id, spec, &self.reaper).await {
            Ok(container) => Arc::new(container),
            Err(error) => {
                // The root may be a bind mount of a storage: off before the storages are.
                let _ = crate::mounts::detach(&bundle.join("rootfs"));
                self.storages.lock().await.release(&storages);
                discard(id, &bundle);
                return Err(error);
            }
        };
        let mut state = self.lock();
        if let Some(made) = &mut state.made {
            made.first.get_or_insert_with(|| container.init().as_raw());
        }
        state.containers.insert(id.clone(), Entry { container, storages });
        Ok(())
    }

    fn share_namespaces(&self, spec: &mut oci_spec::runtime::Spec, share_pids: bool) -> Result<()> {
        let state = self.lock();
        let made = state.made.as_ref().ok_or(Error::Order("no sandbox was created yet"))?;
        made.shared.apply(spec, made.first.filter(|_| share_pids))
    }

    fn reserve(&self, id: &str) -> Result<Busy<'_>> {
        let mut state = self.lock();
        if state.containers.contains_key(id) || !state.busy.insert(id.to_owned()) {
            return Err(Error::refused(format!("container id {id} is in use")));
        }
        Ok(Busy { sandbox: self, id: id.to_owned() })
    }

    /// StartContainer. Running out of memory is told of from here on, but not for a container that has the
    /// sandbox's own id, as with kata-agent.
    pub fn start_container(&self, id: &str) -> Result<()> {
        let container = self.container(id)?;
        let own = self.lock().made.as_ref().is_some_and(|made| made.id == id);
        if !own {
            oom::watch(id.to_owned(), container.cgroup().directory(), self.oom_sender.clone())?;
        }
        container.start()
    }

    /// Finds a container.
    pub fn container(&self, id: &str) -> Result<Arc<Container>> {
        let state = self.lock();
        let entry = state.containers.get(id).ok_or_else(|| Error::NoContainer(id.to_owned()))?;
        Ok(Arc::clone(&entry.container))
    }

    /// RemoveContainer; `seconds` of zero means no limit of the caller's.
    pub async fn remove_container(&self, id: &str, seconds: u32) -> Result<()> {
        let container = self.container(id)?;
        if !self.lock().busy.insert(id.to_owned()) {
            return Err(Error::Order("the container is being removed"));
        }
        let _busy = Busy { sandbox: self, id: id.to_owned() };
        let limit = if seconds == 0 { END_LIMIT } else { Duration::from_secs(seconds.into()) };
        container.destroy(limit).await?;
        // In kata-agent's order: a storage that is mounted below the directory makes this fail.
        container::remove_bundle(&container::bundle(id))?;
        let entry = self.lock().containers.remove(id);
        if let Some(entry) = entry {
            self.storages.lock().await.release(&entry.storages);
        }
        Ok(())
    }

    /// DestroySandbox: ends every container, then undoes every storage. The first container that cannot be removed ends
    /// it, and the agent lives on.
    pub async fn destroy(&self) -> Result<()> {
        self.expect_made()?;
        let ids: Vec<String> = self.lock().containers.keys().cloned().collect();
        for id in ids {
            self.remove_container(&id, 0).await?;
        }
        self.storages.lock().await.clear();
        Ok(())
    }

    /// Waits for the next container that ran out of memory.
    pub async fn next_oom(&self) -> Result<String> {
        let event = self.oom_events.lock().await.recv().await;
        event.ok_or(Error::Order("the sandbox ended"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn discard(id: &str, bundle: &Path) {
    if let Err(error) = container::remove_bundle(bundle) {
        container::left_behind(id, &error);
    }
}

fn write_dns(servers: &[String]) -> Result<()> {
    if servers.is_empty() {
        return Ok(());
    }
    let path = Path::new(BASE).join("sandbox/resolv.conf");
    let directory = Path::new(BASE).join("sandbox");
    fs::create_dir_all(&directory).map_err(Error::path("create directory", &directory))?;
    let lines: Vec<&str> = servers.iter().map(|line| line.trim()).collect();
    fs::write(&path, lines.join("\n")).map_err(Error::path("write", &path))
}
