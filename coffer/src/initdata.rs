//! `coffer initdata`: write and read initdata.

pub(crate) mod entry;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{ArgGroup, Subcommand, ValueEnum};
use measurement::initdata::{Algorithm, InitData, annotation, build, disk};
use serde_json::json;
use shared_types::one_line;

use crate::files::Kind;

/// Arguments of `coffer initdata`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write a document, or the annotation or disk that holds it, to standard output
    Build(BuildArgs),
    /// Show what a document, annotation or disk holds
    Inspect(InspectArgs),
}

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("source").args(["file", "document", "pod"]).required(true).multiple(true))]
struct BuildArgs {
    /// A text to put in, under the file's own name or under NAME; may be given several times. What the guest reads
    /// (policy.rego, aa.toml, cdh.toml, coffer.toml) is checked
    #[arg(long, value_name = "[NAME=]FILE")]
    file: Vec<String>,
    /// A pod's manifest, YAML or JSON: coffer.toml is made of it, which declares how many GPUs and NVSwitches the guest
    /// accepts
    #[arg(long, value_name = "FILE", conflicts_with = "document")]
    pod: Option<PathBuf>,
    /// With what the document is to be hashed
    #[arg(long, value_name = "NAME", default_value = "sha384", conflicts_with = "document")]
    algorithm: Algorithm,
    /// A document that exists; it is checked in the same way, and taken as it is, since every byte counts
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    document: Option<PathBuf>,
    /// What to write
    #[arg(long, value_enum, default_value_t = Form::Document)]
    form: Form,
}

#[derive(Debug, clap::Args)]
struct InspectArgs {
    /// A document, an annotation's value or a disk
    #[arg(value_name = "FILE")]
    file: PathBuf,
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

/// A form that initdata comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// The TOML document
    Document,
    /// The value of the pod's annotation
    Annotation,
    /// The disk that the VM gets
    Disk,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Document => "document",
            Self::Annotation => "annotation",
            Self::Disk => "disk",
        })
    }
}

/// Writes or reads initdata.
///
/// # Errors
/// A file that cannot be read, is no initdata, or is too large; the message names it.
pub(crate) fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    match &args.action {
        Action::Build(args) => write(args, out),
        Action::Inspect(args) => inspect(args, out),
    }
}

/// Reads initdata in whichever form it is.
///
/// # Errors
/// A file that cannot be read, or is no initdata.
pub(crate) fn read(path: &Path) -> Result<(Form, InitData)> {
    let content = Kind::INITDATA.read(path)?;
    let form = form_of(&content);
    let document: Result<InitData> = match form {
        Form::Document => InitData::parse(content).map_err(Into::into),
        Form::Annotation => annotation::decode(&String::from_utf8_lossy(&content)).map_err(Into::into),
        Form::Disk => disk::decode(&content).map_err(Into::into),
    };
    Ok((form, document.with_context(|| Kind::INITDATA.unusable(path))?))
}

/// Tells the forms apart by their first bytes; neither a disk's nor base64 of gzip's begin a document.
fn form_of(content: &[u8]) -> Form {
    if content.starts_with(b"initdata") {
        Form::Disk
    } else if content.trim_ascii_start().starts_with(b"H4sI") {
        Form::Annotation
    } else {
        Form::Document
    }
}

fn write(args: &BuildArgs, out: &mut impl Write) -> Result<()> {
    let document = match &args.document {
        Some(path) => {
            let document = read(path)?.1;
            if let Some((name, error)) = faults(&document).next() {
                return Err(error.context(format!("entry {name:?}")).context(Kind::INITDATA.unusable(path)));
            }
            document
        }
        None => {
            let mut entries = entries(&args.file)?;
            if let Some(path) = &args.pod {
                let before = entries.insert(entry::DECLARATION.to_owned(), entry::declaration(path)?);
                ensure!(
                    before.is_none(),
                    "{} is made of the pod's manifest: leave the file out",
                    entry::DECLARATION
                );
            }
            entry::together(&entries).context("cannot build the document")?;
            build(args.algorithm, entries).context("cannot build the document")?
        }
    };
    match args.form {
        Form::Document => out.write_all(document.raw())?,
        Form::Annotation => {
            let value =
                annotation::encode(&document).context("the document is too large for an annotation")?;
            writeln!(out, "{value}")?;
        }
        Form::Disk => {
            out.write_all(&disk::encode(&document).context("the document is too large for a disk")?)?
        }
    }
    Ok(())
}

/// Texts for a document by their names, each checked as far as the guest reads it.
///
/// # Errors
/// A file that cannot be read, that the guest could not read, or a name that is there twice.
pub(crate) fn entries(files: &[String]) -> Result<BTreeMap<String, String>> {
    let mut entries = BTreeMap::new();
    for file in files {
        let (name, path) = match file.split_once('=') {
            Some((name, path)) => (name, Path::new(path)),
            None => {
                let path = Path::new(file);
                (path.file_name().and_then(|name| name.to_str()).unwrap_or_default(), path)
            }
        };
        if name.is_empty() {
            bail!("{file:?} has no name; write NAME=FILE");
        }
        let content = Kind::ENTRY.read(path)?;
        let content = String::from_utf8(content)
            .map_err(|error| error.utf8_error())
            .with_context(|| Kind::ENTRY.unusable(path))?;
        entry::check(name, &content).with_context(|| Kind::ENTRY.unusable(path))?;
        if entries.insert(name.to_owned(), content).is_some() {
            bail!("two files have the name {name:?}; give one another with NAME=FILE");
        }
    }
    Ok(entries)
}

/// What the guest could not read of a document, with the entry's name.
fn faults(document: &InitData) -> impl Iterator<Item = (&String, anyhow::Error)> {
    let entries = document.data();
    let alone = entries.iter().filter_map(|(name, text)| Some((name, entry::check(name, text).err()?)));
    let together = entries.get_key_value(entry::DECLARATION).map(|(name, _)| name);
    alone.chain(together.and_then(|name| Some((name, entry::together(entries).err()?))))
}

fn inspect(args: &InspectArgs, out: &mut impl Write) -> Result<()> {
    let (form, document) = read(&args.file)?;
    let sizes = || document.data().iter().map(|(name, text)| (name, text.len()));
    let (digest, host_data, mrconfigid) =
        (hex(&document.digest()), document.host_data().to_string(), document.mr_config_id().to_string());
    match args.output {
        Output::Text => {
            writeln!(out, "form        {form}\nalgorithm   {}\ndigest      {digest}", document.algorithm())?;
            writeln!(out, "HOST_DATA   {host_data}\nMRCONFIGID  {mrconfigid}")?;
            for (name, size) in sizes() {
                writeln!(out, "entry       {name:?}, {size} bytes")?;
            }
            for (name, error) in faults(&document) {
                writeln!(out, "wrong       {name:?}: {}", one_line(error.as_ref()))?;
            }
        }
        Output::Json => {
            let value = json!({
                "form": form.to_string(),
                "algorithm": document.algorithm().name(),
                "digest": digest,
                "host_data": host_data,
                "mrconfigid": mrconfigid,
                "data": document.data(),
                "wrong": faults(&document)
                    .map(|(name, error)| (name.clone(), one_line(error.as_ref())))
                    .collect::<BTreeMap<_, _>>(),
            });
            writeln!(out, "{}", serde_json::to_string_pretty(&value)?)?;
        }
    }
    Ok(())
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
