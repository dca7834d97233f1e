//! `coffer measure explain`: a report or a token that is not what the pod's should be, and what it is instead.
//!
//! The pod's VM is varied in one thing, then in its vCPUs and one thing more, until the measurement is the one that was reported.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::pod::{self, Class};
use crate::files::Kind;

mod report;
mod search;

pub(super) use search::split;
use search::{Finding, Neighbours, Verdict};

/// Arguments of `coffer measure explain`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What was reported: an SNP report or a TDX quote (bytes), a token (JWT), or its claims (JSON)
    #[arg(value_name = "REPORT")]
    report: PathBuf,
    /// The pod's manifest
    #[arg(long, value_name = "FILE")]
    pod: PathBuf,
    #[command(flatten)]
    node: pod::Node,
    /// QEMU's ACPI files for this pod, as for `coffer measure pod`: then RTMR0 is looked at
    #[arg(long, value_name = "DIRECTORY")]
    acpi: Option<PathBuf>,
    /// Another guest image that it may have been; may be repeated
    #[arg(long = "other-image", value_name = "DIRECTORY")]
    images: Vec<PathBuf>,
    /// Another firmware that it may have been; may be repeated
    #[arg(long = "other-firmware", value_name = "FILE")]
    firmwares: Vec<PathBuf>,
    /// Another initdata document that it may have been; may be repeated
    #[arg(long = "other-initdata", value_name = "FILE")]
    initdata: Vec<PathBuf>,
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    let bytes = Kind::REPORT.read(&args.report)?;
    let reported = report::parse(&bytes).with_context(|| Kind::REPORT.unusable(&args.report))?;
    let class = args.node.class;
    if reported.class != class {
        bail!("{} is of another class of VM: {}", args.report.display(), reported.class.name());
    }
    let planned = pod::read(&args.pod, &args.node)?;
    let demand = pod::of_plan(&planned, class, args.acpi.as_deref())?;
    let around = Neighbours::read(&planned, args)?;
    let findings = search::explain(&demand, &reported, &around)?;
    let width = findings.iter().map(|finding| finding.what.len()).max().unwrap_or_default();
    for Finding { what, verdict } in &findings {
        writeln!(out, "{what:<width$}  {verdict}")?;
    }
    if findings.iter().all(|finding| matches!(finding.verdict, Verdict::Same | Verdict::Unasked(_))) {
        return Ok(());
    }
    bail!("the report is not of the pod {} as it is here", demand.name)
}

impl Class {
    /// Whether it is SNP's.
    const fn is_snp(self) -> bool {
        matches!(self, Self::CofferSnp)
    }
}
