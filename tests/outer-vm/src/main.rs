//! Runs a command in a VM that is a host in miniature: an IOMMU, KVM, and emulated GPUs on its PCI bus.
//!
//! `tools/outer-vm COMMAND [ARG...]` finds kernel and root, and runs this inside `tools/enter`, whose end takes
//! everything with it that this program starts.

mod device;
mod machine;
mod run;
mod shared;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use device::{Bus, Device};

/// The exit code when the VM did not get the command to its end, as timeout(1) has it.
const NO_END: u8 = 124;

/// Runs a command in a VM with an IOMMU, KVM and emulated GPUs; its output is the command's, and its exit code.
#[derive(Debug, Parser)]
pub(crate) struct Arguments {
    /// The kernel.
    #[arg(long)]
    kernel: PathBuf,
    /// The root file system, an EROFS image.
    #[arg(long)]
    root: PathBuf,
    /// A directory that the VM has at the same path; may be repeated.
    #[arg(long)]
    share: Vec<PathBuf>,
    /// An emulated device, as in `h100` or, with the size of its memory in GiB, `b200:256`; may be repeated. The
    /// first one is in slot 1. Without any: `outer_vm::DEVICES`.
    #[arg(long = "device")]
    devices: Vec<Device>,
    /// The VM's memory in MiB.
    #[arg(long, default_value_t = 4096)]
    memory: u32,
    /// So many seconds may it take in all.
    #[arg(long, default_value_t = 900)]
    limit: u64,
    /// What to run.
    #[arg(trailing_var_arg = true, required = true)]
    command: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let devices = if arguments.devices.is_empty() { device::all() } else { arguments.devices.clone() };
    let outcome =
        Bus::start(&devices).and_then(|bus| run::run(&arguments, &bus, Duration::from_secs(arguments.limit)));
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("outer VM: {error}");
            ExitCode::from(NO_END)
        }
    }
}
