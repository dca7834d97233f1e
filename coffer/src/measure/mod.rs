//! `coffer measure`: what a confidential VM's attestation report will say.

mod acpi;
mod diff;
mod explain;
mod id_block;
mod image;
mod initdata;
mod merge;
mod pod;
pub(crate) mod rehearse;
mod snp;
mod tdx;
mod trustee;

use std::io::Write;
use std::path::PathBuf;

pub(crate) use pod::{Class, Place, demand};
pub(crate) use trustee::output as trustee_output;

use anyhow::{Result, bail};
use clap::{Subcommand, ValueEnum};

/// Arguments of `coffer measure`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// Short for `pod FILE`: a pod's manifest
    #[arg(long, value_name = "FILE", required = true)]
    pod: Option<PathBuf>,
    // The options that must be there are in one struct without another in it: else clap takes them for absent.
    #[command(flatten)]
    node: Option<pod::Node>,
    #[command(flatten)]
    options: pod::Options,
}

#[derive(Debug, Subcommand)]
enum What {
    /// SEV-SNP's launch digest: firmware, kernel, initrd, command line, vCPUs, CPU model
    Snp(snp::Args),
    /// TDX's MRTD (firmware), RTMR0 (memory, ACPI tables), RTMR1 (kernel) or RTMR2 (command line, initrd)
    Tdx(tdx::Args),
    /// The digest of an initdata document, and the report's fields for it
    Initdata(initdata::Args),
    /// All of a pod, from its manifest: measurement, initdata digest, number of GPUs; for Trustee, too
    Pod(pod::Args),
    /// Write the ACPI tables that QEMU makes for a pod's TDX guest, for `--acpi`; runs QEMU for a few seconds
    Acpi(acpi::Args),
    /// Make one output for Trustee of several pods' (`pod -o trustee`): a KBS has one policy for all its resources
    Merge(merge::Args),
    /// Compare two guest images or two firmwares, part by part
    Diff(diff::Args),
    /// Find out what a report is of that is not the pod's: how many vCPUs, which CPU, image, firmware, memory, initdata
    Explain(Box<explain::Args>),
    /// The reference values of a guest image
    Image(image::Args),
    /// Sign an SNP ID block, by which the processor itself refuses a guest with another launch digest
    IdBlock(id_block::Args),
}

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// One line of lower-case hexadecimal digits
    Text,
    /// An object
    Json,
}

/// Computes and prints a measurement.
///
/// # Errors
/// A file that cannot be read or measured; the message names it.
pub(crate) fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    match (&args.what, args.pod.as_ref().zip(args.node.as_ref())) {
        (Some(What::Snp(args)), _) => snp::run(args, out),
        (Some(What::Tdx(args)), _) => tdx::run(args, out),
        (Some(What::Initdata(args)), _) => initdata::run(args, out),
        (Some(What::Pod(args)), _) => pod::run(args, out),
        (Some(What::Acpi(args)), _) => acpi::run(args, out),
        (Some(What::Diff(args)), _) => diff::run(args, out),
        (Some(What::Explain(args)), _) => explain::run(args, out),
        (Some(What::Merge(args)), _) => merge::run(args, out),
        (Some(What::Image(args)), _) => image::run(args, out),
        (Some(What::IdBlock(args)), _) => id_block::run(args, out),
        (None, Some((file, node))) => pod::print(file, node, &args.options, out),
        // Clap has seen to it that one of them is there.
        (None, None) => bail!("say what to measure: `coffer measure --help`"),
    }
}

fn json(value: &serde_json::Value, out: &mut impl Write) -> Result<()> {
    writeln!(out, "{}", serde_json::to_string_pretty(value)?)?;
    Ok(())
}
