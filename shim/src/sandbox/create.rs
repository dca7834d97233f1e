//! The creation of a container, from its bundle to the agent's CreateContainer; and its removal.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use agent::Agent;
use agent::proto::agent::GetDiagnosticDataRequest;
use guest_spec::{FileKind, GuestRootfs, HostFile, LunAddress, Role, SandboxFacts, translate};
use host::rootfs::{Cache, DEFAULT_CACHE_BYTES, Mount as HostMount, Rootfs as HostRootfs, RootfsPlan};
use oci_spec::runtime::Spec;
use slog::{Logger, info, warn};
use vmm::Vm;
use vmm::state::{forget_rootfs, record_rootfs};

use super::api::{CreateRequest, Mount, ProcessId, Rootfs};
use super::container::{Container, Holdings};
use super::error::one_line;
use super::launch::Launch;
use super::pod::{Pod, Up};
use super::process::Process;
use super::volumes::Volumes;
use super::{Error, Result, bundle, gpus};
use crate::publisher::Event;

/// How long the guest may take to remove a container.
const REMOVE_PATIENCE: Duration = Duration::from_secs(30);
/// Where images that were built from other snapshotters' mounts are kept.
const CACHE: &str = "/var/lib/coffer/erofs";

/// Creates a container; boots the VM for the pod's first one. Returns the process id that stands for it.
///
/// # Errors
/// A step fails. All that it took is given back; the VM too, where it was booted for this container.
pub async fn create(pod: &Arc<Pod>, request: CreateRequest) -> Result<u32> {
    let mounts = match &request.rootfs {
        Rootfs::Mounts(mounts) => mounts.clone(),
        Rootfs::GuestPull(volume) => {
            return Err(Error::GuestPull(volume.image.clone()));
        }
    };
    let reservation = pod.reserve(&request.id)?;
    let spec = bundle::read_spec(&request.bundle)?;
    let up = pod.ensure_up(|| Ok(Launch::of_container(&spec, request.options.clone()))).await?;
    let log = pod.context.log.new(slog::o!("container" => request.id.to_string()));

    let mut holdings = Holdings::default();
    let created = async {
        let rootfs = host_rootfs(pod, &request, &spec, &mounts).await?;
        let layers = rootfs.layers().to_vec();
        holdings.rootfs = Some(rootfs);
        for layer in layers {
            let lun = up
                .vm
                .add_disk(layer)
                .await
                .map_err(|error| Error::failed("give the VM an image layer", error))?;
            holdings.luns.push(lun);
        }
        let sandbox = SandboxFacts { namespace: pod.context.namespace.as_str(), seccomp: up.seccomp };
        let layers = holdings.luns.iter().map(|lun| LunAddress { target: 0, lun: lun.get() }).collect();
        let mut guest = translate(request.id.as_str(), &spec, &sandbox, &GuestRootfs { layers }, &stat)
            .map_err(|error| Error::InvalidRequest { field: "spec", reason: one_line(&error) })?;
        guest.pass(&gpus::of_container(&spec, &up.devices)?);
        for note in &guest.notes {
            info!(log, "spec changed for the guest: {note}");
        }
        holdings.volumes = Volumes::copy_in(&guest.copies, up.vm.agent(), &log).await?;
        let termination_log = guest.termination_log.clone();
        let agent = up.vm.agent();
        if let Err(error) = agent.create_container(guest.into_request(request.id.as_str())).await {
            // A guest's policy may count containers, and has counted this one before it failed.
            if error.code().is_some() {
                let _ = agent.remove_container(request.id.as_str(), REMOVE_PATIENCE).await;
            }
            return Err(error.into());
        }
        Ok(termination_log)
    };
    match created.await {
        Ok(termination_log) => {
            let pid = up.vm.pid();
            pod.context.events.publish(&Event::create(&request, pid));
            let init = Process::new(ProcessId::init(request.id), request.stdio, pid);
            let role = Role::of(&spec);
            let container = Container::new(init, role, request.bundle, termination_log, holdings);
            reservation.fill(Arc::new(container));
            Ok(pid)
        }
        Err(error) => {
            give_back(pod, request.id.as_str(), holdings, &up.vm).await;
            drop(reservation);
            // The VM was there for this container only.
            if pod.is_empty() && pod.has_no_sandbox() {
                pod.stop().await;
            }
            Err(explain(error, &up))
        }
    }
}

/// An agent that went away in the middle of a call says less than the VM's end does.
fn explain(error: Error, up: &Up) -> Error {
    match up.vm.has_ended() {
        Some(why) => Error::VmGone(format!("{}; {why}", one_line(&error))),
        None => error,
    }
}

