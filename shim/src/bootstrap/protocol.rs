//! The three bootstrap protocols that engines speak, and how to tell which one it is.
//!
//! | engine | input | reply |
//! |---|---|---|
//! | containerd 2.3 and later | `BootstrapParams` on stdin | `BootstrapResult` |
//! | containerd 2.0 to 2.2 | flags, environment, runtime options on stdin | JSON, version 3 |
//! | containerd 1.7, CRI-O | the same | the bare address; JSON with version 3 is refused |
//!
//! All of them set `MAX_SHIM_VERSION=2`, so it does not tell the second and the third apart. CRI-O passes no
//! ttrpc address; containerd 1.7 writes OCI specs of version 1.1, containerd 2 of 1.2 and later. Where that
//! guess is wrong for an old spec, containerd 2 falls back to task API v2, which is served as well.

use std::env;

use containerd_shim::bootstrap::{BootstrapParams, BootstrapResult};
use containerd_shim::protos::TASK_API_VERSION;
use containerd_shim::{Flags, StartOpts};
use protobuf::well_known_types::any::Any;
use protobuf::{CodedInputStream, Message};

use super::type_name;
use crate::api::RuntimeOptions;

/// First OCI spec version that containerd 2 writes.
const CONTAINERD_2_SPEC: (u32, u32) = (1, 2);

/// Name of the message that carries the runtime's options.
pub const OPTIONS: &str = "runtimeoptions.v1.Options";

/// How to answer the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `BootstrapResult`.
    Message,
    /// JSON with version 3.
    Json,
    /// The address and nothing else.
    Bare,
}

/// Parameters that contradict the command line.
#[derive(Debug, thiserror::Error)]
#[error(
    "the parameters on standard input are for {namespace}/{id}, not for the container named by the flags"
)]
pub struct Error {
    namespace: String,
    id: String,
}

/// What engines pass in environment variables.
#[derive(Debug, Default)]
pub struct Environment {
    /// `TTRPC_ADDRESS`.
    pub ttrpc_address: String,
    /// `GRPC_ADDRESS`.
    pub grpc_address: String,
    /// `MAX_SHIM_VERSION`.
    pub max_version: Option<u32>,
}

impl Environment {
    /// That of this process.
    pub fn from_process() -> Self {
        let get = |name| env::var(name).unwrap_or_default();
        Self {
            ttrpc_address: get("TTRPC_ADDRESS"),
            grpc_address: get("GRPC_ADDRESS"),
            max_version: get("MAX_SHIM_VERSION").parse().ok(),
        }
    }
}

/// Finds out which protocol the engine speaks, and brings its parameters into one form.
///
/// # Errors
/// [`Error`] when a bootstrap message is meant for another container.
pub fn detect(
    input: &[u8],
    flags: &Flags,
    environment: &Environment,
    oci_version: Option<&str>,
) -> Result<(StartOpts, Protocol), Error> {
    if let Some(params) = bootstrap_params(input, flags)? {
        let mut opts = StartOpts::from(params);
        opts.debug |= flags.debug;
        return Ok((opts, Protocol::Message));
    }
    let address = if flags.address.is_empty() { &environment.grpc_address } else { &flags.address };
    let opts = StartOpts {
        id: flags.id.clone(),
        namespace: flags.namespace.clone(),
        publish_binary: flags.publish_binary.clone(),
        address: address.clone(),
        ttrpc_address: environment.ttrpc_address.clone(),
        debug: flags.debug,
        extensions: Any::parse_from_bytes(input)
            .ok()
            .filter(|any| !any.type_url.is_empty())
            .into_iter()
            .collect(),
        ..StartOpts::default()
    };
    Ok((opts, legacy(environment, oci_version)))
}

fn legacy(environment: &Environment, oci_version: Option<&str>) -> Protocol {
    let newer = match environment.max_version {
        None => false,
        Some(max) if max > 2 => true,
        Some(_) => oci_version.and_then(major_minor).is_none_or(|version| version >= CONTAINERD_2_SPEC),
    };
    if newer && !environment.ttrpc_address.is_empty() { Protocol::Json } else { Protocol::Bare }
}

fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The bootstrap message, if that is what `input` is.
///
/// Runtime options, an `Any`, decode as a bootstrap message too: the type URL becomes the id and the value
/// the namespace. So only a message that has more than these two, or the right ones, is one.
fn bootstrap_params(input: &[u8], flags: &Flags) -> Result<Option<BootstrapParams>, Error> {
    let Ok(params) = BootstrapParams::parse_from_bytes(input) else { return Ok(None) };
    if params.instance_id == flags.id && params.namespace == flags.namespace {
        return Ok(Some(params));
    }
    let only_ids = BootstrapParams {
        instance_id: params.instance_id.clone(),
        namespace: params.namespace.clone(),
        ..BootstrapParams::default()
    };
    if params == only_ids {
        return Ok(None);
    }
    Err(Error { namespace: params.namespace, id: params.instance_id })
}

impl Protocol {
    /// What belongs on standard output for a server at `address`.
    ///
    /// # Errors
    /// When the message cannot be encoded.
    pub fn reply(self, address: &str) -> protobuf::Result<Vec<u8>> {
        match self {
            Self::Bare => Ok(address.as_bytes().to_vec()),
            Self::Json => {
                let reply = serde_json::json!(
                    { "version": TASK_API_VERSION, "address": address, "protocol": "ttrpc" }
                );
                Ok(reply.to_string().into_bytes())
            }
            Self::Message => BootstrapResult {
                version: TASK_API_VERSION,
                address: address.to_owned(),
                protocol: "ttrpc".to_owned(),
                ..BootstrapResult::default()
            }
            .write_to_bytes(),
        }
    }
}

