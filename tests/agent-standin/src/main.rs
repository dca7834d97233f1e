//! Test stand-in for kata-agent: the same ttrpc contract on vsock port 1024, real containers by libcontainer.
//!
//! For development images and tests only; see the README for what it plays, where it is stricter than the real agent,
//! and the faults it can be told to have.

mod cdh;
mod cgroup;
mod container;
mod copy;
mod devices;
mod error;
mod fault;
mod helper;
mod id;
mod inside;
mod kernel_line;
mod log;
mod mounts;
mod namespaces;
mod network;
mod oom;
mod policy;
mod reaper;
mod sandbox;
mod serve;
mod service;
mod spec;
mod storage;
mod streams;
mod sys;
mod sysctl;

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use tokio::runtime::Builder;

/// Where kata-agent listens: any CID, port 1024.
const ADDRESS: &str = "vsock://-1:1024";

fn main() -> ExitCode {
    let args: Vec<OsString> = env::args_os().skip(1).collect();
    if args.first().is_some_and(|first| first == helper::COMMAND) {
        return if helper::main(&args[1..]) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let words: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    let address = match words.as_slice() {
        [] => ADDRESS,
        ["--listen", address] => address,
        ["--version"] => {
            println!("{} {}", log::MARKER, service::VERSION);
            return ExitCode::SUCCESS;
        }
        _ => {
            log::line("usage: agent-standin [--listen vsock://CID:PORT | unix:///PATH] | --version");
            return ExitCode::FAILURE;
        }
    };
    log::line(format_args!(
        "{} {}: a test stand-in, not kata-agent; on {address}",
        log::MARKER,
        service::VERSION
    ));
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            log::line(format_args!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(serve::run(address)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::line(error);
            ExitCode::FAILURE
        }
    }
}
