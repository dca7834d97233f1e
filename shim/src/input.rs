//! The readers of what engines send, one by one: for the fuzzer, which throws everything else at them.

use std::error::Error;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use containerd_shim::{Flags, StartOpts};
use protobuf::Message;
use protobuf::well_known_types::any::Any;

use crate::api::{Mount, VirtualVolume};
use crate::bootstrap;
use crate::service;

type Outcome = Result<(), Box<dyn Error>>;

/// Standard input of `start`, as the shim of container `web` reads it, and the reply.
///
/// # Errors
/// What the engine would be told.
pub fn start(stdin: &[u8]) -> Outcome {
    let flags = Flags { id: "web".to_owned(), namespace: "k8s.io".to_owned(), ..Flags::default() };
    let (params, protocol): (StartOpts, _) =
        bootstrap::detect(stdin, &flags, &bootstrap::Environment::default(), Some("1.2.0"))?;
    for any in &params.extensions {
        bootstrap::runtime_options(any)?;
    }
    protocol.reply("unix:///run/s")?;
    Ok(())
}

/// The bundle's `config.json`, as far as `start` reads it.
///
/// # Errors
/// What the engine would be told.
pub fn bundle(json: &[u8]) -> Outcome {
    bootstrap::parse_spec(json)?.sandbox()?;
    Ok(())
}

/// The options of a sandbox made over the Sandbox API: an encoded `Any`.
///
/// # Errors
/// What the engine would be told.
pub fn sandbox_options(any: &[u8]) -> Outcome {
    let any = Any::parse_from_bytes(any)?;
    service::pod_facts(&any)?;
    bootstrap::runtime_options(&any)?;
    Ok(())
}

/// The volume of a mount by which CRI-O has an image pulled inside the guest: the option's JSON.
///
/// # Errors
/// What the engine would be told.
pub fn guest_pull(json: &[u8]) -> Outcome {
    let mount = Mount {
        kind: "fuse.nydus-overlayfs".to_owned(),
        options: vec![format!("io.katacontainers.volume={}", STANDARD.encode(json))],
        ..Mount::default()
    };
    VirtualVolume::find(&[mount])?;
    Ok(())
}
