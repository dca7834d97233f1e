//! The operator's command.
//!
//! One module per subcommand. A failure prints its cause and what to do, and exits with 1; wrong usage exits with 2.

mod bind;
mod config;
mod doctor;
mod examples;
mod files;
mod gpu;
mod http;
mod image;
mod initdata;
mod measure;
mod node;
mod observe;
mod policy;
mod shell;
mod sweep;
mod volume;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Confidential VM pods for containerd: bind them, measure them, look after a node.
#[derive(Debug, Parser)]
#[command(
    disable_help_subcommand = true,
    help_template = "{about}\n{usage-heading} {usage}\n\n{subcommands}\n{options}"
)]
#[command(name = "coffer", version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("COFFER_COMMIT"), ")"))]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bind the pods of manifests to what runs in them
    Bind(Box<bind::Args>),
    /// Print this node's configuration, each value with its origin
    Config(config::Args),
    /// Find out whether this host can run pods, and what to do if not
    Doctor(doctor::Args),
    /// Compute what a confidential VM's report will say
    Measure(Box<measure::Args>),
    /// Ask a key broker's policy whether it will give a pod its key
    Rehearse(Box<measure::rehearse::Args>),
    /// Look at GPUs, set their mode, reset them, end a quarantine
    Gpu(gpu::Args),
    /// Install Coffer on this node, or another version of it
    Install(node::InstallArgs),
    /// Take Coffer away from this node
    Uninstall(node::UninstallArgs),
    /// Print what is installed on this node
    Status(node::StatusArgs),
    /// Print this node's sandboxes: state, shim, memory, GPUs
    Pods(observe::PodsArgs),
    /// Print what a pod's start took, step by step
    Timeline(observe::TimelineArgs),
    /// Print what a pod's shim and console said
    Logs(observe::Which),
    /// Pack what a bug report about a pod needs, without secrets
    Debug(observe::DebugArgs),
    /// Print or serve this node's metrics for Prometheus
    Metrics(observe::MetricsArgs),
    /// Print the names that prove what is in an image's layers
    Image(image::Args),
    /// Write and read initdata, which the report vouches for
    Initdata(initdata::Args),
    /// Write and ask the policy by which a guest runs one pod
    Policy(policy::Args),
    /// Make the volumes that pods have their models from
    Volume(volume::Args),
    /// Give back what dead sandboxes left on this host
    Sweep(sweep::Args),
    /// Print completions for a shell
    #[command(hide = true)]
    Completions(shell::Completions),
    /// Write manual pages
    #[command(hide = true)]
    Man(shell::Man),
}

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    // Nobody's command: by it the image builder gets into its jail.
    if words.get(1).is_some_and(|word| word == jail::ACTION) {
        return jailed(words);
    }
    let Cli { command } = match parse(&words) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
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

/// Becomes the program that the words name, in its jail.
fn jailed(words: Vec<OsString>) -> ExitCode {
    match jail::enter(words.into_iter().skip(2)) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("coffer: {:#}", anyhow::Error::from(error));
            ExitCode::FAILURE
        }
    }
}

fn described() -> clap::Command {
    examples::added_to(Cli::command())
}

/// The command, or the exit code after help or an error was printed.
fn parse(words: &[OsString]) -> Result<Cli, ExitCode> {
    let parsed = described().try_get_matches_from(words).and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|error| {
        if !error.use_stderr() {
            // Help or the version; a reader that has seen enough is no failure.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        let said = error.render().to_string();
        eprint!("coffer: {}", said.strip_prefix("error: ").unwrap_or(&said));
        if let Some(right) = turned_round(words).filter(|_| error.kind() == ErrorKind::InvalidSubcommand) {
            eprintln!("\nIn the right order: {right}");
        }
        ExitCode::from(2)
    })
}

/// `coffer generate policy ...`, as it is meant.
fn turned_round(words: &[OsString]) -> Option<String> {
    let word = |at: usize| words.get(at).and_then(|word| word.to_str());
    let (first, second) = (word(1)?, word(2)?);
    let command = Cli::command();
    command.find_subcommand(second)?.find_subcommand(first)?;
    let rest: Vec<_> = words.iter().skip(3).map(|word| word.to_string_lossy()).collect();
    Some(format!("coffer {second} {first} {}", rest.join(" ")).trim_end().to_owned())
}

fn run(command: Command, out: &mut impl Write) -> Result<ExitCode> {
    match command {
        Command::Bind(args) => return bind::run(&args, out),
        Command::Doctor(args) => return doctor::run(&args, out),
        Command::Sweep(args) => return sweep::run(&args, out),
        Command::Status(args) => return node::status(&args, out),
        Command::Pods(args) => observe::pods(&args, out),
        Command::Timeline(args) => observe::timeline(&args, out),
        Command::Metrics(args) => observe::metrics(&args, out),
        Command::Logs(args) => observe::logs(&args, out),
        Command::Debug(args) => observe::debug(&args, &asked, out),
        Command::Install(args) => node::install(&args, out),
        Command::Uninstall(args) => node::uninstall(&args, out),
        Command::Config(args) => config::run(&args, out),
        Command::Measure(args) => measure::run(&args, out),
        Command::Rehearse(args) => measure::rehearse::run(&args, out),
        Command::Gpu(args) => gpu::run(&args, out),
        Command::Image(args) => image::run(&args, out),
        Command::Initdata(args) => initdata::run(&args, out),
        Command::Policy(args) => policy::run(&args, out),
        Command::Volume(args) => volume::run(&args, out),
        Command::Completions(args) => shell::completions(&args, described(), out),
        Command::Man(args) => shell::man(&args, described()),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// What another command of this program prints.
fn asked(words: &[&str]) -> Result<String> {
    let words: Vec<OsString> = ["coffer"].iter().chain(words).map(OsString::from).collect();
    let Cli { command } = Cli::try_parse_from(words)?;
    let mut out = Vec::new();
    run(command, &mut out)?;
    Ok(String::from_utf8(out)?)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_words_in_the_wrong_order_are_turned_round() {
        let of = |text: &str| turned_round(&text.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(of("coffer generate policy --pod p").as_deref(), Some("coffer policy generate --pod p"));
        assert_eq!(of("coffer snp measure").as_deref(), Some("coffer measure snp"));
        assert_eq!(of("coffer policy nothing"), None);
        assert_eq!(of("coffer"), None);
    }

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
