//! `coffer image convert`: what the shim runs before a container whose layers are not there as EROFS images yet.

use std::io::Write;
use std::path::{self, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use jail::{Builder, OWN_PROGRAM, Role, UserId, UserRange};
use layers::Node;
use rustix::process::geteuid;
use serde_json::json;
use verity::RootHash;

use super::source::search;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// containerd's socket
    #[arg(long, value_name = "SOCKET", default_value = "/run/containerd/containerd.sock")]
    containerd: PathBuf,
    /// The container's namespace in containerd
    #[arg(long, value_name = "NAME", default_value = "k8s.io")]
    namespace: String,
    /// The container's id in containerd
    #[arg(long, value_name = "ID")]
    container: String,
    /// Where the layers are kept
    #[arg(long, value_name = "DIRECTORY", default_value = "/var/lib/coffer/layers")]
    cache: PathBuf,
    /// How large that may grow, in bytes, before layers that nobody uses go
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 30)]
    cache_bytes: u64,
    /// How long another process may take for the same layer
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    patience: u64,
    /// The root hashes that the pod's policy has for the container, the topmost layer's first
    #[arg(long, value_name = "HASH,...", value_delimiter = ',')]
    wanted: Option<Vec<RootHash>>,
    /// As whom mkfs.erofs runs, a number that no account has [default: one of the default `qemu_users`]
    #[arg(long, value_name = "UID", value_parser = user)]
    user: Option<UserId>,
}

/// Prints `{"layers": [{"path", "root_hash", "diff_id", "digest"}...]}`, the topmost first, or `{"no_image": true}` for a
/// container whose root file system is of no image. Layers stay locked until it ends.
pub(super) fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    let node = Node {
        // The shim is somewhere else.
        cache: path::absolute(&args.cache).context("--cache")?,
        bytes: args.cache_bytes,
        patience: Duration::from_secs(args.patience),
        search: search(),
        builder: geteuid()
            .is_root()
            .then(|| Builder { user: args.user.unwrap_or_else(own_user), jailer: OWN_PROGRAM.into() }),
    };
    let Args { containerd, namespace, container, wanted, .. } = args;
    let found =
        node.container(containerd, namespace, container, wanted.as_deref(), &|text| eprintln!("{text}"));
    let found = found.with_context(|| format!("cannot have the layers of container {container}"))?;
    let (answer, _held) = match found {
        Some((layers, held)) => (json!({ "layers": layers }), Some(held)),
        None => (json!({ "no_image": true }), None),
    };
    writeln!(out, "{answer}")?;
    out.flush()?;
    Ok(())
}

fn user(text: &str) -> Result<UserId, String> {
    let number: u32 = text.parse().map_err(|_| "it is no number of a user".to_owned())?;
    UserId::try_from(number).map_err(str::to_owned)
}

fn own_user() -> UserId {
    UserRange::default().of_process(std::process::id(), Role::ImageBuilder)
}
