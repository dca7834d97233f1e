//! The shim's command line, called as container engines call it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use protobuf::Message;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::artefacts::Artefacts;
use crate::bundle::Bundle;
use crate::containerd::{SOCKET, TTRPC_SOCKET};
use crate::ctr::Output;
use crate::or_fail::OrFail;
use crate::wait::within;

const LIMIT: Duration = Duration::from_secs(20);

/// How an engine calls `start`.
#[derive(Debug)]
pub struct ShimProcess {
    program: PathBuf,
    namespace: String,
    id: String,
    directory: PathBuf,
    address: String,
    ttrpc_address: Option<String>,
    max_version: Option<String>,
    stdin: Vec<u8>,
    debug: bool,
}

/// What `start` answered.
#[derive(Debug)]
pub struct StartReply {
    /// Exit code.
    pub code: i32,
    /// Standard output, byte for byte.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl ShimProcess {
    /// A call as CRI-O makes it: no addresses of a containerd, no version.
    pub fn new(artefacts: &Artefacts, namespace: &str, bundle: &Bundle) -> Self {
        Self {
            program: artefacts.shim.clone(),
            namespace: namespace.to_owned(),
            id: bundle.id.clone(),
            directory: bundle.path.clone(),
            address: String::new(),
            ttrpc_address: None,
            max_version: None,
            stdin: Vec::new(),
            debug: false,
        }
    }

    /// With the addresses that containerd gives.
    #[must_use]
    pub fn from_containerd(mut self) -> Self {
        self.address = SOCKET.to_owned();
        self.ttrpc_address = Some(TTRPC_SOCKET.to_owned());
        self
    }

    /// With `MAX_SHIM_VERSION`.
    #[must_use]
    pub fn max_version(mut self, version: &str) -> Self {
        self.max_version = Some(version.to_owned());
        self
    }

    /// With something on standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: Vec<u8>) -> Self {
        self.stdin = bytes;
        self
    }

    /// What will be on standard input.
    pub fn input(&self) -> &[u8] {
        &self.stdin
    }

    /// With `-debug`.
    #[must_use]
    pub fn debug(mut self) -> Self {
        self.debug = true;
        self
    }

    /// With containerd 2.3's message on standard input.
    #[must_use]
    pub fn bootstrap_params(self) -> Self {
        let params = BootstrapParams {
            instance_id: self.id.clone(),
            namespace: self.namespace.clone(),
            containerd_version: "2.3.0".to_owned(),
            containerd_ttrpc_address: TTRPC_SOCKET.to_owned(),
            containerd_grpc_address: SOCKET.to_owned(),
            containerd_binary: "/usr/bin/containerd".to_owned(),
            ..BootstrapParams::default()
        };
        let bytes = params.write_to_bytes().or_fail("encode BootstrapParams");
        self.stdin(bytes)
    }

    /// Calls `start`.
    pub async fn start(&self) -> StartReply {
        self.call("start").await
    }

    /// Calls `delete`, as an engine does for a shim that is gone.
    pub async fn delete(&self) -> StartReply {
        self.call("delete").await
    }

    async fn call(&self, action: &str) -> StartReply {
        let mut command = Command::new(&self.program);
        command.args(["-namespace", &self.namespace, "-address", &self.address]);
        command.args(["-publish-binary", "/usr/bin/containerd", "-id", &self.id]);
        command.args(["-bundle".as_ref(), self.directory.as_os_str()]);
        if self.debug {
            command.arg("-debug");
        }
        command.arg(action).current_dir(&self.directory);
        command.env_remove("MAX_SHIM_VERSION").env_remove("TTRPC_ADDRESS");
        if let Some(version) = &self.max_version {
            command.env("MAX_SHIM_VERSION", version);
        }
        if let Some(address) = &self.ttrpc_address {
            command.env("TTRPC_ADDRESS", address);
        }
        run(command, &self.stdin).await
    }
}

impl StartReply {
    /// The reply that CRI-O and containerd 1.7 read: the bare address, and nothing else anywhere.
    #[track_caller]
    pub fn bare_address(self) -> String {
        assert_eq!(self.code, 0, "start failed: {}", self.stderr);
        assert_eq!(self.stderr, "", "CRI-O reads standard error with the address");
        let address = String::from_utf8(self.stdout).or_fail("the address");
        assert!(address.starts_with("unix://"), "not a bare address: {address:?}");
        assert!(!address.contains(char::is_whitespace), "more than the address: {address:?}");
        address
    }

    /// The reply that containerd 2.0 to 2.2 read.
    #[track_caller]
    pub fn json(self) -> Value {
        assert_eq!(self.code, 0, "start failed: {}", self.stderr);
        serde_json::from_slice(&self.stdout).or_fail("JSON on standard output")
    }

    /// The reply that containerd 2.3 reads.
    #[track_caller]
    pub fn bootstrap_result(self) -> BootstrapResult {
        assert_eq!(self.code, 0, "start failed: {}", self.stderr);
        BootstrapResult::parse_from_bytes(&self.stdout).or_fail("BootstrapResult on standard output")
    }
}

/// Runs the shim with arguments of the caller's own, for example `-v`.
pub async fn shim(artefacts: &Artefacts, directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(&artefacts.shim);
    command.args(arguments).current_dir(directory).env_remove("MAX_SHIM_VERSION");
    let reply = run(command, b"").await;
    Output {
        command: format!("containerd-shim-coffer-v2 {}", arguments.join(" ")),
        code: reply.code,
        stdout: String::from_utf8_lossy(&reply.stdout).into_owned(),
        stderr: reply.stderr,
    }
}

async fn run(mut command: Command, stdin: &[u8]) -> StartReply {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().or_fail("start the shim");
    let mut pipe = child.stdin.take().or_fail("the shim's stdin");
    let _ = pipe.write_all(stdin).await;
    drop(pipe);
    let output =
        within("the shim's answer", LIMIT, child.wait_with_output()).await.or_fail("the shim's answer");
    StartReply {
        code: output.status.code().unwrap_or(-1),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