/// The container's root file system as image files on the host.
async fn host_rootfs(
    pod: &Pod,
    request: &CreateRequest,
    spec: &Spec,
    mounts: &[Mount],
) -> Result<HostRootfs> {
    let (sandbox, id) = (pod.context.id.as_str(), request.id.as_str());
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::failed(format!("prepare the root file system of container {id}"), error)
    };
    let mounts: Vec<HostMount> = match mounts {
        // `ctr run --rootfs` and CRI-O have it in place already.
        [] => vec![HostMount {
            fstype: "bind".to_owned(),
            source: bundle::root(&request.bundle, spec).display().to_string(),
            options: Vec::new(),
        }],
        mounts => mounts.iter().map(host_mount).collect(),
    };
    let cache = Cache::new(CACHE, DEFAULT_CACHE_BYTES);
    let plan = RootfsPlan::new(&mounts, cache, sandbox, id).map_err(|error| failed(error.into()))?;
    record_rootfs(&pod.state_dir(), id, &plan.record()).map_err(|error| failed(error.into()))?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let search: Vec<_> =
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]).collect();
    plan.claim(&search).await.map_err(|error| failed(error.into()))
}

fn host_mount(mount: &Mount) -> HostMount {
    HostMount {
        fstype: mount.kind.clone(),
        source: mount.source.display().to_string(),
        options: mount.options.clone(),
    }
}

/// What is at a path of the host.
fn stat(path: &Path) -> Option<HostFile> {
    let metadata = std::fs::metadata(path).ok()?;
    let kind = metadata.file_type();
    let kind = if kind.is_file() {
        FileKind::File
    } else if kind.is_dir() {
        FileKind::Directory
    } else if kind.is_block_device() || kind.is_char_device() {
        FileKind::Device
    } else {
        FileKind::Other
    };
    Some(HostFile { kind, gid: metadata.gid() })
}

/// Removes a container from the guest and gives back what it held. Its processes have ended.
pub async fn remove(pod: &Pod, container: &Container) {
    let log = &pod.context.log;
    let id = container.id().as_str();
    let holdings = std::mem::take(&mut *container.holdings.lock().unwrap_or_else(PoisonError::into_inner));
    let Ok(up) = pod.up() else {
        release_images(pod, id, holdings);
        return;
    };
    fetch_last_words(container, up.vm.agent(), log).await;
    if let Err(error) = up.vm.agent().remove_container(id, REMOVE_PATIENCE).await {
        warn!(log, "guest did not remove a container"; "container" => id, "error" => one_line(&error));
    }
    give_back(pod, id, holdings, &up.vm).await;
}

/// Removes the pod's last container together with the VM: what the guest holds goes with it.
pub async fn remove_last(pod: &Pod, container: &Container) {
    if let Ok(up) = pod.up() {
        fetch_last_words(container, up.vm.agent(), &pod.context.log).await;
    }
    pod.stop().await;
    let holdings = std::mem::take(&mut *container.holdings.lock().unwrap_or_else(PoisonError::into_inner));
    release_images(pod, container.id().as_str(), holdings);
}

/// Gives back a container's disks and images; volumes stop being watched as they are dropped.
async fn give_back(pod: &Pod, id: &str, mut holdings: Holdings, vm: &Vm) {
    for lun in std::mem::take(&mut holdings.luns) {
        if let Err(error) = vm.remove_disk(lun).await
            && vm.has_ended().is_none()
        {
            warn!(pod.context.log, "could not remove a disk from the VM"; "container" => id, "error" => one_line(&error));
        }
    }
    release_images(pod, id, holdings);
}

fn release_images(pod: &Pod, id: &str, holdings: Holdings) {
    let Some(rootfs) = holdings.rootfs else { return };
    match rootfs.release() {
        Ok(()) => forget_rootfs(&pod.state_dir(), id),
        Err(error) => {
            warn!(pod.context.log, "could not release an image"; "container" => id, "error" => one_line(&error));
        }
    }
}

/// Writes the container's termination message to where the kubelet reads it.
async fn fetch_last_words(container: &Container, agent: &Agent, log: &Logger) {
    let Some(termination_log) = &container.termination_log else { return };
    let request = GetDiagnosticDataRequest {
        log_type: "termination_log".to_owned(),
        container_id: container.id().to_string(),
        ..Default::default()
    };
    let written = match agent.get_diagnostic_data(request).await {
        Ok(answer) => std::fs::write(&termination_log.host, answer.data).map_err(|error| error.to_string()),
        Err(error) => Err(one_line(&error)),
    };
    if let Err(error) = written {
        warn!(log, "termination message is lost"; "container" => %container.id(), "error" => error);
    }
}
