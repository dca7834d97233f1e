//! An emulated GPU as a program: `emulated-gpu --product h100 --socket gpu.sock --control gpu.control`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use emulated_gpu::{Emulator, Options, Product, Timing};

/// Plays an NVIDIA GPU or NVSwitch behind a vfio-user socket, for tests.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to play.
    #[arg(long)]
    product: Product,
    /// Socket for the VMM; must not exist.
    #[arg(long)]
    socket: PathBuf,
    /// Socket for the test, JSON lines; must not exist.
    #[arg(long)]
    control: PathBuf,
    /// Milliseconds from a reset to a booted firmware.
    #[arg(long, default_value_t = 1_200)]
    boot: u64,
    /// Milliseconds from a reset to a lowered firewall (Blackwell).
    #[arg(long, default_value_t = 300)]
    firewall: u64,
    /// Milliseconds from a request to its reply.
    #[arg(long, default_value_t = 1)]
    reply: u64,
    /// Size of the memory BAR in GiB, a power of two.
    #[arg(long)]
    memory: Option<u32>,
    /// Reset when a client comes and goes, as VFIO does.
    #[arg(long)]
    resets_like_vfio: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.memory.is_some_and(|gib| !gib.is_power_of_two()) {
        eprintln!("emulated-gpu: --memory must be a power of two, as BARs are");
        return ExitCode::FAILURE;
    }
    let [boot, firewall, reply] =
        [arguments.boot, arguments.firewall, arguments.reply].map(Duration::from_millis);
    let options = Options {
        product: arguments.product,
        socket: arguments.socket,
        control: arguments.control,
        timing: Timing { boot, firewall, reply },
        memory: arguments.memory.map(|gib| u64::from(gib) << 30),
        resets_like_vfio: arguments.resets_like_vfio,
    };
    match Emulator::start(&options) {
        Ok(_emulator) => loop {
            std::thread::park();
        },
        Err(error) => {
            let cause =
                std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            eprintln!("emulated-gpu: {error}{cause}");
            ExitCode::FAILURE
        }
    }
}
