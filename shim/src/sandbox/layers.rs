//! A container's root file system as layers for its VM: containerd's own, or converted once on this node, or one image of
//! the whole tree.

use std::path::{Path, PathBuf};
use std::time::Duration;

use host_claims::rootfs::{
    Cache, Conversion, DEFAULT_CACHE_BYTES, IMAGES, ImagePlan, Mount as HostMount, Rootfs,
    containerds_layers, has_changes,
};
use jail::{Builder, OWN_PROGRAM, UserId};
use oci_spec::runtime::Spec;
use slog::{Logger, info};
use verity::RootHash;
use vmm::state::record_rootfs;

use super::bundle;
use super::pod_vm::{Context, PodVm};
use crate::api::{CreateRequest, Error, Mount, Result};

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Where converted layers are kept.
const LAYERS: &str = "/var/lib/coffer/layers";
/// The program that converts layers.
const PROGRAM: &str = "coffer";
/// How long converting may take: an image of 100 GB on a slow disk.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Prepares the container's root file system; layers of it that are made are kept for the next container.
///
/// # Errors
/// It cannot be prepared, or is not what the pod's policy demands.
pub async fn prepare(
    context: &Context,
    request: &CreateRequest,
    spec: &Spec,
    mounts: &[Mount],
    vm: &PodVm,
    log: &Logger,
) -> Result<Rootfs> {
    let mounts: Vec<HostMount> = match mounts {
        // `ctr run --rootfs` and CRI-O have it in place already.
        [] => vec![HostMount {
            fstype: "bind".to_owned(),
            source: bundle::root(&request.bundle, spec).display().to_string(),
            options: Vec::new(),
        }],
        mounts => mounts.iter().map(host_mount).collect(),
    };
    let wanted = vm.pinned.layers(spec);
    let builder = vm.builder;
    let rootfs =
        find_or_make(context, request.id.as_str(), &mounts, wanted, builder, log).await.map_err(|error| {
            Error::failed(format!("prepare the root file system of container {}", request.id), error)
        })?;
    let made: Vec<RootHash> = rootfs.layers().iter().map(|layer| layer.root).collect();
    match wanted {
        Some(wanted) if wanted != made => {
            Err(Error::OtherLayers { container: request.id.to_string(), wanted: wanted.to_vec(), made })
        }
        Some(_) | None => Ok(rootfs),
    }
}

async fn find_or_make(
    context: &Context,
    container: &str,
    mounts: &[HostMount],
    wanted: Option<&[RootHash]>,
    user: UserId,
    log: &Logger,
) -> std::result::Result<Rootfs, Cause> {
    if let Some(layers) = containerds_layers(mounts)? {
        return Ok(Rootfs::of_layers(layers));
    }
    if let Some(rootfs) = converted(context, container, mounts, wanted, user, log).await? {
        return Ok(rootfs);
    }
    let cache = Cache::new(IMAGES, DEFAULT_CACHE_BYTES);
    let plan = ImagePlan::new(mounts, cache)?;
    record_rootfs(&context.state_dir(), container, &plan.record())?;
    let builder = Builder { user, jailer: OWN_PROGRAM.into() };
    Ok(plan.claim(&search(), Some(builder)).await?)
}

/// The layers of the container's image, converted where they are not yet. `None` where nobody has an image: CRI-O's
/// containers, those of a given root file system, and those that have changed theirs.
async fn converted(
    context: &Context,
    container: &str,
    mounts: &[HostMount],
    wanted: Option<&[RootHash]>,
    user: UserId,
    log: &Logger,
) -> std::result::Result<Option<Rootfs>, Cause> {
    let engine = context.engine.as_str();
    if engine.is_empty() || has_changes(mounts)? {
        return Ok(None);
    }
    let Some(program) = program() else {
        info!(log, "layers are not shared with other containers: the program that converts them is not installed";
            "program" => PROGRAM);
        return Ok(None);
    };
    let conversion = Conversion {
        program: &program,
        socket: engine,
        namespace: context.namespace.as_str(),
        container,
        cache: Path::new(LAYERS),
        wanted,
        user,
        patience: PATIENCE,
    };
    Ok(conversion.run(|line| info!(log, "{line}"; "source" => "image convert")).await?)
}

/// Beside the shim, or in PATH.
fn program() -> Option<PathBuf> {
    let own = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    let path = std::env::var_os("PATH").unwrap_or_default();
    own.into_iter()
        .chain(std::env::split_paths(&path))
        .map(|dir| dir.join(PROGRAM))
        .find(|path| path.is_file())
}

/// Where mkfs.erofs is looked for.
fn search() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]).collect()
}

fn host_mount(mount: &Mount) -> HostMount {
    HostMount {
        fstype: mount.kind.clone(),
        source: mount.source.display().to_string(),
        options: mount.options.clone(),
    }
}
