//! A container's environment: what the manifest and the image set, and what kubelet and containerd add.

use std::collections::BTreeMap;

use pod_manifest::spec::{Container, Spec};

use crate::command::expand;
use crate::{ImageConfig, PolicyError};

/// containerd's, where an image has none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is known of a variable's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Known {
    /// The value.
    Value(String),
    /// It has one that is not in the manifest.
    Unknown,
    /// No such variable.
    Absent,
}

/// A container's environment, as far as the manifest tells.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    /// The manifest's variables; without a value where it comes from elsewhere.
    own: BTreeMap<String, Option<String>>,
    /// The image's that the manifest does not replace, as `NAME=value`.
    image: Vec<String>,
}

impl Environment {
    pub(crate) fn of(container: &Container, image: &ImageConfig) -> Result<Self, PolicyError> {
        if !container.env_from.is_empty() {
            return Err(PolicyError::EnvFrom(container.name.clone()));
        }
        let mut environment = Self::default();
        for variable in &container.env {
            let value = match (&variable.value, variable.value_from) {
                (_, Some(_)) => None,
                (value, None) => {
                    let value = value.as_deref().unwrap_or_default();
                    // Those before it, as kubelet does.
                    let expanded = expand(value, &|name| environment.lookup(name));
                    Some(expanded.map_err(|unknown| PolicyError::UnknownValue {
                        container: container.name.clone(),
                        field: "env",
                        variable: unknown,
                    })?)
                }
            };
            environment.own.insert(variable.name.clone(), value);
        }
        environment.image =
            image.env.iter().filter(|entry| !environment.own.contains_key(name(entry))).cloned().collect();
        Ok(environment)
    }

    /// The image's variables are no part of what kubelet puts in.
    pub(crate) fn lookup(&self, name: &str) -> Known {
        match self.own.get(name) {
            Some(Some(value)) => Known::Value(value.clone()),
            Some(None) => Known::Unknown,
            None if is_service(name) => Known::Unknown,
            None => Known::Absent,
        }
    }

    /// Entries that must be there.
    pub(crate) fn required(&self) -> Vec<String> {
        let own = self.own.iter().filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?)));
        own.chain(self.image.iter().cloned()).collect()
    }

    /// Entries that may be there.
    pub(crate) fn optional(&self) -> Vec<String> {
        let set =
            |wanted: &str| self.own.contains_key(wanted) || self.image.iter().any(|e| name(e) == wanted);
        if set("PATH") { Vec::new() } else { vec![DEFAULT_PATH.to_owned()] }
    }

    /// Names of variables with any value: from a ConfigMap, a Secret, a field.
    pub(crate) fn any_value(&self) -> Vec<String> {
        self.own.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| name.clone()).collect()
    }

    /// Whether the engine's host name stays what it is.
    pub(crate) fn has_hostname(&self) -> bool {
        !self.own.contains_key("HOSTNAME") && !self.image.iter().any(|entry| name(entry) == "HOSTNAME")
    }
}

/// A variable's name in `NAME=value`.
fn name(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

/// Whether kubelet may set the variable to tell of a service.
fn is_service(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.contains("_PORT_")
        || name.ends_with("_PORT")
}

/// The names of services in variables, as a pattern: kubelet tells of all of a namespace, and of the cluster's own in any
/// case (`pkg/kubelet/envvars`).
pub(crate) fn services(spec: &Spec) -> &'static str {
    if spec.enable_service_links == Some(false) { "KUBERNETES" } else { "[A-Z][A-Z0-9_]*?" }
}

/// Variables by which a device plugin tells of devices.
pub(crate) fn patterns(container: &Container) -> Vec<&'static str> {
    let gpus = "^(PCIDEVICE|PCI_RESOURCE)_NVIDIA_COM_[A-Za-z0-9_]+=[0-9A-Fa-f:.,]*$";
    if container.resources.gpus > 0 { vec![gpus] } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pod_manifest::spec::{Anything, EnvVar};

    fn variable(name: &str, value: &str) -> EnvVar {
        EnvVar { name: name.into(), value: Some(value.into()), value_from: None }
    }

    fn container(env: Vec<EnvVar>) -> Container {
        Container { name: "c".into(), env, ..Container::default() }
    }

    #[test]
    fn the_manifest_comes_before_the_image() {
        let image = ImageConfig { env: vec!["A=image".into(), "B=image".into()], ..ImageConfig::default() };
        let own = vec![variable("A", "own"), variable("C", "$(A)/$(D)"), variable("D", "late")];
        let environment = Environment::of(&container(own), &image).unwrap();
        assert_eq!(environment.required(), ["A=own", "C=own/$(D)", "D=late", "B=image"]);
        assert_eq!(environment.optional(), [DEFAULT_PATH]);
        assert!(environment.has_hostname());
    }

    #[test]
    fn values_from_elsewhere_are_any_but_cannot_be_put_in() {
        let secret = EnvVar { name: "KEY".into(), value: None, value_from: Some(Anything) };
        let environment = Environment::of(&container(vec![secret.clone()]), &ImageConfig::default()).unwrap();
        assert_eq!(environment.any_value(), ["KEY"]);
        let error =
            Environment::of(&container(vec![secret, variable("URL", "x$(KEY)")]), &ImageConfig::default())
                .unwrap_err();
        assert!(matches!(error, PolicyError::UnknownValue { variable, .. } if variable == "KEY"));
        let error =
            Environment::of(&container(vec![variable("URL", "$(DB_SERVICE_HOST)")]), &ImageConfig::default())
                .unwrap_err();
        assert!(matches!(error, PolicyError::UnknownValue { .. }));
    }

    #[test]
    fn names_that_are_not_in_the_manifest_are_refused() {
        let container = Container { env_from: vec![Anything], ..container(vec![]) };
        assert!(
            matches!(Environment::of(&container, &ImageConfig::default()), Err(PolicyError::EnvFrom(name)) if name == "c")
        );
    }
}
