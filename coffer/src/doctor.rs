//! `coffer doctor`: whether this host can run pods.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use readiness::{Check, Class, Host, Outcome, Real, Report, Root, Verdict, examine};

/// What the command line's `--help` says beside the options.
const HELP: &str = "\
Nothing is changed: no module is loaded, no GPU is woken, no file is written. As root, and after `modprobe msr`, more can
be told. A check that fails has one line that says what to do; checks that depend on it are skipped.

Exit codes, for the class:
  0  ready
  1  the command failed
  2  wrong usage
  3  ready with warnings
  4  not ready";

/// Arguments of `coffer doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// Runtime class that the exit code is about [default: of the configured tee, else the most that the CPU can]
    #[arg(long, value_enum)]
    class: Option<Wanted>,
    /// Configuration file; one that is named must be there [default: /etc/coffer/config.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// A runtime class.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Wanted {
    /// Plain VMs
    Coffer,
    /// Intel TDX
    CofferTdx,
    /// AMD SEV-SNP
    CofferSnp,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    /// A tree
    Text,
    /// The same with everything that is known
    Json,
}

/// Examines the host and prints what was found.
///
/// # Errors
/// The output cannot be written.
pub(crate) fn run(args: &Args, out: &mut impl Write) -> Result<ExitCode> {
    let root = Root::host();
    let probe = Real::new(&root);
    let config = match &args.config {
        Some(path) => named(path)?,
        None => vmm_config::config::FILE.to_owned(),
    };
    let host = Host::new(&root, &probe, &config, &std::env::var_os("PATH").unwrap_or_default());
    let mut report = examine(&host);
    if let Some(class) = args.class {
        report.class = class.into();
    }
    match args.output {
        Output::Text => text(&report, out)?,
        Output::Json => json(&report, out)?,
    }
    Ok(exit_code(report.verdict(report.class)))
}

/// The absolute path of a configuration file that somebody has named. It must be there: without it the node's defaults
/// would be examined under its name.
fn named(path: &Path) -> Result<String> {
    let unusable = || format!("cannot use the configuration file {}", path.display());
    let path = std::path::absolute(path).with_context(unusable)?;
    ensure!(path.metadata().with_context(unusable)?.is_file(), "{}: it is no file", unusable());
    Ok(path.to_str().context("the configuration file's path is not UTF-8")?.to_owned())
}

impl From<Wanted> for Class {
    fn from(wanted: Wanted) -> Self {
        match wanted {
            Wanted::Coffer => Self::Plain,
            Wanted::CofferTdx => Self::Tdx,
            Wanted::CofferSnp => Self::Snp,
        }
    }
}

fn exit_code(verdict: Verdict) -> ExitCode {
    ExitCode::from(match verdict {
        Verdict::Ready => 0,
        Verdict::ReadyWithWarnings => 3,
        Verdict::NotReady => 4,
    })
}

fn json(report: &Report, out: &mut impl Write) -> Result<()> {
    let verdict = report.verdict(report.class);
    let mut value = serde_json::to_value(report)?;
    if let Some(object) = value.as_object_mut() {
        object.insert("verdict".to_owned(), serde_json::to_value(verdict)?);
    }
    writeln!(out, "{}", serde_json::to_string_pretty(&value)?)?;
    Ok(())
}

fn text(report: &Report, out: &mut impl Write) -> io::Result<()> {
    for check in &report.checks {
        line(check, 0, out)?;
    }
    writeln!(out)?;
    for verdict in &report.classes {
        let mark = if verdict.class == report.class { "*" } else { " " };
        writeln!(out, "{mark} {:<10}  {}", verdict.class.name(), verdict.verdict)?;
    }
    Ok(())
}

/// A check and those below it. What has no meaning on this host, or was not asked because of this check, is one line.
fn line(check: &Check, depth: usize, out: &mut impl Write) -> io::Result<()> {
    let indent = depth * 2;
    let title = format!("{:indent$}{}", "", check.title);
    writeln!(out, "{:<7}  {title:<38}  {}", check.result.word(), check.evidence)?;
    if let (Some(fault), Some(fix)) = (check.fault, &check.fix) {
        writeln!(out, "{:9}{:indent$}-> {fix} [{fault}]", "", "")?;
    }
    match check.result {
        Outcome::NotApplicable => Ok(()),
        Outcome::Failed => match check.all().count() - 1 {
            0 => Ok(()),
            1 => writeln!(out, "{:<7}    {:indent$}1 check that needs it", Outcome::Skipped.word(), ""),
            n => writeln!(out, "{:<7}    {:indent$}{n} checks that need it", Outcome::Skipped.word(), ""),
        },
        Outcome::Ok | Outcome::Warning | Outcome::Skipped => {
            check.checks.iter().try_for_each(|below| line(below, depth + 1, out))
        }
    }
}
