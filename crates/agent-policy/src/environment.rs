//! A container's environment: what the manifest and the image set, and what kubelet and containerd add.

use std::collections::BTreeMap;

use pod_manifest::escape;
use pod_manifest::spec::{Container, PodSpec, Spec};

use crate::command::expand;
use crate::text::Text;
use crate::{ImageConfig, Objects, PolicyError, fields};

/// containerd's, where an image has none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What NVIDIA's DRA driver sets to [`VOID`] in a container with its devices, whatever the image or the manifest has of it
/// (NVIDIA/k8s-dra-driver-gpu, cmd/gpu-kubelet-plugin/vfio-cdi.go). The guest's own CDI specification does the same.
const VISIBLE: &str = "NVIDIA_VISIBLE_DEVICES";
const VOID: &str = "void";

/// What is known of a variable's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Known {
    /// The value, or its shape.
    Text(Text),
    /// It has one that is not in the manifest.
    Unknown,
    /// No such variable.
    Absent,
}

/// A container's environment, as far as the manifest tells.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    /// The manifest's variables; without a value where it comes from elsewhere.
    own: BTreeMap<String, Option<Text>>,
    /// The image's, as `NAME=value`, in its order.
    image: Vec<String>,
    /// Whether the image takes containerd's usual PATH away: an entry without a value does so.
    no_path: bool,
    /// Whether kubelet tells of all services.
    services: bool,
    /// Whether the container has devices by claims.
    claims: bool,
}

impl Environment {
    pub(crate) fn of(
        container: &Container,
        pod: &PodSpec,
        objects: &Objects,
        image: &ImageConfig,
    ) -> Result<Self, PolicyError> {
        let services = pod.spec.enable_service_links != Some(false);
        let claims = !container.resources.claims.is_empty();
        let mut environment = Self { services, claims, ..Self::default() };
        for from in &container.env_from {
            let keys = objects.keys(from).ok_or_else(|| {
                let refs = [&from.config_map_ref, &from.secret_ref];
                let object = refs.into_iter().flatten().map(|of| of.name.clone()).next();
                PolicyError::EnvFrom { container: container.name.clone(), object: object.unwrap_or_default() }
            })?;
            environment.own.extend(keys);
        }
        for variable in &container.env {
            let value = match (&variable.value, &variable.value_from) {
                (_, Some(from)) => fields::value(from, pod, objects),
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
        environment.no_path = image.env.iter().any(|entry| entry == "PATH");
        environment.image = image.env.iter().filter(|entry| entry.contains('=')).cloned().collect();
        Ok(environment)
    }

    /// The image's variables are no part of what kubelet puts in.
    pub(crate) fn lookup(&self, name: &str) -> Known {
        match self.own.get(name) {
            Some(Some(value)) => Known::Text(value.clone()),
            Some(None) => Known::Unknown,
            None => match service(name) {
                // kubelet leaves the words as they are where there is no such service.
                Some(shape) if self.services || name.starts_with("KUBERNETES_") => {
                    Known::Text(Text::shape(&format!("({shape}|{})", escape(&format!("$({name})")))))
                }
                _ => Known::Absent,
            },
        }
    }

    /// Entries that must be there.
    pub(crate) fn required(&self) -> Vec<String> {
        self.exact().filter(|entry| !self.is_of_claims(entry)).collect()
    }

    fn exact(&self) -> impl Iterator<Item = String> + '_ {
        let own = self.own.iter().filter_map(|(name, value)| Some((name, value.as_ref()?.exact()?)));
        own.map(|(name, value)| format!("{name}={value}")).chain(self.of_image())
    }

    /// Whether the DRA driver may have another in its place.
    fn is_of_claims(&self, entry: &str) -> bool {
        self.claims && name(entry) == VISIBLE
    }

    /// Patterns of values by their names, which must be there.
    pub(crate) fn shapes(&self) -> BTreeMap<String, String> {
        let own = self.own.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        own.filter(|(_, value)| !value.is_plain())
            .map(|(name, value)| (name.clone(), value.pattern()))
            .collect()
    }

    /// Entries of the image that an entry after them replaces: containerd leaves both.
    pub(crate) fn replaced(&self) -> Vec<String> {
        let all = self.image.iter().enumerate();
        let replaced = all.filter(|(at, entry)| self.own.contains_key(name(entry)) || !self.is_last(*at));
        replaced.map(|(_, entry)| entry.clone()).collect()
    }

    /// Entries that may be there.
    pub(crate) fn optional(&self) -> Vec<String> {
        let set =
            |wanted: &str| self.own.contains_key(wanted) || self.image.iter().any(|e| name(e) == wanted);
        let path = (!self.no_path && !set("PATH")).then(|| DEFAULT_PATH.to_owned());
        let void = self.claims.then(|| format!("{VISIBLE}={VOID}"));
        let of_claims = self.exact().filter(|entry| self.is_of_claims(entry));
        path.into_iter().chain(void).chain(of_claims).collect()
    }

    /// Names of variables with any value: from a ConfigMap, a Secret, a field.
    pub(crate) fn any_value(&self) -> Vec<String> {
        self.own.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| name.clone()).collect()
    }

