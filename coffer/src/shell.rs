//! What a shell and `man` want to know of the command line: made from the same description as the help.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Command;
use clap_complete::Shell;

/// Arguments of `coffer completions`.
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Arguments of `coffer man`.
#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// Where the pages go
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

/// Prints the completions of a shell.
///
/// # Errors
/// An output that cannot be written.
pub(crate) fn completions(args: &Completions, mut command: Command, out: &mut impl Write) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "coffer", &mut text);
    out.write_all(&text)?;
    Ok(())
}

/// Writes a page for each command.
///
/// # Errors
/// A directory that cannot be written.
pub(crate) fn man(args: &Man, command: Command) -> Result<()> {
    let directory = &args.directory;
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    clap_mangen::generate_to(command, directory)
        .with_context(|| format!("cannot write into {}", directory.display()))
}
