//! `coffer measure`: what a confidential VM's attestation report will say.

mod initdata;
mod snp;
mod tdx;

use std::io::Write;

use anyhow::Result;
use clap::{Subcommand, ValueEnum};

/// Arguments of `coffer measure`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// SEV-SNP's launch digest: firmware, kernel, initrd, command line, vCPUs, CPU model
    Snp(snp::Args),
    /// TDX's MRTD (firmware), RTMR0 (memory, ACPI tables), RTMR1 (kernel) or RTMR2 (command line, initrd)
    Tdx(tdx::Args),
    /// The digest of an initdata document, and the report's fields for it
    Initdata(initdata::Args),
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
    match &args.what {
        What::Snp(args) => snp::run(args, out),
        What::Tdx(args) => tdx::run(args, out),
        What::Initdata(args) => initdata::run(args, out),
    }
}

fn json(value: &serde_json::Value, out: &mut impl Write) -> Result<()> {
    writeln!(out, "{}", serde_json::to_string_pretty(value)?)?;
    Ok(())
}
