//! A policy for kata-agent that lets the host run exactly one pod, made from the pod's manifest.
//!
//! [`generate`] writes Rego: fixed rules (`rules.rego`), and what they compare with, which is the pod's. The agent asks
//! `data.agent_policy.<request>` before it does what a request says, with the request as JSON (kata-containers 4.1.0,
//! `src/agent/policy`). Everything is refused that no rule allows.
//!
//! What a manifest does not determine is an error where the pod could be made to do something else by it (an image by
//! tag, `envFrom`, privileges), and is left open where it could not, which the rules then say.

mod command;
mod container;
mod environment;
mod error;
mod image;
mod mounts;
mod rego;

use std::collections::BTreeMap;

use pod_manifest::spec::PodSpec;
use serde_json::{Map, Value, json};

pub use error::PolicyError;
pub use image::{Image, ImageConfig, MAX_IMAGE_CONFIG};

/// The rules, the same for every pod.
const RULES: &str = include_str!("rules.rego");

/// Whether something is allowed that a manifest does not speak of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Permission {
    /// It is refused.
    #[default]
    Refused,
    /// It is allowed.
    Granted,
}

/// What the policy allows beside the pod itself.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Any command in a container (`kubectl exec`). The manifest's probes and hooks are allowed in any case.
    pub exec: Permission,
    /// Output of containers, and their last words (`kubectl logs`).
    pub logs: Permission,
    /// Each container's image, by the container's name: what runs is in the image, and no policy without it.
    pub images: BTreeMap<String, Image>,
}

/// Writes the policy of a pod.
///
/// # Errors
/// [`PolicyError`]: the manifest does not say what would run, or asks for what the shim refuses.
pub fn generate(pod: &PodSpec, options: &Options) -> Result<String, PolicyError> {
    let (metadata, spec) = (&pod.metadata, &pod.spec);
    let all = || spec.init_containers.iter().chain(&spec.containers);
    if let Some(name) = options.images.keys().find(|name| all().all(|container| container.name != **name)) {
        return Err(PolicyError::NoSuchContainer(name.clone()));
    }
    let mut expected = Map::new();
    expected.insert(String::new(), container::sandbox());
    let mut copied = mounts::Copied::default();
    for container in all() {
        let name = &container.name;
        // The sandbox's own is called "".
        if expected.contains_key(name) {
            return Err(PolicyError::Name(name.clone()));
        }
        let image = options.images.get(name).ok_or_else(|| PolicyError::NoImage(name.clone()))?;
        if image.layers.is_empty() {
            return Err(PolicyError::NoLayers(name.clone()));
        }
        expected
            .insert(name.clone(), container::expected(container, spec, Some(&image.config), &mut copied)?);
    }

    let named = json!({
        "name": metadata.name,
        "name_prefix": metadata.generate_name.as_deref().unwrap_or_default(),
        "namespace": metadata.namespace,
        "exec": options.exec == Permission::Granted,
        "logs": options.logs == Permission::Granted,
        "empty_dir_options": match spec.security_context.fs_group {
            None | Some(0) => Vec::new(),
            Some(group) => vec![format!("fsgid={group}")],
        },
        "files": copied.files,
        "trees": copied.trees,
    });
    Ok(format!(
        "package agent_policy\n\nimport rego.v1\n\npod := {}\n\nsysctls := {}\n\nexpected := {}\n\n{RULES}",
        rego::term(&named),
        rego::term(&sysctls(spec)),
        rego::term(&Value::Object(expected))
    ))
}

/// The manifest's, and those that containerd adds (`enable_unprivileged_ports`, `enable_unprivileged_icmp`).
fn sysctls(spec: &pod_manifest::spec::Spec) -> Value {
    let usual = [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];
    let own = spec.security_context.sysctls.iter().map(|s| (s.name.as_str(), s.value.as_str()));
    Value::Object(usual.into_iter().chain(own).map(|(name, value)| (name.to_owned(), value.into())).collect())
}
