//! `coffer measure tdx`: MRTD, RTMR1, RTMR2.

use std::io::Write;
use std::path::{Path, PathBuf};

use ::measure::Cmdline;
use ::measure::ovmf::Firmware;
use ::measure::tdx::{EventLog, InitrdOption, PageOrder, mrtd, rtmr1, rtmr2};
use anyhow::{Context, Result};
use clap::{ArgGroup, ValueEnum};
use serde_json::json;

use super::{Output, json};
use crate::files::Kind;

/// Arguments of `coffer measure tdx`.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("register").args(["firmware", "rtmr1", "rtmr2"]).required(true))]
pub(super) struct Args {
    /// Compute MRTD: firmware, a build of OVMF for TDX
    #[arg(long, value_name = "FILE")]
    firmware: Option<PathBuf>,
    /// Compute MRTD as QEMU 8 with TDX patches builds the TD
    #[arg(long, conflicts_with_all = ["rtmr1", "rtmr2"])]
    two_pass: bool,

    /// Compute RTMR1: the kernel and the firmware's way to it, with QEMU 10.2 and later
    #[arg(long, requires = "kernel")]
    rtmr1: bool,
    /// Kernel that QEMU gets with -kernel
    #[arg(long, value_name = "FILE", conflicts_with_all = ["firmware", "rtmr2"])]
    kernel: Option<PathBuf>,

    /// Compute RTMR2: the command line and the initrd
    #[arg(long, requires = "append")]
    rtmr2: bool,
    /// The kernel's command line, as QEMU gets it
    #[arg(long, value_name = "STRING", conflicts_with_all = ["firmware", "rtmr1"], allow_hyphen_values = true)]
    append: Option<String>,
    /// Initrd that QEMU gets with -initrd
    #[arg(long, value_name = "FILE", conflicts_with_all = ["firmware", "rtmr1"])]
    initrd: Option<PathBuf>,
    /// Where the firmware puts its own `initrd=initrd` on the command line
    #[arg(long, value_enum, default_value_t = Place::Before, requires = "initrd")]
    initrd_option: Place,

    /// Print the events that make up the register, too
    #[arg(long, conflicts_with = "firmware")]
    events: bool,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Place {
    /// In front: newer edk2, which knows QEMU's -shim (Debian's 2026.08)
    Before,
    /// Behind: earlier edk2 (Debian's 2022.11, and 2025.02 as in `guest-image/build firmware`)
    After,
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    if let Some(path) = &args.firmware {
        return print_mrtd(path, args, out);
    }
    let (name, log) = match &args.kernel {
        Some(path) => {
            let kernel = Kind::KERNEL.read(path)?;
            ("rtmr1", rtmr1(&kernel).with_context(|| Kind::KERNEL.unusable(path))?)
        }
        None => ("rtmr2", commandline_log(args)?),
    };
    print_log(name, &log, args, out)
}

fn print_mrtd(path: &Path, args: &Args, out: &mut impl Write) -> Result<()> {
    let order = if args.two_pass { PageOrder::TwoPass } else { PageOrder::SinglePass };
    let image = Kind::FIRMWARE.read(path)?;
    let mrtd = Firmware::parse(&image)
        .map_err(Into::into)
        .and_then(|firmware| mrtd(&firmware, order))
        .with_context(|| Kind::FIRMWARE.unusable(path))?;
    match args.output {
        Output::Text => writeln!(out, "{mrtd}")?,
        Output::Json => json(&json!({ "mrtd": mrtd.to_string() }), out)?,
    }
    Ok(())
}

fn commandline_log(args: &Args) -> Result<EventLog> {
    let cmdline =
        Cmdline::new(args.append.as_deref().unwrap_or_default()).context("cannot measure --append")?;
    let initrd = args.initrd.as_deref().map(|path| Kind::INITRD.read(path)).transpose()?;
    let option = match args.initrd_option {
        Place::Before => InitrdOption::Before,
        Place::After => InitrdOption::After,
    };
    Ok(rtmr2(cmdline, initrd.as_deref(), option))
}

fn print_log(name: &str, log: &EventLog, args: &Args, out: &mut impl Write) -> Result<()> {
    let (value, events) = (log.value(), if args.events { log.events() } else { &[] });
    match args.output {
        Output::Text if args.events => {
            for event in events {
                writeln!(out, "{} {}", event.digest, event.name)?;
            }
            writeln!(out, "{value} {name}")?;
        }
        Output::Text => writeln!(out, "{value}")?,
        Output::Json => {
            let mut object = json!({ name: value.to_string() });
            if args.events {
                object["events"] = events
                    .iter()
                    .map(|e| json!({ "name": e.name, "digest": e.digest.to_string() }))
                    .collect();
            }
            json(&object, out)?;
        }
    }
    Ok(())
}
