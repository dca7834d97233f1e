//! containerd shim v2 that runs a pod in a confidential VM.
//!
//! Engines run this binary with an action ([`bootstrap`], [`delete`]); `start` runs it once more as the
//! pod's server ([`server`]), which stays. `service` translates the server's requests into calls on the
//! one [`sandbox`]. What those lead to is decided in [`core`] and carried out by `sandbox`.

mod api;
mod args;
mod bootstrap;
mod core;
mod delete;
mod files;
pub mod input;
mod logging;
mod machine;
mod metrics;
mod publisher;
mod reap;
mod resident;
mod sandbox;
mod server;
mod service;
mod stdio;
mod wire;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use args::Invocation;

/// The program: does what its arguments say.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // containerd shows this line in the pod's event.
            let _ = writeln!(io::stderr(), "containerd-shim-coffer-v2: {}", api::one_line(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let reply = match args::parse(&args)? {
        Invocation::Version => return Ok(bootstrap::version()?),
        Invocation::Jail => match jail::enter(std::env::args_os().skip(2))? {},
        Invocation::Info => bootstrap::info()?,
        Invocation::Start(flags) => bootstrap::start(&flags)?,
        Invocation::Delete(flags) => delete::delete(&flags)?,
        Invocation::Reap(flags) => return Ok(reap::reap(&flags)?),
        Invocation::Clean(flags) => return Ok(reap::clean(&flags)?),
        Invocation::Serve(flags) => return Ok(server::serve(&flags)?),
    };
    let mut stdout = io::stdout();
    stdout.write_all(&reply)?;
    Ok(stdout.flush()?)
}
