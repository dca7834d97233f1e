//! A policy for kata-agent that lets the host run exactly one pod, made from the pod's manifest.
//!
//! [`generate`] writes Rego: fixed rules (`rules/`), and what they compare with, which is the pod's. The agent asks
//! `data.agent_policy.<request>` before it does what a request says, with the request as JSON (kata-containers 4.1.0,
//! `src/agent/policy`). Everything is refused that no rule allows.
//!
//! What manifest and image do not determine is an error where the pod could be made to do something else by it (an image
//! by tag, `envFrom`, privileges), and is left open where it could not, which the rules then say.

mod capabilities;
mod command;
mod container;
mod environment;
mod error;
mod image;
mod mounts;
mod order;
mod rego;
mod signals;
mod user;

use std::collections::{BTreeMap, BTreeSet};

use pod_manifest::spec::{Metadata, PodSpec, Spec};
use serde_json::json;

pub use error::PolicyError;
pub use image::{Image, ImageConfig, MAX_IMAGE_CONFIG};

/// The rules, the same for every pod, one idea each.
const RULES: [&str; 14] = [
    include_str!("rules/requests.rego"),
    include_str!("rules/state.rego"),
    include_str!("rules/sandbox.rego"),
    include_str!("rules/network.rego"),
    include_str!("rules/container.rego"),
    include_str!("rules/annotations.rego"),
    include_str!("rules/process.rego"),
    include_str!("rules/linux.rego"),
    include_str!("rules/seccomp.rego"),
    include_str!("rules/mounts.rego"),
    include_str!("rules/storages.rego"),
    include_str!("rules/devices.rego"),
    include_str!("rules/files.rego"),
    include_str!("rules/commands.rego"),
];

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
    let shared = [(spec.host_network, "hostNetwork"), (spec.host_pid, "hostPID"), (spec.host_ipc, "hostIPC")];
    if let Some((_, field)) = shared.into_iter().find(|(set, _)| *set == Some(true)) {
        return Err(PolicyError::HostNamespace(field));
    }
    let mut expected = BTreeMap::new();
    expected.insert(container::PAUSE.to_owned(), container::sandbox(spec));
    let mut copied = mounts::Copied::default();
    for (container, turn) in order::turns(spec) {
        let name = &container.name;
        if !is_label(name) || expected.contains_key(name) {
            return Err(PolicyError::Name(name.clone()));
        }
        let image = options.images.get(name).ok_or_else(|| PolicyError::NoImage(name.clone()))?;
        expected.insert(name.clone(), container::expected(container, spec, image, &turn, &mut copied)?);
    }

    let fs_group = spec.security_context.fs_group.filter(|group| *group != 0);
    let (hostname, hostname_pattern) = hostname(&pod.metadata, spec);
    let named = json!({
        "name": metadata.name,
        "name_prefix": metadata.generate_name.as_deref().unwrap_or_default(),
        "namespace": metadata.namespace,
        "hostname": hostname,
        "hostname_pattern": hostname_pattern,
        "exec": options.exec == Permission::Granted,
        "logs": options.logs == Permission::Granted,
        "empty_dir_options": fs_group.map(|group| format!("fsgid={group}")).into_iter().collect::<Vec<_>>(),
        "files": copied.files,
        "trees": copied.trees,
        "file_users": copied.users.into_iter().chain([0]).collect::<BTreeSet<_>>(),
        "file_groups": fs_group.into_iter().chain([0]).collect::<BTreeSet<_>>(),
    });
    // For a shim that wants to say what differs before the guest refuses it.
    let notes = options.images.iter().flat_map(|(container, image)| {
        image.layers.iter().map(move |root| format!("# layer {container} {root}\n"))
    });
    Ok(format!(
        "package agent_policy\n\nimport rego.v1\n\npod := {}\n\nexpected := {}\n\n{}\n{}",
        rego::term(&named),
        rego::term(&json!(expected)),
        RULES.join("\n"),
        notes.collect::<String>()
    ))
}

/// A name as Kubernetes wants it; the rules make it a key of what they remember.
fn is_label(name: &str) -> bool {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(letter)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// The host name where it is known, and a pattern where only its beginning is: the cluster makes up the pod's name, or
/// its domain (kubelet, `GeneratePodHostNameAndDomain`, which cuts a name at 63 letters).
fn hostname(metadata: &Metadata, spec: &Spec) -> (Option<String>, String) {
    let escaped = |text: &str| text.replace('.', r"\.");
    let own = spec.hostname.as_ref().filter(|name| !name.is_empty()).or(metadata.name.as_ref());
    let Some(name) = own else {
        let prefix = metadata.generate_name.as_deref().unwrap_or_default();
        return (None, format!("^{}[a-z0-9.-]{{1,63}}$", escaped(prefix)));
    };
    let name: String = name.chars().take(63).collect();
    let name = name.trim_end_matches(['-', '.']);
    let pattern = match spec.set_hostname_as_fqdn {
        Some(true) => format!(r"^{}(\.[a-z0-9-]+)+$", escaped(name)),
        _ => String::new(),
    };
    (Some(name.to_owned()), pattern)
}
