//! `coffer measure tdx`: MRTD, RTMR0, RTMR1, RTMR2.

use std::io::Write;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{ArgGroup, ValueEnum};
use measurement::Cmdline;
use measurement::ovmf::Firmware;
use measurement::tdx::{
    EventLog, FwCfgFiles, InitrdOption, PageOrder, TABLE_LOADER, acpi_files, mrtd, rtmr0, rtmr1, rtmr2,
};
use serde_json::json;

use super::{Output, json};
use crate::files::Kind;

/// Arguments of `coffer measure tdx`.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("register").args(["rtmr0", "rtmr1", "rtmr2"]))]
pub(super) struct Args {
    /// Firmware, a build of OVMF for TDX; alone: compute MRTD
    #[arg(long, value_name = "FILE", required_unless_present_any = ["rtmr1", "rtmr2"])]
    firmware: Option<PathBuf>,
    /// Compute MRTD as QEMU 8 with TDX patches builds the TD
    #[arg(long, conflicts_with = "register")]
    two_pass: bool,

    /// Compute RTMR0 of a firmware without Secure Boot: memory map, variables, ACPI tables
    #[arg(long, requires_all = ["firmware", "memory", "acpi"])]
    rtmr0: bool,
    /// The VM's memory in MiB
    #[arg(long, value_name = "MIB", requires = "rtmr0")]
    memory: Option<u64>,
    /// Directory with etc/table-loader and the files that it names, read from QEMU's fw_cfg in a running VM of this
    /// shape
    #[arg(long, value_name = "DIRECTORY", requires = "rtmr0")]
    acpi: Option<PathBuf>,

    /// Compute RTMR1: the kernel and the firmware's way to it, with QEMU 10.2 and later
    #[arg(long, requires = "kernel", conflicts_with = "firmware")]
    rtmr1: bool,
    /// Kernel that QEMU gets with -kernel
    #[arg(long, value_name = "FILE", conflicts_with_all = ["firmware", "rtmr2"])]
    kernel: Option<PathBuf>,

    /// Compute RTMR2: the command line and the initrd
    #[arg(long, requires = "append", conflicts_with = "firmware")]
    rtmr2: bool,
    /// The kernel's command line, as QEMU gets it
    #[arg(long, value_name = "STRING", conflicts_with_all = ["firmware", "rtmr1"], allow_hyphen_values = true)]
    append: Option<String>,
    /// Initrd that QEMU gets with -initrd
    #[arg(long, value_name = "FILE", conflicts_with_all = ["firmware", "rtmr1"])]
    initrd: Option<PathBuf>,
    /// Where the firmware puts its own `initrd=initrd` on the command line
    #[arg(long, value_enum, default_value_t = Place::After, requires = "initrd")]
    initrd_option: Place,

    /// Print the events that make up the register, too
    #[arg(long, requires = "register")]
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
        return match (&args.acpi, args.memory) {
            (Some(acpi), Some(mib)) => print_log("rtmr0", &platform_log(path, acpi, mib)?, args, out),
            _ => print_mrtd(path, args, out),
        };
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

fn platform_log(path: &Path, acpi: &Path, mib: u64) -> Result<EventLog> {
    let image = Kind::FIRMWARE.read(path)?;
    let firmware = Firmware::parse(&image).with_context(|| Kind::FIRMWARE.unusable(path))?;
    let files = read_acpi(acpi)?;
    let memory = mib.saturating_mul(1 << 20);
    rtmr0(&firmware, memory, &files)
        .with_context(|| format!("cannot compute RTMR0 with {} and {mib} MiB of memory", path.display()))
}

/// Reads the script and each file that it names.
///
/// # Errors
/// A file that cannot be read, or is named by a path out of the directory.
pub(super) fn read_acpi(directory: &Path) -> Result<FwCfgFiles> {
    let path = directory.join(TABLE_LOADER);
    let script = Kind::ACPI.read(&path)?;
    let mut files = FwCfgFiles::new();
    for name in acpi_files(&script).with_context(|| Kind::ACPI.unusable(&path))? {
        let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        ensure!(plain, "{} names the file {name}, which leads out of the directory", path.display());
        files.insert(name.to_owned(), Kind::ACPI.read(&directory.join(name))?);
    }
    files.insert(TABLE_LOADER.to_owned(), script);
    Ok(files)
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
