//! The creation of a container, from its bundle to the agent's CreateContainer; and its removal.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use agent_client::proto::agent::{UpdateEphemeralMountsRequest, VolumeStatsRequest};
use agent_client::{Agent, AgentError};
use guest_spec::{
    FileKind, GuestContainer, GuestRootfs, HostFile, Medium, Role, SandboxFacts, VolumeJudge, check_size,
    member, translate,
};
use nix::sys::statfs::{HUGETLBFS_MAGIC, TMPFS_MAGIC, statfs};
use oci_spec::runtime::Spec;
use shared_types::EmptyDirectory;
use slog::{Logger, info, warn};
use tokio::task::JoinSet;
use vmm::Layer;
use vmm::state::forget_rootfs;
use vmm_config::hotplug::Lun;

use super::node_files::look;
use super::pinned::Pinned;
use super::pod_vm::{Context, DataHub, PodVm};
use super::volumes::Copied;
use super::{gpus, layers, models, sealed, sub_paths};
use crate::api::{ContainerId, Error, NewContainer, Result, Rootfs, VirtualVolume, one_line};
use crate::core::Made;

/// How long the guest may take to remove a container.
const REMOVE_PATIENCE: Duration = Duration::from_secs(30);

/// What a container needs given back when it is removed.
#[derive(Debug, Default)]
pub struct Holdings {
    /// The disks with its layers.
    luns: Vec<Lun>,
    /// The images behind them.
    rootfs: Option<host_claims::rootfs::Rootfs>,
    /// What was copied into the guest for it.
    copied: Copied,
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
    // The guest has the pod's own container, and takes none of the host's.
    let role = Role::of(&spec)?;
    sub_paths::name_directories(&mut spec);
    // Empty where nobody says it; none for a container that is no pod's.
    let uid = member(&spec)?.map(|pod| pod.uid.unwrap_or_default().to_owned());
    let mut models = Vec::new();
    if role != Role::Sandbox && !vm.volumes.is_empty() {
        let (volumes, uid) = (Arc::clone(&vm.volumes), uid.clone());
        let took = look(move |looking| {
            models::take(&mut spec, &volumes, uid.as_deref(), looking).map(|models| (spec, models))
        });
        (spec, models) = took.await??;
    }
    if vm.data_hub == DataHub::Nobody {
        let (spec, uid) = (spec.clone(), uid.clone());
        look(move |looking| sealed::refuse(&spec, uid.as_deref(), looking)).await??;
    }
    let spec = &spec;
    let mut rootfs = GuestRootfs::default();
    if role != Role::Sandbox {
        let mut layers = Vec::new();
        rootfs = match &request.rootfs {
            Rootfs::GuestPull(volume) => GuestRootfs::Pulled(pulled_by(vm, volume, spec)?.to_owned()),
            Rootfs::Mounts(mounts) => {
                let images = layers::prepare(context, request, spec, mounts, vm, &log).await?;
                layers.extend(images.layers().iter().map(vm_layer));
                holdings.rootfs = Some(images);
                GuestRootfs::Layers(layers.iter().map(|layer| layer.root).collect())
            }
        };
        layers.extend(models.iter().map(|model| model.layer.clone()));
        holdings.luns = vm
            .vm
            .add_layers(&layers)
            .await
            .map_err(|error| Error::failed("give the VM the container's layers and volumes", error))?;
    }
    let translated = look({
        let complete = vm.files.as_ref().map_or_else(|| spec.clone(), |files| files.complete(spec));
        let (id, namespace, seccomp, scratch) =
            (request.id.clone(), context.namespace.clone(), vm.seccomp, vm.scratch);
        let pinned = Arc::clone(&vm.pinned);
        move |looking| {
            let volumes = judge(&pinned, &complete, &rootfs);
            let sandbox = SandboxFacts { namespace: namespace.as_str(), seccomp, scratch, volumes };
            let stat = |path: &Path| {
                looking.at(path);
                stat(path)
            };
            translate(id.as_str(), &complete, &sandbox, &rootfs, &stat)
        }
    });
    let mut guest = translated
        .await?
        .map_err(|error| Error::InvalidRequest { field: "spec", reason: one_line(&error) })?;
    let mounts: Vec<_> = models.into_iter().map(|model| model.mount).collect();
    guest.mount_models(request.id.as_str(), &mounts);
    if role != Role::Sandbox {
        if let Some(score) = spec.process().as_ref().and_then(|process| process.oom_score_adj())
            && vm.vm.has_ended().is_none()
            && let Err(error) = vm.oom_score.lower(vm.vm.pid(), score)
        {
            warn!(log, "the VM keeps its place among those that the node ends when its memory runs out";
                "oom_score_adj" => score, "error" => one_line(&error));
        }
        check_pids(&vm.shares_pids, guest.sandbox_pidns)?;
        guest.pass(&gpus::of_container(spec, &vm.devices)?);
    }
    for note in &guest.notes {
        info!(log, "spec changed for the guest: {note}");
    }
    let limits = guest.oci.Linux.Resources.get_or_default();
    check_size(request.id.as_str(), limits, vm.size)
        .map_err(|error| Error::InvalidRequest { field: "spec", reason: one_line(&error) })?;
    let agent = vm.vm.agent();
    let secrets = match vm.data_hub {
        DataHub::Service => {
            let (container, mut copies) = (guest.oci.clone(), std::mem::take(&mut guest.copies));
            let found = look(move |looking| {
                sealed::find(&container, &mut copies, looking).map(|found| (found, copies))
            });
            let (found, copies) = found.await??;
            guest.copies = copies;
            Some(found.expected_by(&vm.vm))
        }
        DataHub::Components | DataHub::Nobody => None,
    };
    keep_what_is_there(agent, &mut guest, &log).await?;
    vm.copies.copy_in(&guest.copies, &mut holdings.copied).await?;
    let last_words = guest.termination_log.take().map(Arc::new);
    let sizes = std::mem::take(&mut guest.sizes);
    let asked = guest.into_request(request.id.as_str());
    let made = Made { role, shares_pids: asked.sandbox_pidns, last_words };
    if let Err(error) = agent.create_container(asked).await {
        // A guest's policy may count containers, and has counted this one before it failed; and one that was not made in time may
        // be made yet.
        if error.code().is_some() || matches!(error, AgentError::Timeout { .. }) {
            let _ = agent.remove_container(request.id.as_str(), REMOVE_PATIENCE).await;
        }
        return Err(error.into());
    }
    if let Some(secrets) = secrets
        && let Err(error) = secrets.opened().await
    {
        let _ = agent.remove_container(request.id.as_str(), REMOVE_PATIENCE).await;
        return Err(error);
    }
    for size in sizes {
        if is_beyond(&size, vm.size.memory) {
            info!(
                log,
                "an emptyDir of medium Memory has no limit of its own: the guest's kernel gives it half of the guest's memory"
            );
            continue;
        }
        // A policy of another's may not know it: the VM's memory bounds the volume then.
        if let Err(error) = agent.update_ephemeral_mounts(size).await {
            warn!(log, "an emptyDir has no size of its own: its sizeLimit has no effect"; "error" => one_line(&error));
        }
    }
    Ok(made)
}