/// `runtimeoptions.v1.Options`, which engines send for a runtime they have no own type for.
///
/// Field 1 is a type URL, 2 the path of a configuration file, 3 its content. An `Any` of another type
/// (the options of runc, for example) says nothing to us.
///
/// # Errors
/// When the message is damaged.
pub fn runtime_options(any: &Any) -> protobuf::Result<RuntimeOptions> {
    let mut options = RuntimeOptions::default();
    if type_name(any) != OPTIONS {
        return Ok(options);
    }
    let mut input = CodedInputStream::from_bytes(&any.value);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        match tag {
            0x12 => {
                options.config_path = Some(input.read_string()?).filter(|p| !p.is_empty()).map(Into::into)
            }
            0x1a => {
                let body = String::from_utf8_lossy(&input.read_bytes()?).into_owned();
                options.config_body = Some(body).filter(|body| !body.is_empty());
            }
            other => protobuf::rt::skip_field_for_tag(other, &mut input)?,
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim::bootstrap::LogLevel;

    fn flags() -> Flags {
        Flags { id: "web".into(), namespace: "k8s.io".into(), address: "/c.sock".into(), ..Flags::default() }
    }

    fn containerd() -> Environment {
        Environment { ttrpc_address: "/c.ttrpc".into(), grpc_address: "/c.sock".into(), max_version: Some(2) }
    }

    fn params() -> BootstrapParams {
        BootstrapParams {
            instance_id: "web".into(),
            namespace: "k8s.io".into(),
            containerd_ttrpc_address: "/new.ttrpc".into(),
            log_level: LogLevel::LOG_LEVEL_DEBUG.into(),
            socket_dir: Some("/run/s".into()),
            ..BootstrapParams::default()
        }
    }

    fn options() -> Any {
        let value = [&b"\x0a\x03abc"[..], b"\x12\x06/c.tml", b"\x1a\x05x = 1"].concat();
        Any { type_url: "runtimeoptions.v1.Options".into(), value, ..Any::default() }
    }

    #[test]
    fn containerd_2_3_sends_a_message() {
        let input = params().write_to_bytes().unwrap();
        let (opts, protocol) = detect(&input, &flags(), &containerd(), Some("1.2.1")).unwrap();
        assert_eq!((protocol, opts.debug), (Protocol::Message, true));
        assert_eq!(opts.ttrpc_address, "/new.ttrpc");
        assert_eq!(opts.socket_dir.as_deref(), Some("/run/s"));
    }

    #[test]
    fn containerd_2_1_gets_json_with_and_without_options() {
        for input in [Vec::new(), options().write_to_bytes().unwrap()] {
            let (opts, protocol) = detect(&input, &flags(), &containerd(), Some("1.2.1")).unwrap();
            assert_eq!((protocol, opts.extensions.len()), (Protocol::Json, usize::from(!input.is_empty())));
            assert_eq!(opts.ttrpc_address, "/c.ttrpc");
        }
        let (_, sandbox_api) = detect(&[], &flags(), &containerd(), None).unwrap();
        assert_eq!(sandbox_api, Protocol::Json, "a bundle without a spec is containerd 2's Sandbox API");
    }

    #[test]
    fn old_engines_get_the_bare_address() {
        let crio = Environment { max_version: Some(2), ..Environment::default() };
        let ancient = Environment { max_version: None, ..containerd() };
        for (environment, oci) in [(&crio, "1.2.1"), (&ancient, "1.2.1"), (&containerd(), "1.1.0")] {
            let (_, protocol) = detect(&[], &flags(), environment, Some(oci)).unwrap();
            assert_eq!(protocol, Protocol::Bare, "{environment:?} {oci}");
        }
    }

    #[test]
    fn a_message_for_another_container_is_refused() {
        let input = BootstrapParams { instance_id: "db".into(), ..params() }.write_to_bytes().unwrap();
        let error = detect(&input, &flags(), &containerd(), None).unwrap_err();
        assert!(error.to_string().contains("k8s.io/db"), "{error}");
    }

    #[test]
    fn replies_have_the_form_that_each_engine_reads() {
        assert_eq!(Protocol::Bare.reply("unix:///s").unwrap(), b"unix:///s");
        let json: serde_json::Value =
            serde_json::from_slice(&Protocol::Json.reply("unix:///s").unwrap()).unwrap();
        assert_eq!(json, serde_json::json!({"version": 3, "address": "unix:///s", "protocol": "ttrpc"}));
        let result =
            BootstrapResult::parse_from_bytes(&Protocol::Message.reply("unix:///s").unwrap()).unwrap();
        assert_eq!((result.version, result.address.as_str()), (3, "unix:///s"));
    }

    #[test]
    fn runtime_options_are_read_field_by_field() {
        let read = runtime_options(&options()).unwrap();
        assert_eq!(read.config_path.as_deref(), Some("/c.tml".as_ref()));
        assert_eq!(read.config_body.as_deref(), Some("x = 1"));
        let runc = Any { type_url: "containerd.runc.v1.Options".into(), ..options() };
        assert_eq!(runtime_options(&runc).unwrap(), RuntimeOptions::default());
        let cut = Any { value: options().value[..7].to_vec(), ..options() };
        assert!(runtime_options(&cut).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_input_is_survived(input: Vec<u8>) {
            let _ = detect(&input, &flags(), &containerd(), None);
            let _ = runtime_options(&Any { value: input, ..options() });
        }
    }
}
