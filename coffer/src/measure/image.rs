//! `coffer measure image`: the reference values of a guest image.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use measurement::Cmdline;
use measurement::tdx::{InitrdOption, rtmr1, rtmr2};
use serde_json::json;
use vmm_config::image::ImageManifest;

use super::{Output, json, pod};
use crate::files::Kind;

/// Arguments of `coffer measure image`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image's directory, with image.json in it
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    let image = pod::image(&args.directory)?;
    let path = args.directory.join(image.kernel.file.as_str());
    let kernel = Kind::KERNEL.read(&path)?;
    check(&path, &kernel, &image)?;
    let line = image.cmdline.to_string();
    let cmdline = Cmdline::new(&line).context("the image's command line cannot be measured")?;
    let rtmr1 = rtmr1(&kernel).with_context(|| Kind::KERNEL.unusable(&path))?.value().to_string();
    let rtmr2 = rtmr2(cmdline, None, InitrdOption::default()).value().to_string();
    let values = [
        ("name", image.name.clone()),
        ("profile", image.profile.name().to_owned()),
        ("root_hash", image.verity.root_hash.to_string()),
        ("kernel_sha256", image.kernel.sha256.to_string()),
        ("rtmr1", rtmr1),
        ("rtmr2", rtmr2),
        ("cmdline", line.clone()),
    ];
    match args.output {
        Output::Text => {
            for (name, value) in values {
                writeln!(out, "{name:<14} {value}")?;
            }
        }
        Output::Json => {
            json(&values.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect(), out)?;
        }
    }
    Ok(())
}

/// Whether the kernel is the one that the image's manifest names.
///
/// # Errors
/// It is another.
pub(super) fn check(path: &Path, kernel: &[u8], image: &ImageManifest) -> Result<()> {
    let (found, expected) =
        (measurement::Sha256Digest::of(kernel).to_string(), image.kernel.sha256.to_string());
    ensure!(
        found == expected,
        "{} has the SHA-256 digest {found}, and image.json beside it says {expected}: build the image again",
        path.display()
    );
    Ok(())
}