/// Who says which of the image's volumes have nothing in them. The engine has not the images that the guest pulls.
fn judge<'a>(pinned: &'a Pinned, spec: &Spec, rootfs: &GuestRootfs) -> VolumeJudge<'a> {
    let is_engines = matches!(rootfs, GuestRootfs::Layers(_)) && pinned.layers(spec).is_none();
    if is_engines { VolumeJudge::Engine } else { VolumeJudge::Policy(pinned.volumes(spec)) }
}

/// Leaves what other containers have made in emptyDirs as it is, where this one has a part of them.
///
/// # Errors
/// The guest has no answer.
async fn keep_what_is_there(
    agent: &Agent,
    guest: &mut GuestContainer,
    log: &Logger,
) -> std::result::Result<(), AgentError> {
    let mut calls = JoinSet::new();
    for place in std::mem::take(&mut guest.places) {
        let request = VolumeStatsRequest { volume_guest_path: place.clone(), ..Default::default() };
        let agent = agent.clone();
        calls.spawn(async move { (place, agent.get_volume_stats(request).await) });
    }
    while let Some(done) = calls.join_next().await {
        // The only tasks that fail are those of a runtime that is being torn down.
        let Ok((place, answer)) = done else { continue };
        match answer {
            Ok(_) => guest.keep(&place),
            Err(error) if error.is_denied() => {
                warn!(log, "an emptyDir's directory gets the mode of a new one: the guest does not say whether it is there";
                    "directory" => place, "error" => one_line(&error));
            }
            // Nothing is there.
            Err(AgentError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The image that the guest is to pull for a container; the pod's own container has the guest image's.
pub fn pulled(new: &NewContainer) -> Option<String> {
    let Rootfs::GuestPull(volume) = &new.request.rootfs else { return None };
    let member = member(&new.spec).ok().flatten();
    Some(volume.reference(member.as_ref()).unwrap_or(&volume.image).to_owned())
}

/// The same, where the guest can and may pull it.
fn pulled_by<'a>(vm: &PodVm, volume: &'a VirtualVolume, spec: &'a Spec) -> Result<&'a str> {
    let image = volume.reference(member(spec)?.as_ref())?;
    if vm.data_hub != DataHub::Components {
        return Err(Error::GuestPull { image: image.to_owned(), guest: vm.image.to_string() });
    }
    if vm.pinned.layers(spec).is_some() {
        let reason = format!(
            "the engine has the guest pull the image {image}, and the pod's policy demands its layers from the node: make the policy \
             with --guest-pull, or let the node pull the image"
        );
        return Err(Error::InvalidRequest { field: "rootfs", reason });
    }
    Ok(image)
}

/// Refuses a container that is to see another one's processes in a pod whose containers see only their own (`kubectl debug
/// --target`). Its specification looks like that of a pod with shareProcessNamespace, since both name the namespace of a
/// process that is QEMU here; so the pod's first container decides which it is.
fn check_pids(pod: &OnceLock<bool>, shares: bool) -> Result<()> {
    if !pod.get_or_init(|| shares) && shares {
        let reason = "it is to see the processes of another container, and those of this pod share none (`kubectl debug \
                      --target`): leave the target out, or give the pod shareProcessNamespace"
            .to_owned();
        return Err(Error::InvalidRequest { field: "spec", reason });
    }
    Ok(())
}

fn vm_layer(layer: &host_claims::rootfs::Layer) -> Layer {
    Layer { image: layer.image.clone(), file: None, root: layer.root, encrypted: false }
}

/// What is at a path of the host.
fn stat(path: &Path) -> Option<HostFile> {
    let metadata = fs::metadata(path).ok()?;
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
    let medium = if kind == FileKind::Directory { medium(path, &metadata) } else { None };
    let is_empty =
        kind == FileKind::Directory && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    let (gid, mode) = (metadata.gid(), metadata.mode());
    let empty = is_empty.then(|| EmptyDirectory { uid: metadata.uid(), gid, mode: mode & 0o7777 });
    Some(HostFile { kind, gid, mode, medium, empty })
}

/// What kubelet has mounted at an emptyDir's place, by its medium.
fn medium(path: &Path, metadata: &fs::Metadata) -> Option<Medium> {
    let above = fs::metadata(path.parent()?).ok()?;
    if above.dev() == metadata.dev() {
        return None; // nothing
    }
    let of = statfs(path).ok()?;
    let size = of.blocks().saturating_mul(u64::try_from(of.block_size()).ok()?);
    match of.filesystem_type() {
        TMPFS_MAGIC => Some(Medium::Memory(size)).filter(|_| size > 0),
        HUGETLBFS_MAGIC => Some(Medium::HugePages),
        _ => None,
    }
}

/// Whether a volume is to have all of the guest's memory, in bytes, or more. That is nobody's wish: where neither the volume
/// nor the pod has a limit, kubelet gives it as much as the node has (`calculateEmptyDirMemorySize`).
fn is_beyond(request: &UpdateEphemeralMountsRequest, memory: u64) -> bool {
    let options = request.storages.iter().flat_map(|storage| &storage.options);
    let mut sizes = options.filter_map(|option| option.strip_prefix("size=")?.parse::<u64>().ok());
    sizes.any(|size| size >= memory)
}

/// Removes a container from the guest, where there is one still, and gives back what it held. Its processes have ended.
pub async fn remove(vm: &PodVm, id: &ContainerId, holdings: Holdings) {
    if vm.vm.has_ended().is_none()
        && let Err(error) = vm.vm.agent().remove_container(id.as_str(), REMOVE_PATIENCE).await
    {
        warn!(vm.context.log, "guest did not remove a container"; "container" => %id, "error" => one_line(&error));
    }
    give_back(vm, id.as_str(), holdings).await;
}

/// Gives back a container's copies, disks and images.
async fn give_back(vm: &PodVm, id: &str, mut holdings: Holdings) {
    let log = &vm.context.log;
    if vm.vm.has_ended().is_none() {
        vm.copies.remove(std::mem::take(&mut holdings.copied)).await;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_of_the_nodes_size_keeps_the_guests() {
        const MIB: u64 = 1 << 20;
        for (size, beyond) in
            [(64 * MIB, false), (512 * MIB - 1, false), (512 * MIB, true), (500 << 30, true)]
        {
            assert_eq!(is_beyond(&guest_spec::shm_remount(size), 512 * MIB), beyond, "{size}");
        }
    }

    /// /dev/shm is a tmpfs that is mounted on every Linux, as kubelet mounts one for medium Memory.
    #[test]
    fn a_volume_of_medium_memory_is_a_tmpfs_at_its_place() {
        let shm = Path::new("/dev/shm");
        let is_tmpfs = statfs(shm).is_ok_and(|of| of.filesystem_type() == TMPFS_MAGIC);
        assert!(is_tmpfs, "this machine has no tmpfs on {}", shm.display());
        let of = |path: &Path| medium(path, &fs::metadata(path).unwrap());
        assert!(matches!(of(shm), Some(Medium::Memory(1..))), "{:?}", of(shm));
        let within = tempfile::tempdir_in(shm).unwrap();
        assert_eq!(of(within.path()), None, "a directory in one");
        assert_eq!(of(Path::new("/proc")), None, "something else that is mounted");
    }

    #[test]
    fn volumes_are_judged_by_the_policy_where_the_engine_has_not_the_image_or_the_policy_knows_it() {
        let spec: Spec = serde_json::from_str(
            r#"{"ociVersion": "1.2.0", "annotations":
                {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.container-name": "web"}}"#,
        )
        .unwrap();
        let pinned = Pinned::of(&format!("# layer web {}\n# volume web 0:0:0755 /data\n", "a".repeat(64)));
        let (layers, pulled) = (GuestRootfs::Layers(Vec::new()), GuestRootfs::Pulled("image".to_owned()));
        let places = |judge: VolumeJudge<'_>| match judge {
            VolumeJudge::Engine => None,
            VolumeJudge::Policy(places) => Some(places.len()),
        };
        assert_eq!(places(judge(&pinned, &spec, &layers)), Some(1));
        assert_eq!(places(judge(&Pinned::default(), &spec, &layers)), None);
        assert_eq!(places(judge(&Pinned::default(), &spec, &pulled)), Some(0));
        let notes = Pinned::of("# volume web 0:0:0755 /data\n");
        assert_eq!(places(judge(&notes, &spec, &pulled)), Some(1));
    }

    #[test]
    fn a_debug_container_with_a_target_is_refused_where_no_process_ids_are_shared() {
        let (alone, shared) = (OnceLock::new(), OnceLock::new());
        check_pids(&alone, false).unwrap();
        assert!(check_pids(&alone, true).unwrap_err().to_string().contains("--target"));
        check_pids(&shared, true).unwrap();
        check_pids(&shared, true).unwrap();
    }
}
