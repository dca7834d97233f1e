//! `coffer image`: the names that prove what is in a container image's layers.

mod convert;
pub(crate) mod source;

use std::fmt::Write as _;
use std::io::Write;

use anyhow::Result;
use clap::{Subcommand, ValueEnum};
use layers::HashedImage;
use serde_json::json;

/// Arguments of `coffer image`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print the root hash of each layer of an image, by which a pod's policy names it; needs no root and no daemon
    Verity(VerityArgs),
    /// For the shim: convert the layers of a container's image that containerd has, each once on this node
    Convert(convert::Args),
}

#[derive(Debug, clap::Args)]
struct VerityArgs {
    /// A reference to a registry's image, oci:DIRECTORY[:TAG] or docker-archive:FILE
    #[arg(value_name = "IMAGE")]
    image: layers::Source,
    #[command(flatten)]
    how: source::How,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Lines for people
    Text,
    /// An object
    Json,
}

/// Prints root hashes, or converts layers.
///
/// # Errors
/// An image that cannot be had, or is not what its digest says.
pub(crate) fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    match &args.action {
        Action::Verity(args) => {
            let image = args.how.image(&args.image)?;
            let text = match args.output {
                Output::Text => for_people(&image)?,
                Output::Json => object(&image)?,
            };
            out.write_all(text.as_bytes())?;
            Ok(())
        }
        Action::Convert(args) => convert::run(args, out),
    }
}

fn for_people(image: &HashedImage) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "{:<10} {}", "image", image.reference)?;
    for (number, layer) in (0..image.layers.len()).rev().zip(&image.layers) {
        // Numbers as in the manifest, whose first layer is the bottom one.
        writeln!(text, "layer {:<4} {}", number + 1, layer.digest)?;
        writeln!(text, "{:<10} {}", "  diffID", layer.diff_id)?;
        writeln!(text, "{:<10} {}", "  root", layer.root_hash)?;
    }
    Ok(text)
}

fn object(image: &HashedImage) -> Result<String> {
    let object = json!({ "image": image.reference, "digest": image.digest, "layers": image.layers });
    Ok(serde_json::to_string_pretty(&object)? + "\n")
}
