//! The manifest as it is written, and its way to a [`Pod`](crate::Pod).

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use crate::claims::{Claims, OfContainer, OfPod};
use crate::gpus::Resource;
use crate::limits::{Limits, Stage};
use crate::quantity::Quantity;
use crate::yaml::{self, FieldError, Node, Path, Step};
use crate::{Pod as Checked, Problem};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pod {
    metadata: Option<Metadata>,
    spec: Option<Spec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    generate_name: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    runtime_class_name: Option<String>,
    containers: Option<Vec<Container>>,
    init_containers: Option<Vec<Container>>,
    resources: Option<Resources>,
    resource_claims: Option<Vec<OfPod>>,
    host_network: Option<bool>,
    #[serde(rename = "hostPID")]
    host_pid: Option<bool>,
    #[serde(rename = "hostIPC")]
    host_ipc: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    restart_policy: Option<String>,
    resources: Option<Resources>,
}

#[derive(Debug, Deserialize)]
struct Resources {
    limits: Option<BTreeMap<String, Scalar>>,
    claims: Option<Vec<OfContainer>>,
}

/// A quantity's text: YAML makes a number of it where it looks like one.
#[derive(Debug)]
pub(crate) struct Scalar(pub(crate) String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl Visitor<'_> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a quantity, such as 2 or 500m")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar(text.to_owned()))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Scalar, E> {
        Ok(Scalar(number.to_string()))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Scalar, E> {
        Ok(Scalar(number.to_string()))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Scalar, E> {
        Ok(Scalar(yaml::number(number)))
    }
}

impl Pod {
    /// What decides the VM, from a template: `node` has `metadata` and `spec`.
    pub(crate) fn read(node: &Node, claims: &Claims) -> Result<Checked, (Path, Option<usize>, Problem)> {
        let written: Self = node
            .read()
            .map_err(|FieldError { path, line, reason }| (path, Some(line), Problem::Type(reason)))?;
        written.check(claims).map_err(|(path, problem)| (path, None, problem))
    }

    fn check(self, claims: &Claims) -> Result<Checked, (Path, Problem)> {
        let metadata = self.metadata.unwrap_or_default();
        let spec = self.spec.unwrap_or_default();
        let at = |field: &str| Path::of("spec").then(Step::Field(field.to_owned().into()));
        let shared =
            [(spec.host_network, "hostNetwork"), (spec.host_pid, "hostPID"), (spec.host_ipc, "hostIPC")];
        if let Some((_, field)) = shared.into_iter().find(|(set, _)| *set == Some(true)) {
            return Err((at(field), Problem::HostNamespace));
        }
        let containers = spec.containers.unwrap_or_default();
        if containers.is_empty() {
            return Err((at("containers"), Problem::NoContainer));
        }

        let init = spec.init_containers.unwrap_or_default();
        let claimed = init
            .iter()
            .chain(&containers)
            .filter_map(|container| container.resources.as_ref()?.claims.as_ref())
            .flatten();
        let claimed = claims.gpus(&spec.resource_claims.unwrap_or_default(), claimed);
        let claimed = claimed.map_err(|(entry, reason)| {
            let place = at("resourceClaims");
            let place = match entry {
                Some(entry) => place.then(Step::Item(entry)),
                None => place,
            };
            (place, Problem::ResourceClaims(reason))
        })?;

        let mut all = Vec::new();
        for (index, container) in init.iter().enumerate() {
            let stage = Stage::of_init(container.restart_policy.as_deref());
            let place = at("initContainers").then(Step::Item(index));
            all.push((stage, limits(container.resources.as_ref(), &place)?));
        }
        for (index, container) in containers.iter().enumerate() {
            let place = at("containers").then(Step::Item(index));
            all.push((Stage::Main, limits(container.resources.as_ref(), &place)?));
        }
        let mut sum = Limits::of_pod(&all).map_err(|problem| (at("containers"), problem))?;
        // Claims are the pod's, whichever container uses them.
        for count in claimed.values() {
            let overflow = || (at("resourceClaims"), Problem::Overflow(crate::ResourceKind::Gpus));
            sum.gpus = sum.gpus.checked_add(Quantity::of(*count)).ok_or_else(overflow)?;
        }
        // Limits of the pod itself (Kubernetes 1.34 and later) are what counts where they are given.
        let own = limits(spec.resources.as_ref(), &Path::of("spec"))?;
        for (sum, own) in [(&mut sum.cpu, own.cpu), (&mut sum.memory, own.memory)] {
            if own != Quantity::default() {
                *sum = own;
            }
        }
        Ok(Checked {
            name: metadata.name.or(metadata.generate_name).unwrap_or_default(),
            runtime_class: spec.runtime_class_name,
            annotations: metadata.annotations.unwrap_or_default(),
            limits: sum,
        })
    }
}

fn limits(resources: Option<&Resources>, place: &Path) -> Result<Limits, (Path, Problem)> {
    let mut limits = Limits::default();
    for (name, Scalar(value)) in
        resources.and_then(|resources| resources.limits.as_ref()).into_iter().flatten()
    {
        let fault = |problem| {
            let at = place.join(&Path::of("resources.limits")).then(Step::Field(name.clone().into()));
            (at, problem)
        };
        let quantity = || {
            let bad = |source| fault(Problem::Quantity { value: shorten(value), source });
            value.parse::<Quantity>().map_err(bad)
        };
        match name.as_str() {
            "cpu" => limits.cpu = quantity()?,
            "memory" => limits.memory = quantity()?,
            name => match Resource::of(name) {
                Resource::Gpu => {
                    let count = quantity()?;
                    if !count.is_whole() {
                        return Err(fault(Problem::Fraction(shorten(value))));
                    }
                    let overflow = Problem::Overflow(crate::ResourceKind::Gpus);
                    limits.gpus = limits.gpus.checked_add(count).ok_or_else(|| fault(overflow))?;
                }
                // None of it is nothing.
                Resource::Refused(reason) if quantity()? != Quantity::default() => {
                    return Err(fault(Problem::Resource(reason)));
                }
                // The switches of a board of eight come as a resource of their own.
                Resource::Refused(_) | Resource::Switch | Resource::Other => {}
            },
        }
    }
    Ok(limits)
}

fn shorten(text: &str) -> String {
    text.chars().take(100).collect()
}
