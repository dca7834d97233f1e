//! `coffer gpu`: the host's GPUs and NVSwitches, and what an operator does to them.

mod bind;
mod change;
mod claim;
mod list;
mod progress;

use std::io::Write;
#[cfg(feature = "vfio-user")]
use std::path::Path;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Subcommand, ValueEnum};
#[cfg(feature = "vfio-user")]
use gpu::registers::{RIG, rig_socket};
use gpu::sysfs::{Function, Inventory, Sysfs};
use gpu::{Mode, PciAddress};

/// Locks and quarantine records, below the root. Not below /run: a quarantine outlives the host's restart.
const STATE: &str = "var/lib/coffer/gpu";

/// Arguments of `coffer gpu`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 done (no GPU on the host is fine for `list`); 1 something failed, nothing is \
    half-done without being said; 2 wrong usage."
)]
pub(crate) struct Args {
    #[command(flatten)]
    host: Host,
    #[command(subcommand)]
    command: Command,
}

/// Where things are.
#[derive(Debug, clap::Args)]
pub(crate) struct Host {
    /// Root of the file system, for tests
    #[arg(long, hide = true, default_value = "/", global = true)]
    root: PathBuf,
    /// A GPU that a vfio-user server plays: BDF=SOCKET
    #[cfg(feature = "vfio-user")]
    #[arg(long, hide = true, global = true, value_parser = emulated)]
    emulated: Vec<(PciAddress, PathBuf)>,
}

#[cfg(feature = "vfio-user")]
fn emulated(text: &str) -> Result<(PciAddress, PathBuf)> {
    let (address, socket) = text.split_once('=').context("it looks like 0000:41:00.0=/path/of/socket")?;
    Ok((address.parse()?, socket.into()))
}

impl Host {
    fn sysfs(&self) -> Sysfs {
        #[cfg(feature = "vfio-user")]
        if let Some(rig) = self.rig() {
            return Sysfs::new(&rig.join("sys"));
        }
        Sysfs::new(&self.root.join("sys"))
    }

    /// Where this machine is a rig and nothing else was named: what plays the GPUs.
    #[cfg(feature = "vfio-user")]
    fn rig(&self) -> Option<&'static Path> {
        let rig = Path::new(RIG);
        (self.emulated.is_empty() && self.root == Path::new("/") && rig.exists()).then_some(rig)
    }

    fn state(&self) -> PathBuf {
        self.root.join(STATE)
    }

    /// The socket of a GPU that is played.
    #[cfg_attr(not(feature = "vfio-user"), expect(clippy::unused_self, reason = "rigs only"))]
    fn socket(&self, address: PciAddress) -> Option<PathBuf> {
        #[cfg(feature = "vfio-user")]
        return match self.rig() {
            Some(rig) => Some(rig_socket(rig, address)),
            None => self.emulated.iter().find(|(gpu, _)| *gpu == address).map(|(_, socket)| socket.clone()),
        };
        #[cfg(not(feature = "vfio-user"))]
        {
            let _ = address;
            None
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show GPUs and NVSwitches: mode, driver, who has them, quarantine
    List {
        /// Form of the output
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Set the confidential-computing mode, reset and verify
    CcMode {
        /// The mode
        #[arg(value_enum)]
        mode: CcMode,
        #[command(flatten)]
        which: Which,
    },
    /// Set protected PCIe on a whole Hopper board (8 GPUs and 4 NVSwitches), reset and verify
    Ppcie {
        /// On or off
        #[arg(value_enum)]
        state: Switch,
        #[command(flatten)]
        which: Which,
    },
    /// Reset and wait until firmware has booted and memory is wiped
    Reset(Which),
    /// Bind to vfio-pci
    Bind(Which),
    /// Unbind from vfio-pci; the kernel then chooses a driver as it likes
    Unbind(Which),
    /// Let GPUs out of quarantine, after you have looked; each is reset and checked first
    Release(Which),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CcMode {
    On,
    Off,
    /// With debugging: not confidential
    Devtools,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// Which devices.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// All of the host
    #[arg(long)]
    all: bool,
    /// PCI addresses, as in 0000:41:00.0
    #[arg(value_name = "BDF")]
    gpus: Vec<PciAddress>,
}

impl Which {
    fn select(&self, host: &Host, switches: bool) -> Result<Vec<Function>> {
        if !self.all {
            // One by one: what cannot be read of another says nothing of these.
            let find = |address: &PciAddress| {
                let found = host.sysfs().function(*address)?;
                found.with_context(|| format!("{address} is no NVIDIA GPU or NVSwitch"))
            };
            return self.gpus.iter().map(find).collect();
        }
        let Inventory { functions, unreadable } = host.sysfs().discover()?;
        if let Some(error) = unreadable.into_iter().next() {
            return Err(anyhow::Error::new(error).context("a GPU cannot be read, so this would not be all"));
        }
        let wanted = |f: &Function| switches || f.kind == gpu::Kind::Gpu;
        let found: Vec<_> = functions.into_iter().filter(wanted).collect();
        ensure!(!found.is_empty(), "there is no NVIDIA GPU on this host");
        Ok(found)
    }
}

/// Runs `coffer gpu`.
///
/// # Errors
/// What failed, with the GPU's address.
pub(crate) fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let host = &args.host;
    runtime.block_on(async {
        match &args.command {
            Command::List { output } => list::run(host, *output, out).await,
            Command::CcMode { mode, which } => {
                let mode = match mode {
                    CcMode::On => Mode::On,
                    CcMode::Off => Mode::Off,
                    CcMode::Devtools => Mode::Devtools,
                };
                change::mode(host, &which.select(host, false)?, mode, out).await
            }
            Command::Ppcie { state, which } => {
                let mode = match state {
                    Switch::On => Mode::Ppcie,
                    Switch::Off => Mode::Off,
                };
                change::mode(host, &which.select(host, true)?, mode, out).await
            }
            Command::Reset(which) => change::reset(host, &which.select(host, true)?, out).await,
            Command::Release(which) => change::release(host, &which.select(host, true)?, out).await,
            Command::Bind(which) => bind::bind(host, &which.select(host, true)?, out).await,
            Command::Unbind(which) => bind::unbind(host, &which.select(host, true)?, out).await,
        }
    })
}
