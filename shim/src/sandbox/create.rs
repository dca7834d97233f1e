//! The creation of a container, from its bundle to the agent's CreateContainer; and its removal.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use agent::Agent;
use agent::proto::agent::GetDiagnosticDataRequest;
use guest_spec::{FileKind, GuestRootfs, HostFile, Role, SandboxFacts, translate};
use slog::{Logger, info, warn};
use vmm::state::forget_rootfs;
use vmm::{Layer, Vm};

use super::api::{CreateRequest, ProcessId, Rootfs};
use super::container::{Container, Holdings};
use super::error::one_line;
use super::launch::Launch;
use super::pod::{Pod, Up};
use super::process::Process;
use super::volumes::Volumes;
use super::{Error, Result, bundle, gpus, layers};
use crate::publisher::Event;

/// How long the guest may take to remove a container.
const REMOVE_PATIENCE: Duration = Duration::from_secs(30);

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
        // The guest has the pod's own container, and takes none of the host's.
        let role = Role::of(&spec);
        let mut rootfs = GuestRootfs::default();
        if role != Role::Sandbox {
            let images = layers::prepare(pod, &request, &spec, &mounts, &up.pinned, &log).await?;
            let layers: Vec<Layer> = images.layers().iter().map(vm_layer).collect();
            rootfs.layers.extend(layers.iter().map(|layer| layer.root));
            holdings.rootfs = Some(images);
            holdings.luns = up
                .vm
                .add_layers(&layers)
                .await
                .map_err(|error| Error::failed("give the VM the image's layers", error))?;
        }
        let sandbox = SandboxFacts { namespace: pod.context.namespace.as_str(), seccomp: up.seccomp };
        let mut guest = translate(request.id.as_str(), &spec, &sandbox, &rootfs, &stat)
            .map_err(|error| Error::InvalidRequest { field: "spec", reason: one_line(&error) })?;
        if role != Role::Sandbox {
            guest.pass(&gpus::of_container(&spec, &up.devices)?);
        }
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

fn vm_layer(layer: &host::rootfs::Layer) -> Layer {
    Layer { image: layer.image.clone(), root: layer.root }
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
    match vm.remove_layers(std::mem::take(&mut holdings.luns)).await {
        Ok(held) => {
            for root in held {
                warn!(pod.context.log, "the guest holds on to a layer whose disk it has no more"; "container" => id,
                    "layer" => %root);
            }
        }
        Err(error) if vm.has_ended().is_none() => {
            warn!(pod.context.log, "could not remove a disk from the VM"; "container" => id, "error" => one_line(&error));
        }
        Err(_) => {}
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
