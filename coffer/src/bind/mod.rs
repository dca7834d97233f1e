//! `coffer bind`: from the manifests that people have to pods whose guests run them and nothing else.
//!
//! The way of a manifest: [`input`] reads texts, [`pods`] finds what is to be bound in them, [`images`] resolves images,
//! [`seal`] makes policy and initdata, [`edit`] puts digests and annotation into the text, [`output`] writes it. What is
//! wrong and what is left open is collected on the way ([`report`]), and nothing is written while anything is wrong.

mod edit;
mod explain;
mod images;
mod input;
mod output;
mod pods;
mod report;
mod seal;
mod trustee;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use layers::Source;
use pod_manifest::yaml::Path;

use crate::image::source::How;
use crate::measure::Place;
use edit::Edit;
use input::Input;
use pods::{Choice, Found};
use report::{At, Outcome, Report};
use seal::Seal;

/// Arguments of `coffer bind`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Manifests: files, directories, or - for standard input
    #[arg(required = true, value_name = "FILE|DIR|-")]
    inputs: Vec<PathBuf>,
    /// Write the bound manifests into the files that they came from
    #[arg(long, conflicts_with_all = ["output", "check", "emit", "explain"])]
    in_place: bool,
    /// Write them into this directory, under the names that they have
    #[arg(long, value_name = "DIR", conflicts_with_all = ["check", "emit", "explain"])]
    output: Option<PathBuf>,
    /// Write nothing; exit with 1 where what is bound is out of date
    #[arg(long, conflicts_with_all = ["emit", "explain"])]
    check: bool,
    /// Print what a verifier has to know of all pods, instead of the manifests
    #[arg(long, value_enum, conflicts_with = "explain")]
    emit: Option<Emit>,
    /// Print what is bound for each container, what is left to the host, and why, instead of the manifests
    #[arg(long)]
    explain: bool,
    /// The runtime class of pods whose manifest names none; it is written into it
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
    /// Where an image is, if not where the manifest says: oci:DIRECTORY[:TAG], docker-archive:FILE or a reference. NAME is
    /// a container's name or the image as the manifest has it; may be given several times
    #[arg(long, value_name = "NAME=IMAGE", value_parser = named)]
    image: Vec<(String, Source)>,
    #[command(flatten)]
    how: How,
    /// A text to put into each pod's initdata, under the file's own name or under NAME (aa.toml, cdh.toml)
    #[arg(long, value_name = "[NAME=]FILE")]
    file: Vec<String>,
    /// Have the guest pull the images by itself, with the guest components of its image, instead of getting their layers
    #[arg(long)]
    guest_pull: bool,
    /// Allow any command in a container (kubectl exec)
    #[arg(long)]
    allow_exec: bool,
    /// Let the host have the containers' output (kubectl logs)
    #[arg(long)]
    allow_logs: bool,
    #[command(flatten)]
    node: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Emit {
    /// Reference values and resource policies for Trustee, as `coffer measure -o trustee` makes them for one pod
    Trustee,
}

/// `NAME=IMAGE`: the source begins behind the first `=`.
fn named(text: &str) -> Result<(String, Source), String> {
    let (name, image) = text.split_once('=').ok_or("write NAME=IMAGE")?;
    Ok((name.to_owned(), image.parse().map_err(|error: layers::Error| error.to_string())?))
}

/// A text with its pods bound.
#[derive(Debug)]
struct Bound {
    input: Input,
    text: String,
}

/// Binds all pods of the inputs.
///
/// # Errors
/// What is no fault of one document: an option that cannot be used, an output that cannot be written.
pub(crate) fn run(args: &Args, out: &mut impl Write) -> Result<ExitCode> {
    let entries = crate::initdata::entries(&args.file)?;
    let mut report = Report::default();
    let inputs = input::read(&args.inputs, args.in_place, &mut report);
    let texts: Vec<_> = inputs.iter().map(|input| pods::find(input, &mut report)).collect();
    pods::twice(&inputs, &texts, &mut report);
    if report.is_clean() && texts.iter().flatten().all(|found| found.templates.is_empty()) {
        let kinds: BTreeSet<&str> =
            texts.iter().flatten().map(|found| found.document.kind.as_str()).collect();
        let kinds = if kinds.is_empty() { "none".to_owned() } else { Vec::from_iter(kinds).join(", ") };
        let why = format!("there is no pod in any of the inputs (kinds: {kinds}): {}", pod_manifest::CAN);
        report.fault(At::default(), why);
    }
    let images = images::Images::new(&args.image, &args.how);
    let seal =
        Seal { images, entries, pulled: args.guest_pull, exec: args.allow_exec, logs: args.allow_logs };

    let mut edits: BTreeMap<usize, Vec<Edit>> = BTreeMap::new();
    let mut sealed = Vec::new();
    for (index, (input, found)) in inputs.iter().zip(&texts).enumerate() {
        for Found { document, templates } in found {
            for template in templates {
                let place = input.place(document.root.at(&template.path).map_or(1, |node| node.line));
                let class = match pods::choose(document, template, args.class.as_deref()) {
                    Choice::Bind(class) => class,
                    Choice::Leave(why) => {
                        report.row(place, template, "-", Outcome::Left(why));
                        continue;
                    }
                };
                let objects = pods::objects(&texts, template);
                let before = report.faults();
                let one = seal.pod(input, document, template, &class, objects, &mut report);
                let Some(one) = one.filter(|_| report.faults() == before) else {
                    report.row(place, template, &class, Outcome::Failed);
                    continue;
                };
                let changes = edit::changes(&input.text, document, template, &one, &class);
                match changes {
                    Ok(changes) => {
                        let is_new = !changes.is_empty();
                        report.row(
                            place,
                            template,
                            &class,
                            if is_new { Outcome::Bound } else { Outcome::Same },
                        );
                        edits.entry(index).or_default().extend(changes);
                        sealed.push((input, document, template, class, one));
                    }
                    Err((line, path, why)) => {
                        report.fault(input.at(line, &path), why);
                        report.row(place, template, &class, Outcome::Failed);
                    }
                }
            }
        }
    }

    if args.explain && report.is_clean() {
        for (input, document, template, class, one) in &sealed {
            let line = document.root.at(&template.path).map_or(1, |node| node.line);
            explain::print(&input.place(line), template, class, one, &seal, out)?;
        }
    }
    if args.emit.is_some() && report.is_clean() {
        let pods = sealed
            .iter()
            .map(|(_, document, template, class, one)| (*document, *template, class.as_str(), one));
        trustee::print(pods, &args.node, out)?;
    }
    drop(sealed);
    drop(texts);
    let mut all = Vec::new();
    for (index, input) in inputs.into_iter().enumerate() {
        match edit::apply(&input.text, edits.remove(&index).unwrap_or_default()) {
            Ok(text) => all.push(Bound { input, text }),
            Err((line, why)) => report.fault(input.at(line, &Path::default()), why),
        }
    }
    output::finish(args, all, report, out)
}
