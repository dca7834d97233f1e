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
mod fields;
mod image;
mod mounts;
mod order;
mod rego;
mod signals;
mod text;
mod user;

use std::collections::{BTreeMap, BTreeSet};

use pod_manifest::spec::PodSpec;
use pod_manifest::{Names, escape};
use serde_json::json;
use verity::RootHash;

pub use error::{Faults, PolicyError};
pub use fields::Objects;
pub use image::{Image, ImageConfig};
pub use mounts::is_on_scratch;

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
    /// Whether the guest pulls the images by itself: then it takes no layers of them, and otherwise it pulls none.
    pub pulled: bool,
    /// ConfigMaps and Secrets that are known.
    pub objects: Objects,
    /// Model volumes that the pod's initdata declares, by the names of the pod's volumes: their images' root hashes.
    pub volumes: BTreeMap<String, RootHash>,
}

/// Writes the policy of a pod.
///
/// # Errors
/// [`Faults`]: all that the manifest does not say of what would run, and all that it asks for and the shim refuses.
pub fn generate(pod: &PodSpec, options: &Options) -> Result<String, Faults> {
    let spec = &pod.spec;
    let mut faults = Vec::new();
    let all = || spec.init_containers.iter().chain(&spec.containers);
    let is_foreign = |name: &&String| all().all(|container| container.name != **name);
    faults.extend(options.images.keys().filter(is_foreign).cloned().map(PolicyError::NoSuchContainer));
    let shared = [(spec.host_network, "hostNetwork"), (spec.host_pid, "hostPID"), (spec.host_ipc, "hostIPC")];
    let shared = shared.into_iter().filter(|(set, _)| *set == Some(true));
    faults.extend(shared.map(|(_, field)| PolicyError::HostNamespace(field)));
    let mut expected = BTreeMap::new();
    expected.insert(container::PAUSE.to_owned(), container::sandbox(spec));
    let mut copied = mounts::Copied::default();
    for (container, turn) in order::turns(spec) {
        let name = &container.name;
        if !is_label(name) || expected.contains_key(name) {
            faults.push(PolicyError::Name(name.clone()));
            continue;
        }
        let Some(image) = options.images.get(name) else {
            faults.push(PolicyError::NoImage(name.clone()));
            continue;
        };
        let around = container::Around {
            pod,
            objects: &options.objects,
            models: &options.volumes,
            pulled: options.pulled,
            turn: &turn,
        };
        let one = container::expected(container, around, image, &mut copied, &mut faults);
        expected.insert(name.clone(), one);
    }
    if !faults.is_empty() {
        return Err(Faults(faults));
    }

    let fs_group = spec.security_context.fs_group.filter(|group| *group != 0);
    let named = json!({
        "name_pattern": pod.names.pattern(),
        "namespace": pod.metadata.namespace,
        "hostname_pattern": hostname(pod),
        "exec": options.exec == Permission::Granted,
        "logs": options.logs == Permission::Granted,
        "empty_dir_options": fs_group.map(|group| format!("fsgid={group}")).into_iter().collect::<Vec<_>>(),
        "files": copied.files,
        "trees": copied.trees,
        "volumes": copied.volumes,
        "file_users": copied.users.into_iter().chain([0]).collect::<BTreeSet<_>>(),
        "file_groups": fs_group.into_iter().chain([0]).collect::<BTreeSet<_>>(),
    });
    // For a shim that wants to say what differs before the guest refuses it, and to know which volumes the guest takes.
    let layered = options.images.iter().filter(|_| !options.pulled);
    let notes = layered.flat_map(|(container, image)| {
        image.layers.iter().map(move |root| format!("# layer {container} {root}\n"))
    });
    let volumes = expected.iter().flat_map(|(container, of)| {
        of.volumes().into_iter().map(move |(place, like)| format!("# volume {container} {like} {place}\n"))
    });
    let notes = notes.chain(volumes).collect::<String>();
    Ok(format!(
        "package agent_policy\n\nimport rego.v1\n\npod := {}\n\nexpected := {}\n\n{}\n{notes}",
        rego::term(&named),
        rego::term(&json!(expected)),
        RULES.join("\n"),
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

/// A pattern of the host name: the manifest's, or the pod's name, as kubelet cuts it at 63 letters, and with the name of its
/// domain where the manifest wants that (`GeneratePodHostNameAndDomain`).
fn hostname(pod: &PodSpec) -> String {
    let spec = &pod.spec;
    let domain = if spec.set_hostname_as_fqdn == Some(true) { r"(\.[a-z0-9-]+)+" } else { "" };
    let cut = |name: &str| {
        let name: String = name.chars().take(63).collect();
        escape(name.trim_end_matches(['-', '.']))
    };
    // A StatefulSet gives each of its pods the pod's name as its host name.
    let own =
        spec.hostname.as_deref().filter(|own| !own.is_empty() && pod.metadata.name.as_deref() != Some(*own));
    match (own, &pod.names) {
        (Some(name), _) => format!("^{}{domain}$", cut(name)),
        (None, Names::Exact(name)) => format!("^{}{domain}$", cut(name)),
        (None, Names::Pattern(pattern)) => format!("{}{domain}$", pattern.trim_end_matches('$')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_called_as_its_pod_unless_the_manifest_says_otherwise() {
        let pod = |names: Names, own: Option<&str>, fqdn| {
            let mut pod = PodSpec { names, ..PodSpec::default() };
            pod.spec.hostname = own.map(str::to_owned);
            pod.spec.set_hostname_as_fqdn = fqdn;
            hostname(&pod)
        };
        let exact = |name: &str| Names::Exact(name.to_owned());
        let pattern = || Names::Pattern("^web-[0-9]+$".to_owned());
        assert_eq!(pod(exact("web-0"), None, None), "^web-0$");
        assert_eq!(pod(exact("a.b"), None, None), r"^a\.b$");
        assert_eq!(pod(exact(&"a".repeat(80)), None, None), format!("^{}$", "a".repeat(63)));
        assert_eq!(pod(pattern(), None, None), "^web-[0-9]+$");
        assert_eq!(pod(pattern(), Some("own"), Some(true)), r"^own(\.[a-z0-9-]+)+$");
        assert_eq!(pod(pattern(), None, Some(true)), r"^web-[0-9]+(\.[a-z0-9-]+)+$");
    }
}
