//! `-info` and `-v`: what an operator and an engine ask before there is any container.

use std::io::{self, Write};

use containerd_shim::protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};

use super::{Error, read_input};

/// The runtime's name in an engine's configuration.
pub const NAME: &str = "io.containerd.coffer.v2";

/// Revision of the source, where the build was told one.
const REVISION: &str = match option_env!("COFFER_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// Prints name, version and revision, as Go's shims do.
///
/// # Errors
/// When standard output is closed.
pub fn version() -> io::Result<()> {
    writeln!(
        io::stdout(),
        "containerd-shim-coffer-v2:\n  Version:  {}\n  Revision: {REVISION}",
        env!("CARGO_PKG_VERSION")
    )
}

/// OCI runtime features as JSON: what containerd's CRI plugin looks at, and no more than is true.
fn features() -> serde_json::Value {
    serde_json::json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.1",
        "mountOptions": ["bind", "rbind", "ro", "rw", "nosuid", "nodev", "noexec", "size", "mode"],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "uts"],
            "cgroup": { "v1": false, "v2": true, "systemd": false },
            "seccomp": { "enabled": true },
            "mountExtensions": { "idmap": { "enabled": false } },
        },
    })
}

/// The `RuntimeInfo` message. Runtime options on standard input are handed back in it.
///
/// # Errors
/// When standard input cannot be read.
pub fn info() -> Result<Vec<u8>, Error> {
    encode(&read_input()?)
}

fn encode(input: &[u8]) -> Result<Vec<u8>, Error> {
    let options = Any::parse_from_bytes(input).ok().filter(|any| !any.type_url.is_empty());
    RuntimeInfo {
        name: NAME.to_owned(),
        version: MessageField::some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: REVISION.to_owned(),
            ..RuntimeVersion::default()
        }),
        options: options.into(),
        features: MessageField::some(Any {
            // The name under which containerd registers the type.
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/features/Features".to_owned(),
            value: features().to_string().into_bytes(),
            ..Any::default()
        }),
        annotations: [("io.coffer.isolation".to_owned(), "vm".to_owned())].into(),
        ..RuntimeInfo::default()
    }
    .write_to_bytes()
    .map_err(Error::Encode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_has_what_containerd_unpacks() {
        let info = RuntimeInfo::parse_from_bytes(&encode(&[]).unwrap()).unwrap();
        assert_eq!((info.name.as_str(), info.options.is_none()), (NAME, true));
        let features: serde_json::Value = serde_json::from_slice(&info.features.value).unwrap();
        assert_eq!(features["linux"]["mountExtensions"]["idmap"]["enabled"], false);
    }

    #[test]
    fn options_come_back_and_garbage_does_not() {
        let any = Any { type_url: "runtimeoptions.v1.Options".into(), ..Any::default() };
        let info = RuntimeInfo::parse_from_bytes(&encode(&any.write_to_bytes().unwrap()).unwrap()).unwrap();
        assert_eq!(info.options.type_url, "runtimeoptions.v1.Options");
        assert!(encode(b"\xff\xff").is_ok());
    }
}
