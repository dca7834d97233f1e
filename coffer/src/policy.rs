//! `coffer policy`: what a pod's guest lets its host do.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use ::policy::{Image, ImageConfig, Options, Permission, generate};
use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use pod_manifest::spec::PodSpec;
use verity::RootHash;

use crate::files::Kind;

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
}

#[derive(Debug, clap::Args)]
struct GenerateArgs {
    /// The pod's manifest, YAML or JSON
    #[arg(long, value_name = "FILE")]
    pod: PathBuf,
    /// Configuration of a container's image, which says what runs where the manifest does not: the output of
    /// `skopeo inspect --config --raw docker://IMAGE@DIGEST`; may be given once for each container
    #[arg(long, value_name = "CONTAINER=FILE", value_parser = named)]
    image_config: Vec<(String, PathBuf)>,
    /// Root hashes of the layers of a container's image, the topmost first, as `coffer image verity` prints them
    #[arg(long, value_name = "CONTAINER=HASH,...", value_parser = hashes)]
    image_layers: Vec<(String, Vec<RootHash>)>,
    /// Allow any command in a container (kubectl exec)
    #[arg(long)]
    allow_exec: bool,
    /// Let the host have the containers' output (kubectl logs)
    #[arg(long)]
    allow_logs: bool,
}

fn named(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("write CONTAINER=FILE")?;
    Ok((name.to_owned(), file.into()))
}

fn hashes(text: &str) -> Result<(String, Vec<RootHash>), String> {
    let (name, list) = text.split_once('=').ok_or("write CONTAINER=HASH,...")?;
    let hashes = list.split(',').map(|hash| hash.parse::<RootHash>().map_err(|error| error.to_string()));
    Ok((name.to_owned(), hashes.collect::<Result<_, _>>()?))
}

/// Writes a policy.
///
/// # Errors
/// A file that cannot be read, and what stands in the way of a policy.
pub(crate) fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    let Action::Generate(args) = &args.action;
    let text = String::from_utf8(Kind::MANIFEST.read(&args.pod)?)
        .map_err(|error| error.utf8_error())
        .with_context(|| Kind::MANIFEST.unusable(&args.pod))?;
    let pod = PodSpec::parse(&text).with_context(|| Kind::MANIFEST.unusable(&args.pod))?;
    let mut images = BTreeMap::new();
    for (container, layers) in &args.image_layers {
        let image = Image { layers: layers.clone(), ..Image::default() };
        let before = images.insert(container.clone(), image);
        ensure!(before.is_none(), "--image-layers is given twice for container {container:?}");
    }
    let mut seen = BTreeSet::new();
    for (container, file) in &args.image_config {
        ensure!(seen.insert(container), "--image-config is given twice for container {container:?}");
        images.entry(container.clone()).or_default().config = image(file)?;
    }
    let permission = |granted| if granted { Permission::Granted } else { Permission::Refused };
    let options = Options { exec: permission(args.allow_exec), logs: permission(args.allow_logs), images };
    let policy = generate(&pod, &options)
        .with_context(|| format!("no policy can be made for the pod of {}", args.pod.display()))?;
    out.write_all(policy.as_bytes())?;
    Ok(())
}

fn image(file: &Path) -> Result<ImageConfig> {
    ImageConfig::parse(&Kind::IMAGE_CONFIG.read(file)?).with_context(|| Kind::IMAGE_CONFIG.unusable(file))
}
