//! The two facts that `start` needs from the bundle's `config.json`.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::Deserialize;
use shared_types::cri::{Member, TwoEngines};

/// Largest `config.json` that is read, in bytes. Kubernetes' objects end at 1.5 MiB, and a spec is not much more.
pub const MAX_SPEC: u64 = 4 << 20;

/// The part of an OCI spec that `start` looks at.
#[derive(Debug, Default, Deserialize)]
pub struct Spec {
    /// Version of the OCI runtime specification that the engine writes.
    #[serde(rename = "ociVersion")]
    pub oci_version: Option<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    annotations: BTreeMap<String, String>,
}

/// Go writes an empty map as null.
fn null_is_empty<'de, D: serde::Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// A bundle that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Unreadable.
    #[error("cannot read config.json in the bundle")]
    Read(#[source] io::Error),
    /// Not an OCI spec.
    #[error("config.json in the bundle is not an OCI spec")]
    Parse(#[source] serde_json::Error),
}

impl Spec {
    /// The sandbox that the container belongs to, where the engine says so; a sandbox is its own.
    ///
    /// # Errors
    /// [`TwoEngines`].
    pub fn sandbox(&self) -> Result<Option<&str>, TwoEngines> {
        let member = Member::of(|name| self.annotations.get(name).map(String::as_str))?;
        Ok(member.and_then(|member| member.sandbox))
    }
}

/// Reads a spec.
///
/// # Errors
/// [`Error::Parse`].
pub fn parse(json: &[u8]) -> Result<Spec, Error> {
    serde_json::from_slice(json).map_err(Error::Parse)
}

/// Reads `config.json` of the working directory. A bundle without one belongs to the Sandbox API.
///
/// # Errors
/// [`Error`] when there is one and it cannot be read.
pub fn read() -> Result<Spec, Error> {
    match host_claims::files::read(Path::new("config.json"), MAX_SPEC) {
        Ok(json) => parse(&json),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Spec::default()),
        Err(error) => Err(Error::Read(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox_of(json: &str) -> Option<String> {
        serde_json::from_str::<Spec>(json).unwrap().sandbox().unwrap().map(str::to_owned)
    }

    #[test]
    fn both_engines_annotations_group() {
        assert_eq!(
            sandbox_of(
                r#"{"annotations":{"io.kubernetes.cri.container-type":"container","io.kubernetes.cri.sandbox-id":"pod"}}"#
            )
            .as_deref(),
            Some("pod")
        );
        assert_eq!(sandbox_of(&crio("container", "app", "")).as_deref(), Some("pod"));
        assert_eq!(sandbox_of(&crio("sandbox", "POD", "")), None);
    }

    fn crio(kind: &str, name: &str, more: &str) -> String {
        format!(
            r#"{{"annotations":{{"io.kubernetes.cri-o.ContainerType":"{kind}","io.kubernetes.cri-o.SandboxID":"pod",
                "io.kubernetes.container.name":"{name}"{more}}}}}"#
        )
    }

    /// CRI-O copies a pod's annotations, and into a sandbox's spec over its own.
    #[test]
    fn no_annotation_of_a_pods_author_leads_to_another_sandbox() {
        let forged = r#","io.kubernetes.cri.sandbox-id":"victim","io.kubernetes.cri-o.SandboxName":"victim""#;
        assert_eq!(sandbox_of(&crio("container", "app", forged)).as_deref(), Some("pod"));
        assert_eq!(sandbox_of(&crio("container", "POD", forged)), None);
        let both = crio("sandbox", "POD", r#","io.kubernetes.cri.container-type":"container""#);
        assert_eq!(serde_json::from_str::<Spec>(&both).unwrap().sandbox(), Err(TwoEngines));
    }

    #[test]
    fn a_plain_container_stands_alone() {
        assert_eq!(sandbox_of(r#"{"ociVersion":"1.2.0","process":{"args":["sh"]}}"#), None);
        assert_eq!(sandbox_of(r#"{"annotations":null}"#), None);
    }
}
