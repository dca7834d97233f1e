//! `coffer status`.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use node_install::{Daemon, Kubelet, Record, running};
use serde::Serialize;

use super::Place;
use super::daemon::Engine;
use super::install::{explained, line};

/// What the command line's `--help` says beside the options.
const HELP: &str = "\
Exit codes:
  0  installed, and the engine knows each handler
  1  the command failed
  2  wrong usage
  3  installed, but something has to be done
  4  not installed";

/// Arguments of `coffer status`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    /// Lines
    Text,
    /// An object
    Json,
}

#[derive(Debug, Serialize)]
struct Status {
    instance: String,
    /// The version that new pods get.
    version: Option<String>,
    engine: String,
    /// Each handler, and whether the engine's configuration has it.
    handlers: BTreeMap<String, bool>,
    /// How many pods run with each version.
    pods: BTreeMap<String, usize>,
    /// What has to be done.
    problems: Vec<String>,
    /// What could be better.
    advice: Vec<String>,
}

/// Prints what is installed.
///
/// # Errors
/// The record cannot be read.
pub(crate) fn run(args: &Args, out: &mut impl Write) -> Result<ExitCode> {
    let (root, instance) = (args.place.root(), &args.place.instance);
    let Some(record) = Record::read(&root, instance).map_err(explained)? else {
        match args.output {
            Output::Text => line(out, "nothing", &format!("the instance {instance} is not installed"))?,
            Output::Json => writeln!(out, "null")?,
        }
        return Ok(ExitCode::from(4));
    };
    let configured = Engine::new(&root).configured(record.engine);
    let (found, mut problems) = match configured {
        Ok(found) => (found, Vec::new()),
        Err(reason) => (BTreeMap::new(), vec![format!("{}: {reason}", record.engine)]),
    };
    let handlers: BTreeMap<_, _> =
        record.handlers.iter().map(|name| (name.clone(), found.contains_key(name))).collect();
    for (name, _) in handlers.iter().filter(|(_, is_there)| !**is_there) {
        problems
            .push(format!("{} does not know the handler {name}: run `coffer install` again", record.engine));
    }
    if record.unsettled || record.version.is_none() {
        problems.push("an installation was interrupted: run `coffer install` again".to_owned());
    }
    let mut pods = BTreeMap::new();
    for one in running(&root, instance) {
        *pods.entry(one.version).or_default() += 1;
    }
    let status = Status {
        instance: instance.to_string(),
        version: record.version.clone(),
        engine: record.engine.to_string(),
        handlers,
        pods,
        problems,
        advice: Kubelet::read(&root).map_err(explained)?.advice().into_iter().collect(),
    };
    match args.output {
        Output::Text => text(&status, out)?,
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&status)?)?,
    }
    Ok(if status.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

fn text(status: &Status, out: &mut impl Write) -> Result<()> {
    line(out, "instance", &status.instance)?;
    line(out, "version", status.version.as_deref().unwrap_or("none"))?;
    line(out, "engine", &status.engine)?;
    for name in status.handlers.keys() {
        line(out, "handler", name)?;
    }
    for (version, count) in &status.pods {
        line(out, "pods", &format!("{count} with version {version}"))?;
    }
    for problem in &status.problems {
        line(out, "PROBLEM", problem)?;
    }
    for advice in &status.advice {
        line(out, "advice", advice)?;
    }
    Ok(())
}
