//! The creation of a container, from its bundle to the agent's CreateContainer; and its removal.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use agent_client::proto::agent::GetDiagnosticDataRequest;
use guest_spec::{FileKind, GuestRootfs, HostFile, Role, SandboxFacts, TerminationLog, translate};
use nix::libc::O_NOFOLLOW;
use slog::{info, warn};
use vmm::Layer;
use vmm::state::forget_rootfs;
use vmm_config::hotplug::Lun;

use super::pod_vm::{Context, PodVm};
use super::volumes::Volumes;
use super::{gpus, layers, models};
use crate::api::{ContainerId, Error, NewContainer, Result, Rootfs, one_line};
use crate::core::Made;

/// How long the guest may take to remove a container.
const REMOVE_PATIENCE: Duration = Duration::from_secs(30);

/// How much of a termination message kubelet reads, in bytes.
const MAX_MESSAGE: usize = 4096;

/// What a container needs given back when it is removed.
#[derive(Debug, Default)]
pub struct Holdings {
    /// The disks with its layers.
    luns: Vec<Lun>,
    /// The images behind them.
    rootfs: Option<host_claims::rootfs::Rootfs>,
    /// Its copied volumes that are watched for changes.
    volumes: Volumes,
    /// Where its last words are wanted.
    termination_log: Option<TerminationLog>,
}

/// Creates a container in a VM that runs.
///
/// # Errors
/// A step fails. All that it took is given back.
pub async fn create(vm: &PodVm, new: &NewContainer) -> Result<(Made, Holdings)> {
    let mut holdings = Holdings::default();
    match take_and_create(vm, new, &mut holdings).await {
        Ok(made) => Ok((made, holdings)),
        Err(error) => {
            give_back(vm, new.request.id.as_str(), holdings).await;
            Err(error)
        }
    }
}

async fn take_and_create(vm: &PodVm, new: &NewContainer, holdings: &mut Holdings) -> Result<Made> {
    let NewContainer { request, spec } = new;
    let mut spec = spec.clone();
    let context = &vm.context;
    let log = context.log.new(slog::o!("container" => request.id.to_string()));
    let mounts = match &request.rootfs {
        Rootfs::Mounts(mounts) => mounts,
        Rootfs::GuestPull(volume) => return Err(Error::GuestPull(volume.image.clone())),
    };
    // The guest has the pod's own container, and takes none of the host's.
    let role = Role::of(&spec);
    let models = if role == Role::Sandbox { Vec::new() } else { models::take(&mut spec, &vm.volumes)? };
    let spec = &spec;
    let mut rootfs = GuestRootfs::default();
    if role != Role::Sandbox {
        let images = layers::prepare(context, request, spec, mounts, vm, &log).await?;
        let mut layers: Vec<Layer> = images.layers().iter().map(vm_layer).collect();
        rootfs.layers.extend(layers.iter().map(|layer| layer.root));
        layers.extend(models.iter().map(|model| model.layer.clone()));
        holdings.rootfs = Some(images);
        holdings.luns = vm
            .vm
            .add_layers(&layers)
            .await
            .map_err(|error| Error::failed("give the VM the container's layers and volumes", error))?;
    }
    let sandbox = SandboxFacts { namespace: context.namespace.as_str(), seccomp: vm.seccomp };
    let mut guest = translate(request.id.as_str(), spec, &sandbox, &rootfs, &stat)
        .map_err(|error| Error::InvalidRequest { field: "spec", reason: one_line(&error) })?;
    let mounts: Vec<_> = models.into_iter().map(|model| model.mount).collect();
    guest.mount_models(&mounts);
    if role != Role::Sandbox {
        guest.pass(&gpus::of_container(spec, &vm.devices)?);
    }
    for note in &guest.notes {
        info!(log, "spec changed for the guest: {note}");
    }
    let agent = vm.vm.agent();
    holdings.volumes = Volumes::copy_in(&guest.copies, agent, &log).await?;
    holdings.termination_log = guest.termination_log.clone();
    let asked = guest.into_request(request.id.as_str());
    let made = Made { role, shares_pids: asked.sandbox_pidns };
    if let Err(error) = agent.create_container(asked).await {
        // A guest's policy may count containers, and has counted this one before it failed.
        if error.code().is_some() {
            let _ = agent.remove_container(request.id.as_str(), REMOVE_PATIENCE).await;
        }
        return Err(error.into());
    }
    Ok(made)
}

fn vm_layer(layer: &host_claims::rootfs::Layer) -> Layer {
    Layer { image: layer.image.clone(), root: layer.root, encrypted: false }
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

/// Removes a container from the guest, where there is one still, and gives back what it held. Its processes have ended.
pub async fn remove(vm: &PodVm, id: &ContainerId, holdings: Holdings) {
    if vm.vm.has_ended().is_none() {
        fetch_last_words(vm, id, &holdings).await;
        if let Err(error) = vm.vm.agent().remove_container(id.as_str(), REMOVE_PATIENCE).await {
            warn!(vm.context.log, "guest did not remove a container"; "container" => %id, "error" => one_line(&error));
        }
    }
    give_back(vm, id.as_str(), holdings).await;
}

/// Gives back a container's disks and images; volumes stop being watched as they are dropped.
async fn give_back(vm: &PodVm, id: &str, mut holdings: Holdings) {
    let log = &vm.context.log;
    match vm.vm.remove_layers(std::mem::take(&mut holdings.luns)).await {
        Ok(held) => {
            for root in held {
                warn!(log, "the guest holds on to a layer whose disk it has no more"; "container" => id,
                    "layer" => %root);
            }
        }
        Err(error) if vm.vm.has_ended().is_none() => {
            warn!(log, "could not remove a disk from the VM"; "container" => id, "error" => one_line(&error));
        }
        Err(_) => {}
    }
    release_images(&vm.context, id, holdings);
}

fn release_images(context: &Context, id: &str, holdings: Holdings) {
    let Some(rootfs) = holdings.rootfs else { return };
    match rootfs.release() {
        Ok(()) => forget_rootfs(&context.state_dir(), id),
        Err(error) => {
            warn!(context.log, "could not release an image"; "container" => id, "error" => one_line(&error));
        }
    }
}

/// Writes the container's termination message to where the kubelet reads it.
pub async fn fetch_last_words(vm: &PodVm, id: &ContainerId, holdings: &Holdings) {
    let Some(termination_log) = &holdings.termination_log else { return };
    let request = GetDiagnosticDataRequest {
        log_type: "termination_log".to_owned(),
        container_id: id.to_string(),
        ..Default::default()
    };
    let written = match vm.vm.agent().get_diagnostic_data(request).await {
        Ok(answer) => {
            write_message(&termination_log.host, answer.data.as_bytes()).map_err(|error| error.to_string())
        }
        Err(error) => Err(one_line(&error)),
    };
    if let Err(error) = written {
        warn!(vm.context.log, "termination message is lost"; "container" => %id, "error" => error);
    }
}

/// Writes what the guest says is the message: so much of it as kubelet reads, and through no symbolic link.
fn write_message(path: &Path, message: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).custom_flags(O_NOFOLLOW).open(path)?;
    file.write_all(&message[..message.len().min(MAX_MESSAGE)])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_message_is_bounded_and_written_through_no_link() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("log"), directory.path().join("link"));
        symlink(&file, &link).unwrap();
        assert!(write_message(&link, b"x").is_err() && !file.exists());
        write_message(&file, &[b'x'; 10_000]).unwrap();
        assert_eq!(std::fs::read(&file).unwrap().len(), MAX_MESSAGE);
    }
}
