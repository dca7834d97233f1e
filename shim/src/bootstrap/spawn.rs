//! Starts the server: this binary again, detached, with the listening socket as its standard input.
//!
//! Its standard output is a pipe on which it says [`READY`], or why it cannot serve. Descriptors that are
//! standard streams need no number to be agreed on, and `start` and the server are one exec apart.

use std::env;
use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt, parent_id};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use containerd_shim::StartOpts;

use crate::api::{ContainerId, Namespace, RuntimeOptions};

/// What the server writes when it serves.
pub const READY: &str = "ready";

/// Most of a failure's text that is passed on.
const MAX_REASON: u64 = 4096;

/// No server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It did not start.
    #[error("cannot start the shim's server")]
    Spawn(#[source] io::Error),
    /// It ended before it served.
    #[error("the shim's server ended before it served")]
    Ended,
    /// It said why it cannot serve.
    #[error("{0}")]
    Refused(String),
}

/// Where the server finds [`RuntimeOptions::config_path`].
const CONFIG_PATH: &str = "COFFER_CONFIG_PATH";
/// Where the server finds [`RuntimeOptions::config_body`].
const CONFIG_BODY: &str = "COFFER_CONFIG_BODY";

/// The runtime's options that `start` gave to this server.
pub fn inherited_options() -> RuntimeOptions {
    RuntimeOptions {
        config_path: env::var_os(CONFIG_PATH).map(PathBuf::from),
        config_body: env::var(CONFIG_BODY).ok(),
    }
}

/// The server to start.
#[derive(Debug)]
pub struct Server<'a> {
    /// containerd's namespace.
    pub namespace: &'a Namespace,
    /// The sandbox it serves.
    pub group: &'a ContainerId,
    /// The engine's parameters.
    pub params: &'a StartOpts,
    /// The runtime's options, for a sandbox that is started before any container brings them.
    pub options: &'a RuntimeOptions,
    /// The bound socket.
    pub listener: UnixListener,
}

impl Server<'_> {
    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// [`Error`]; no server runs then.
    pub fn run(self) -> Result<(), Error> {
        let (mut reader, writer) = io::pipe().map_err(Error::Spawn)?;
        let mut command = Command::new(std::env::current_exe().map_err(Error::Spawn)?);
        command
            .arg0(std::env::args().next().unwrap_or_default())
            .args(["-namespace", self.namespace.as_str(), "-id", self.group.as_str()])
            .args(["-address", &self.params.address])
            .env("TTRPC_ADDRESS", &self.params.ttrpc_address)
            .envs(self.options.config_path.as_ref().map(|path| (CONFIG_PATH, path)))
            .envs(self.options.config_body.as_ref().map(|body| (CONFIG_BODY, body)))
            .stdin(OwnedFd::from(self.listener))
            .stdout(writer)
            .stderr(Stdio::null());
        if self.params.debug {
            command.arg("-debug");
        }
        let child = command.spawn().map_err(Error::Spawn)?;
        drop(command); // and with it our copy of the pipe's write end
        adjust_oom_score(child.id());
        let mut said = String::new();
        reader.by_ref().take(MAX_REASON).read_to_string(&mut said).map_err(Error::Spawn)?;
        match said.as_str() {
            READY => Ok(()),
            "" => Err(Error::Ended),
            reason => Err(Error::Refused(reason.to_owned())),
        }
    }
}

/// Makes the server one point likelier to be killed by the kernel than the engine, as Go's shims do.
/// Not being allowed to is no reason to fail.
fn adjust_oom_score(pid: u32) {
    let engine = fs::read_to_string(format!("/proc/{}/oom_score_adj", parent_id()));
    if let Some(score) = engine.ok().and_then(|text| text.trim().parse::<i32>().ok()) {
        let _ = fs::write(format!("/proc/{pid}/oom_score_adj"), (score + 1).min(1000).to_string());
    }
}
