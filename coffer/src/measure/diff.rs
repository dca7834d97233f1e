//! `coffer measure diff`: two guest images or two firmwares, part by part: which one makes the measurement another.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use measurement::Sha256Digest;
use measurement::ovmf::{Firmware, PageRange};
use measurement::tdx::{PageOrder, mrtd};
use serde_json::Value;

use super::explain::split;
use super::pod;
use crate::files::Kind;

/// Arguments of `coffer measure diff`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A guest image's directory, or a firmware
    #[arg(value_name = "A")]
    one: PathBuf,
    /// Another one
    #[arg(value_name = "B")]
    other: PathBuf,
}

/// Parts by their names.
type Parts = BTreeMap<String, String>;

pub(super) fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    let (one, other) = match (args.one.is_dir(), args.other.is_dir()) {
        (true, true) => (image(&args.one)?, image(&args.other)?),
        (false, false) => (firmware(&args.one)?, firmware(&args.other)?),
        _ => bail!(
            "{} and {} are not of one kind: give two directories of images, or two firmwares",
            args.one.display(),
            args.other.display()
        ),
    };
    let lines = difference(&one, &other);
    for line in &lines {
        writeln!(out, "{line}")?;
    }
    if lines.is_empty() {
        writeln!(out, "nothing differs")?;
    }
    Ok(())
}

fn difference(one: &Parts, other: &Parts) -> Vec<String> {
    let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let line = |name: &String| match (one.get(name), other.get(name)) {
        (Some(one), Some(other)) if one == other => None,
        (Some(one), Some(other)) => Some(format!("{name}: {one} -> {other}")),
        (Some(one), None) => Some(format!("{name}: {one} -> nothing")),
        (None, Some(other)) => Some(format!("{name}: nothing -> {other}")),
        (None, None) => None,
    };
    names.into_iter().filter_map(line).collect()
}

/// All of a manifest, and the command line word by word.
fn image(directory: &Path) -> Result<Parts> {
    // Whether it is one, and its kernel the one that it names.
    let manifest = pod::image(directory)?;
    let path = directory.join(manifest.kernel.file.as_str());
    super::image::check(&path, &Kind::KERNEL.read(&path)?, &manifest)?;
    let path = directory.join("image.json");
    let mut json: Value =
        serde_json::from_slice(&Kind::IMAGE.read(&path)?).with_context(|| Kind::IMAGE.unusable(&path))?;
    if let Some(members) = json.as_object_mut() {
        members.remove("cmdline");
    }
    let mut parts = Parts::new();
    flatten("", &json, &mut parts);
    let line = manifest.cmdline.to_string();
    for word in split(&line) {
        let (key, value) = word.split_once('=').unwrap_or((word, "there"));
        parts.insert(format!("cmdline {key}"), value.to_owned());
    }
    Ok(parts)
}

fn flatten(name: &str, value: &Value, parts: &mut Parts) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                let name = if name.is_empty() { key.clone() } else { format!("{name} {key}") };
                flatten(&name, value, parts);
            }
        }
        Value::String(text) => drop(parts.insert(name.to_owned(), text.clone())),
        other => drop(parts.insert(name.to_owned(), other.to_string())),
    }
}

/// What the measurements of a firmware are made of.
fn firmware(path: &Path) -> Result<Parts> {
    let bytes = Kind::FIRMWARE.read(path)?;
    parts(&bytes).with_context(|| Kind::FIRMWARE.unusable(path))
}

fn parts(bytes: &[u8]) -> Result<Parts> {
    let firmware = Firmware::parse(bytes)?;
    let digest = |bytes: &[u8]| Sha256Digest::of(bytes).to_string();
    let mut parts = Parts::from([
        ("size".to_owned(), bytes.len().to_string()),
        ("sha256".to_owned(), digest(bytes)),
        ("kind".to_owned(), format!("{:?}", firmware.kind()?)),
    ]);
    let place = |range: &PageRange| format!("{:#x}, {} pages", range.start(), range.pages().count());
    if let Some(sev) = firmware.sev()? {
        for (rank, section) in sev.sections().iter().enumerate() {
            parts.insert(format!("SEV section {rank} ({:?})", section.kind), place(&section.range));
        }
        parts.insert(
            "SEV kernel hashes".to_owned(),
            sev.kernel_hashes().map_or_else(
                || "none".to_owned(),
                |table| format!("{:#x}", table.page + table.offset as u64),
            ),
        );
        parts.insert(
            "SEV reset vector".to_owned(),
            sev.reset_eip().map_or_else(|| "none".to_owned(), |eip| format!("{eip:#x}")),
        );
    }
    if let Some(tdvf) = firmware.tdvf()? {
        for (rank, section) in tdvf.sections().iter().enumerate() {
            let measured = if section.measured { ", in MRTD" } else { "" };
            let text = format!("{}{measured}, SHA-256 {}", place(&section.range), digest(section.data));
            parts.insert(format!("TDVF section {rank} ({:?})", section.kind), text);
        }
        parts.insert("MRTD".to_owned(), mrtd(&firmware, PageOrder::SinglePass)?.to_string());
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(pairs: &[(&str, &str)]) -> Parts {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn each_part_that_differs_has_a_line_and_no_other() {
        let one = parts(&[("kernel sha256", "aa"), ("name", "x"), ("cmdline quiet", "there")]);
        let other = parts(&[("kernel sha256", "bb"), ("name", "x"), ("cmdline console", "ttyS0")]);
        assert_eq!(
            difference(&one, &other),
            [
                "cmdline console: nothing -> ttyS0",
                "cmdline quiet: there -> nothing",
                "kernel sha256: aa -> bb"
            ]
        );
        assert!(difference(&one, &one).is_empty());
    }

    #[test]
    fn a_manifest_is_taken_apart() {
        let mut found = Parts::new();
        flatten("", &serde_json::json!({ "root": { "verity": { "salt": "ab", "blocks": 7 } } }), &mut found);
        assert_eq!(found, parts(&[("root verity salt", "ab"), ("root verity blocks", "7")]));
    }
}
