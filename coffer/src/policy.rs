//! `coffer policy`: what a pod's guest lets its host do.

mod check;
mod engine;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;

use agent_policy::{Image, ImageConfig, Objects, Options, Permission, generate};
use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use layers::{HashedImage, Source};
use model_volumes::Volumes;
use pod_manifest::spec::PodSpec;
use verity::RootHash;

pub(crate) use engine::engine;

use crate::files::Kind;
use crate::image::source::How;

/// Arguments of `coffer policy`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write the guest agent's policy for exactly this pod, for the entry `policy.rego` of its initdata
    Generate(GenerateArgs),
    /// Ask a policy what it says to requests, and which of their fields it refuses
    Check(check::CheckArgs),
}

#[derive(Debug, clap::Args)]
struct GenerateArgs {
    /// The pod's manifest, YAML or JSON
    #[arg(long, value_name = "FILE")]
    pod: PathBuf,
    /// Where a container's image is, if not where the manifest says: a reference to a registry's image,
    /// oci:DIRECTORY[:TAG] or docker-archive:FILE; may be given once for each container
    #[arg(long, value_name = "CONTAINER=IMAGE", value_parser = named)]
    image: Vec<(String, Source)>,
    #[command(flatten)]
    how: How,
    /// The pod's volumes.toml: which of its volumes are model volumes, and what is in them
    #[arg(long, value_name = "FILE")]
    volumes: Option<PathBuf>,
    /// Have the guest pull the images by itself, with the guest components of its image, instead of getting their layers
    #[arg(long)]
    guest_pull: bool,
    /// Allow any command in a container (kubectl exec)
    #[arg(long)]
    allow_exec: bool,
    /// Let the host have the containers' output (kubectl logs)
    #[arg(long)]
    allow_logs: bool,
}

fn named(text: &str) -> Result<(String, Source), String> {
    let (name, image) = text.split_once('=').ok_or("write CONTAINER=IMAGE")?;
    Ok((name.to_owned(), image.parse().map_err(|error: layers::Error| error.to_string())?))
}

/// Writes a policy, or asks one.
///
/// # Errors
/// A file that cannot be read, what stands in the way of a policy, and a refused request.
pub(crate) fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    match &args.action {
        Action::Generate(args) => write(args, out),
        Action::Check(args) => check::run(args, out),
    }
}

fn write(args: &GenerateArgs, out: &mut impl Write) -> Result<()> {
    let text = String::from_utf8(Kind::MANIFEST.read(&args.pod)?)
        .map_err(|error| error.utf8_error())
        .with_context(|| Kind::MANIFEST.unusable(&args.pod))?;
    let pod = PodSpec::parse(&text).with_context(|| Kind::MANIFEST.unusable(&args.pod))?;
    let images = images(&pod, &args.image, &args.how)?;
    let permission = |granted| if granted { Permission::Granted } else { Permission::Refused };
    let options = Options {
        exec: permission(args.allow_exec),
        logs: permission(args.allow_logs),
        images,
        pulled: args.guest_pull,
        objects: Objects::default(),
        volumes: match &args.volumes {
            None => BTreeMap::new(),
            Some(path) => {
                let text = String::from_utf8_lossy(&Kind::ENTRY.read(path)?).into_owned();
                roots(&text).with_context(|| Kind::ENTRY.unusable(path))?
            }
        },
    };
    let policy = generate(&pod, &options)
        .with_context(|| format!("no policy can be made for the pod of {}", args.pod.display()))?;
    out.write_all(policy.as_bytes())?;
    Ok(())
}

/// What a policy depends on of volumes.toml.
///
/// # Errors
/// A document that the guest could not read.
pub(crate) fn roots(text: &str) -> Result<BTreeMap<String, RootHash>> {
    let volumes = Volumes::parse(text)?;
    Ok(volumes.iter().map(|(name, volume)| (name.to_owned(), volume.root)).collect())
}

/// The images of all containers: the manifest's own, and what was given instead.
fn images(pod: &PodSpec, given: &[(String, Source)], how: &How) -> Result<BTreeMap<String, Image>> {
    let mut instead = BTreeMap::new();
    for (container, source) in given {
        let before = instead.insert(container.as_str(), source);
        ensure!(before.is_none(), "--image is given twice for container {container:?}");
    }
    let containers = || pod.spec.init_containers.iter().chain(&pod.spec.containers);
    if let Some(name) = instead.keys().find(|name| containers().all(|container| container.name != **name)) {
        bail!("--image is given for container {name:?}, which the pod has not");
    }
    let mut images = BTreeMap::new();
    // A tag is resolved once, however many containers have it.
    let mut known: BTreeMap<String, Image> = BTreeMap::new();
    for container in containers() {
        let source = match instead.get(container.name.as_str()) {
            Some(source) => (*source).clone(),
            None => Source::from_str(&container.image)?,
        };
        let image = match known.get(&source.to_string()) {
            Some(image) => image.clone(),
            None => resolved(&source, how).with_context(|| format!("container {}", container.name))?,
        };
        known.insert(source.to_string(), image.clone());
        images.insert(container.name.clone(), image);
    }
    Ok(images)
}

fn resolved(source: &Source, how: &How) -> Result<Image> {
    let found = how.image(source)?;
    if matches!(source, Source::Registry(reference) if reference.digest().is_none()) {
        eprintln!("{source} is now {}; only its digest says that it stays so", found.reference);
    }
    image(found).with_context(|| format!("cannot use the image {source}"))
}

/// What a policy depends on of an image.
///
/// # Errors
/// A configuration that is none.
pub(crate) fn image(found: HashedImage) -> Result<Image> {
    let HashedImage { config, layers, passwd, group, empty_volumes, .. } = found;
    let config = ImageConfig::parse(&config)?;
    let layers = layers.into_iter().map(|layer| layer.root_hash).collect();
    Ok(Image { config, layers, passwd, group, empty_volumes })
}
