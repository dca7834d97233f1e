//! The operator's command.
//!
//! One module per subcommand. A failure prints its cause and what to do, and exits with 1.

mod bind;
mod config;
mod doctor;
mod files;
mod gpu;
mod image;
mod initdata;
mod measure;
mod policy;
mod sweep;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Confidential VM pods for containerd: look at a node's setup, know what its VMs will measure.
#[derive(Debug, Parser)]
#[command(name = "coffer", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bind the pods of manifests to what runs in them: digests, policy and initdata, in the manifests themselves.
    Bind(Box<bind::Args>),
    /// Print the effective configuration: every key, its value, where it came from and what it means.
    Config(config::Args),
    /// Find out whether this host can run pods, and what to do where it cannot.
    Doctor(doctor::Args),
    /// Compute what a confidential VM's attestation report will say, without starting one.
    Measure(Box<measure::Args>),
    /// Ask a key broker's policy whether it will give a pod its key, before the pod is started.
    Rehearse(Box<measure::rehearse::Args>),
    /// Look at the host's NVIDIA GPUs, set their mode, reset them, end a quarantine.
    Gpu(gpu::Args),
    /// Print the names that prove what is in a container image's layers.
    Image(image::Args),
    /// Write and read initdata, the configuration that the report vouches for.
    Initdata(initdata::Args),
    /// Write a policy by which a pod's guest lets its host run this pod and nothing else.
    Policy(policy::Args),
    /// Give back what sandboxes left on this host whose shim is dead.
    Sweep(sweep::Args),
}

fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    match run(command, &mut io::stdout().lock()) {
        Ok(code) => code,
        // A reader that has seen enough (`coffer config | head`) is no failure.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coffer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command, out: &mut impl Write) -> Result<ExitCode> {
    match command {
        Command::Bind(args) => return bind::run(&args, out),
        Command::Doctor(args) => return doctor::run(&args, out),
        Command::Sweep(args) => return sweep::run(&args, out),
        Command::Config(args) => config::run(&args, out),
        Command::Measure(args) => measure::run(&args, out),
        Command::Rehearse(args) => measure::rehearse::run(&args, out),
        Command::Gpu(args) => gpu::run(&args, out),
        Command::Image(args) => image::run(&args, out),
        Command::Initdata(args) => initdata::run(&args, out),
        Command::Policy(args) => policy::run(&args, out),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn only_a_broken_pipe_is_one() {
        let broken = io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(&broken.into()));
        assert!(!is_broken_pipe(&io::Error::from(io::ErrorKind::NotFound).into()));
        assert!(!is_broken_pipe(&anyhow::anyhow!("x")));
    }
}
