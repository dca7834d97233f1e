//! What an engine runs the shim for before there is a server: `start`, `-info` and `-v`.

mod address;
mod info;
mod protocol;
mod spawn;
mod spec;

use std::io::{self, IsTerminal, Read};

use containerd_shim::{Flags, StartOpts};
use protobuf::well_known_types::any::Any;
use shared_types::cri::TwoEngines;

use crate::api::{ContainerId, Namespace, RuntimeOptions};
use crate::{api, reap};

pub use info::{info, version};
pub use protocol::{Environment, detect, runtime_options};
pub use spawn::{READY, inherited_options};
pub use spec::{MAX_SPEC, parse as parse_spec};

/// Most that is read from standard input: containerd's own limit for the message it sends there.
const MAX_INPUT: u64 = 10 << 20;

/// A failed start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A malformed identifier.
    #[error(transparent)]
    Id(#[from] api::Error),
    /// Parameters that contradict the command line.
    #[error(transparent)]
    Protocol(#[from] protocol::Error),
    /// A bundle that cannot be used.
    #[error(transparent)]
    Spec(#[from] spec::Error),
    /// A bundle of two engines.
    #[error("cannot tell which pod it is")]
    Engines(#[from] TwoEngines),
    /// No socket.
    #[error(transparent)]
    Address(#[from] address::Error),
    /// No server.
    #[error(transparent)]
    Spawn(#[from] spawn::Error),
    /// Standard input.
    #[error("cannot read standard input")]
    Input(#[source] io::Error),
    /// A file in the bundle.
    #[error("cannot write {path} in the bundle")]
    Bundle {
        /// Its name.
        path: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A container of a pod that is not there. A server of its own would boot a second VM for the pod.
    #[error("sandbox {sandbox} of container {container} is not running; the pod has to be made anew")]
    NoSandbox {
        /// The pod's sandbox.
        sandbox: ContainerId,
        /// The container that should join it.
        container: ContainerId,
    },
    /// A reply that cannot be encoded.
    #[error("cannot encode the reply")]
    Encode(#[source] protobuf::Error),
}

/// Makes sure that a server runs for the sandbox of `flags.id`, and returns what belongs on standard output.
///
/// The working directory is the bundle.
///
/// # Errors
/// [`Error`]; nothing is left running or bound then.
pub fn start(flags: &Flags) -> Result<Vec<u8>, Error> {
    let namespace = Namespace::new(flags.namespace.as_str())?;
    let id = ContainerId::new(flags.id.as_str())?;
    let spec = spec::read()?;
    let input = read_input()?;
    let engine = Environment::from_process();
    let (params, protocol) = detect(&input, flags, &engine, spec.oci_version.as_deref())?;
    let group = match spec.sandbox()? {
        Some(group) => ContainerId::new(group)?,
        None => id.clone(),
    };
    let address = address::Address::of(&params, &namespace, &group);
    if let Some(listener) = address.claim()? {
        if group != id {
            address.remove();
            return Err(Error::NoSandbox { sandbox: group, container: id });
        }
        let options = options_of(&params);
        let server = spawn::Server {
            namespace: &namespace,
            group: &group,
            params: &params,
            options: &options,
            listener,
        };
        if let Err(error) = server.run() {
            address.remove();
            return Err(error.into());
        }
        reap::sweep(&reap::record_of(&namespace, &group));
    }
    // Read back by `delete`, by CRI-O and by containerd 1.7 after their restarts.
    std::fs::write("address", address.to_string())
        .map_err(|source| Error::Bundle { path: "address", source })?;
    protocol.reply(&address.to_string()).map_err(Error::Encode)
}

/// The runtime's options among the engine's parameters. Malformed ones come again with the container, and are refused
/// there.
fn options_of(params: &StartOpts) -> RuntimeOptions {
    let options = params.extensions.iter().find(|any| type_name(any) == protocol::OPTIONS);
    options.and_then(|any| runtime_options(any).ok()).unwrap_or_default()
}

/// Removes the socket that `start` made for sandbox `id` in the bundle that is the working directory.
/// The socket of another sandbox, to which a container of a pod belongs, stays.
pub fn remove_socket(bundle: &std::path::Path, engine: &str, namespace: &Namespace, id: &ContainerId) {
    if let Ok(recorded) = std::fs::read_to_string(bundle.join("address")) {
        address::Address::recorded(&recorded, engine, namespace, id)
            .iter()
            .for_each(address::Address::remove);
    }
}

fn read_input() -> Result<Vec<u8>, Error> {
    let stdin = io::stdin();
    let mut input = Vec::new();
    if !stdin.is_terminal() {
        stdin.lock().take(MAX_INPUT).read_to_end(&mut input).map_err(Error::Input)?;
    }
    Ok(input)
}

/// The last part of an `Any`'s type URL; containerd writes bare names, others put a host before them.
pub fn type_name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}