    /// Whether the engine's host name stays what it is.
    pub(crate) fn has_hostname(&self) -> bool {
        !self.own.contains_key("HOSTNAME") && !self.image.iter().any(|entry| name(entry) == "HOSTNAME")
    }

    fn of_image(&self) -> impl Iterator<Item = String> + '_ {
        let all = self.image.iter().enumerate();
        let kept = all.filter(|(at, entry)| !self.own.contains_key(name(entry)) && self.is_last(*at));
        kept.map(|(_, entry)| entry.clone())
    }

    fn is_last(&self, at: usize) -> bool {
        self.image[at + 1..].iter().all(|other| name(other) != name(&self.image[at]))
    }
}

/// A variable's name in `NAME=value`.
fn name(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

/// The shape of a variable by which kubelet tells of a service.
fn service(name: &str) -> Option<&'static str> {
    let ends = |end: &str| name.ends_with(end);
    if ends("_SERVICE_HOST") || ends("_ADDR") && name.contains("_PORT_") {
        Some("[0-9A-Fa-f.:]+")
    } else if name.contains("_SERVICE_PORT") || ends("_PORT") && name.contains("_PORT_") {
        Some("[0-9]{1,5}")
    } else if ends("_PROTO") && name.contains("_PORT_") {
        Some("(tcp|udp|sctp)")
    } else if ends("_PORT")
        || ["_TCP", "_UDP", "_SCTP"].iter().any(|end| ends(end)) && name.contains("_PORT_")
    {
        Some(r"(tcp|udp|sctp)://[0-9A-Fa-f.:\[\]]+")
    } else {
        None
    }
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
    use pod_manifest::Names;
    use pod_manifest::spec::{Devices, EnvFrom, EnvVar, FieldRef, KeyRef, ObjectRef, ValueFrom};

    fn variable(name: &str, value: &str) -> EnvVar {
        EnvVar { name: name.into(), value: Some(value.into()), value_from: None }
    }

    fn from(name: &str, from: ValueFrom) -> EnvVar {
        EnvVar { name: name.into(), value: None, value_from: Some(from) }
    }

    fn field(path: &str) -> ValueFrom {
        ValueFrom { field_ref: Some(FieldRef { field_path: path.into() }), ..ValueFrom::default() }
    }

    fn secret() -> ValueFrom {
        ValueFrom { secret_key_ref: Some(KeyRef::default()), ..ValueFrom::default() }
    }

    fn container(env: Vec<EnvVar>) -> Container {
        Container { name: "c".into(), env, ..Container::default() }
    }

    fn of(container: &Container, image: &[&str]) -> Result<Environment, PolicyError> {
        let pod = PodSpec { names: Names::Exact("web-0".into()), ..PodSpec::default() };
        let objects = Objects {
            config_maps: [("cm".to_owned(), [("MODE".to_owned(), "fast".to_owned())].into())].into(),
            secrets: [("s".to_owned(), ["TOKEN".to_owned()].into())].into(),
        };
        let image =
            ImageConfig { env: image.iter().map(ToString::to_string).collect(), ..ImageConfig::default() };
        Environment::of(container, &pod, &objects, &image)
    }

    #[test]
    fn the_manifest_comes_before_the_image() {
        let own = vec![variable("A", "own"), variable("C", "$(A)/$(D)"), variable("D", "late")];
        let environment = of(&container(own), &["A=image", "B=first", "B=image", "odd"]).unwrap();
        assert_eq!(environment.required(), ["A=own", "C=own/$(D)", "D=late", "B=image"]);
        assert_eq!(environment.replaced(), ["A=image", "B=first"]);
        assert_eq!(environment.optional(), [DEFAULT_PATH]);
        assert!(environment.has_hostname());
        assert!(
            of(&container(vec![]), &["PATH"]).unwrap().optional().is_empty(),
            "it takes the usual one away"
        );
    }

    #[test]
    fn what_the_dra_driver_replaces_may_be_what_it_was() {
        let with = |devices: Devices, own: Vec<EnvVar>| Container { resources: devices, ..container(own) };
        let claims = || Devices { claims: vec![Default::default()], ..Devices::default() };
        let image = ["NVIDIA_VISIBLE_DEVICES=all", "A=image"];
        let environment = of(&with(claims(), vec![]), &image).unwrap();
        assert_eq!(environment.required(), ["A=image"]);
        assert_eq!(
            environment.optional(),
            [DEFAULT_PATH, "NVIDIA_VISIBLE_DEVICES=void", "NVIDIA_VISIBLE_DEVICES=all"]
        );
        let environment = of(&with(claims(), vec![variable(VISIBLE, "0")]), &image).unwrap();
        assert_eq!(environment.required(), ["A=image"]);
        assert_eq!(environment.replaced(), ["NVIDIA_VISIBLE_DEVICES=all"]);
        let environment = of(&with(Devices::default(), vec![]), &image).unwrap();
        assert_eq!(environment.required(), image);
        assert_eq!(environment.optional(), [DEFAULT_PATH]);
    }

    #[test]
    fn values_from_elsewhere_are_any_but_cannot_be_put_in() {
        let environment = of(&container(vec![from("KEY", secret())]), &[]).unwrap();
        assert_eq!(environment.any_value(), ["KEY"]);
        let error = of(&container(vec![from("KEY", secret()), variable("URL", "x$(KEY)")]), &[]).unwrap_err();
        assert!(matches!(error, PolicyError::UnknownValue { variable, .. } if variable == "KEY"));
    }

    #[test]
    fn fields_of_the_pod_and_services_are_known_by_their_shape() {
        let env = vec![
            from("NAME", field("metadata.name")),
            from("IP", field("status.podIP")),
            variable("URL", "http://$(IP):80/$(NAME)"),
            variable("DB", "$(DB_SERVICE_HOST)"),
        ];
        let environment = of(&container(env), &[]).unwrap();
        assert_eq!(environment.required(), ["NAME=web-0"]);
        let shapes = environment.shapes();
        assert_eq!(shapes["URL"], r"^http://[0-9A-Fa-f.:]+:80/web-0$");
        assert_eq!(shapes["DB"], r"^([0-9A-Fa-f.:]+|\$\(DB_SERVICE_HOST\))$");
        assert_eq!(shapes.len(), 3);
    }

    #[test]
    fn objects_beside_the_pod_give_names_and_a_config_maps_values() {
        let object = |name: &str| Some(ObjectRef { name: name.into(), optional: None });
        let all = vec![
            EnvFrom { config_map_ref: object("cm"), prefix: "X_".into(), ..EnvFrom::default() },
            EnvFrom { secret_ref: object("s"), ..EnvFrom::default() },
        ];
        let with = |env_from| Container { env_from, ..container(vec![variable("Y", "$(X_MODE)")]) };
        let environment = of(&with(all), &[]).unwrap();
        assert_eq!(environment.required(), ["X_MODE=fast", "Y=fast"]);
        assert_eq!(environment.any_value(), ["TOKEN"]);
        let other = vec![EnvFrom { secret_ref: object("other"), ..EnvFrom::default() }];
        let error = of(&with(other), &[]).unwrap_err();
        assert!(
            matches!(error, PolicyError::EnvFrom { container, object } if (&*container, &*object) == ("c", "other"))
        );
    }
}
