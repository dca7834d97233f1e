//! Values that kubelet finds elsewhere: in fields of the pod, in ConfigMaps and Secrets.

use std::collections::{BTreeMap, BTreeSet};

use pod_manifest::Names;
use pod_manifest::spec::{EnvFrom, PodSpec, ValueFrom};

use crate::text::Text;

const WORD: &str = "[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?";
const ADDRESS: &str = "[0-9A-Fa-f.:]+";
const ADDRESSES: &str = "[0-9A-Fa-f.:,]+";
/// What is the pod's initdata cannot be in its own policy.
const INITDATA: &str = "io.katacontainers.config.hypervisor.cc_init_data";

/// Objects that were given beside the pod, by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Objects {
    /// ConfigMaps with their keys and values; the policy pins these.
    pub config_maps: BTreeMap<String, BTreeMap<String, String>>,
    /// Secrets with the names of their keys; a value goes into no policy.
    pub secrets: BTreeMap<String, BTreeSet<String>>,
}

impl Objects {
    /// The variables of an `envFrom`, with their values as far as these are known; none where the object is not.
    pub(crate) fn keys(&self, from: &EnvFrom) -> Option<Vec<(String, Option<Text>)>> {
        let named = |name: &String| format!("{}{name}", from.prefix);
        if let Some(map) = &from.config_map_ref {
            let keys = self.config_maps.get(&map.name)?.iter();
            return Some(keys.map(|(name, value)| (named(name), Some(Text::plain(value)))).collect());
        }
        let secret = from.secret_ref.as_ref()?;
        Some(self.secrets.get(&secret.name)?.iter().map(|name| (named(name), None)).collect())
    }
}

/// The value or its shape; none where it may be any.
pub(crate) fn value(from: &ValueFrom, pod: &PodSpec, objects: &Objects) -> Option<Text> {
    if from.resource_field_ref.is_some() {
        return Some(Text::shape("[0-9]{1,20}"));
    }
    if let Some(key) = &from.config_map_key_ref {
        let value = objects.config_maps.get(&key.name)?.get(&key.key)?;
        return Some(Text::plain(value));
    }
    field(&from.field_ref.as_ref()?.field_path, pod)
}

/// As kubelet reads them (`pkg/fieldpath`, `pkg/kubelet/kubelet_pods.go`).
fn field(path: &str, pod: &PodSpec) -> Option<Text> {
    let metadata = &pod.metadata;
    if let Some(key) = subscript(path, "metadata.labels") {
        let label = metadata.labels.get(key).map(|label| Text::plain(label));
        return Some(label.unwrap_or_else(|| Text::shape("[A-Za-z0-9._-]{0,63}")));
    }
    if let Some(key) = subscript(path, "metadata.annotations") {
        let known = metadata.annotations.get(key).filter(|_| key != INITDATA);
        let index = (key == "batch.kubernetes.io/job-completion-index").then(|| Text::shape("[0-9]{0,10}"));
        return known.map(|value| Text::plain(value)).or(index);
    }
    Some(match path {
        "metadata.name" => match &pod.names {
            Names::Exact(name) => Text::plain(name),
            Names::Pattern(pattern) => Text::shape(pattern.trim_start_matches('^').trim_end_matches('$')),
        },
        "metadata.namespace" => match &metadata.namespace {
            Some(namespace) => Text::plain(namespace),
            None => Text::shape(WORD),
        },
        "metadata.uid" => Text::shape("[0-9A-Za-z-]{1,64}"),
        "spec.nodeName" => Text::shape(WORD),
        "spec.serviceAccountName" => {
            let name = pod.spec.service_account_name.as_deref().filter(|name| !name.is_empty());
            Text::plain(name.unwrap_or("default"))
        }
        "status.hostIP" | "status.podIP" => Text::shape(ADDRESS),
        "status.hostIPs" | "status.podIPs" => Text::shape(ADDRESSES),
        _ => return None,
    })
}

/// The key in `metadata.labels['key']`.
fn subscript<'a>(path: &'a str, map: &str) -> Option<&'a str> {
    path.strip_prefix(map)?.strip_prefix("['")?.strip_suffix("']")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_values_or_shapes() {
        let mut pod = PodSpec { names: Names::Pattern("^web-[0-9]+$".into()), ..PodSpec::default() };
        pod.metadata.labels.insert("app".into(), "web".into());
        pod.metadata.annotations.insert(INITDATA.into(), "H4sI".into());
        let pattern = |path: &str| field(path, &pod).map(|text| text.pattern());
        for (path, expected) in [
            ("metadata.name", "^web-[0-9]+$"),
            ("metadata.labels['app']", "^web$"),
            ("metadata.labels['pod-template-hash']", "^[A-Za-z0-9._-]{0,63}$"),
            ("spec.serviceAccountName", "^default$"),
            ("status.podIPs", "^[0-9A-Fa-f.:,]+$"),
            ("metadata.annotations['batch.kubernetes.io/job-completion-index']", "^[0-9]{0,10}$"),
        ] {
            assert_eq!(pattern(path).as_deref(), Some(expected), "{path}");
        }
        for path in [&format!("metadata.annotations['{INITDATA}']"), "metadata.annotations['x']", "spec.new"]
        {
            assert_eq!(pattern(path), None, "{path}");
        }
    }
}
