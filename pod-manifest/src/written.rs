//! The manifest as it is written, and its way to a [`Pod`](crate::Pod).

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use crate::limits::{Limits, Stage};
use crate::quantity::Quantity;
use crate::{ManifestError, Pod as Checked};

/// Above any pod's, and little enough for a parser that recurses.
const MAX_DEPTH: usize = 64;
/// Nodes that anchors may keep for aliases to repeat: an alias of aliases costs no text.
const MAX_REPEATED: usize = 10_000;
/// Resources of this vendor are GPUs, unless their name says otherwise.
pub(crate) const VENDOR: &str = "nvidia.com/";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pod {
    api_version: String,
    kind: String,
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
    resource_claims: Option<Vec<de::IgnoredAny>>,
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
        Ok(Scalar(number.to_string()))
    }
}

impl Pod {
    pub(crate) fn read(text: &str) -> Result<Self, ManifestError> {
        let mut budget = serde_saphyr::Budget::default();
        budget.max_depth = MAX_DEPTH;
        budget.max_recorded_anchor_events = MAX_REPEATED;
        let options = serde_saphyr::options! { budget: Some(budget), with_snippet: false };
        let mut documents: Vec<Self> = serde_saphyr::from_multiple_with_options(text, options)
            .map_err(|error| ManifestError::Yaml(error.to_string()))?;
        match (documents.len(), documents.pop()) {
            (1, Some(pod)) => Ok(pod),
            (count, _) => Err(ManifestError::Documents(count)),
        }
    }
}

impl TryFrom<Pod> for Checked {
    type Error = ManifestError;

    fn try_from(written: Pod) -> Result<Self, ManifestError> {
        if written.kind != "Pod" {
            return Err(ManifestError::Kind(shorten(&written.kind)));
        }
        if written.api_version != "v1" {
            return Err(ManifestError::ApiVersion(shorten(&written.api_version)));
        }
        let metadata = written.metadata.unwrap_or_default();
        let spec = written.spec.unwrap_or_default();
        if spec.resource_claims.is_some_and(|claims| !claims.is_empty()) {
            return Err(ManifestError::ResourceClaims);
        }
        let containers = spec.containers.unwrap_or_default();
        if containers.is_empty() {
            return Err(ManifestError::NoContainer);
        }

        let mut all = Vec::new();
        for (index, container) in spec.init_containers.unwrap_or_default().iter().enumerate() {
            let sidecar = container.restart_policy.as_deref() == Some("Always");
            let stage = if sidecar { Stage::Sidecar } else { Stage::Init };
            all.push((
                stage,
                limits(container.resources.as_ref(), &format!("spec.initContainers[{index}]"))?,
            ));
        }
        for (index, container) in containers.iter().enumerate() {
            all.push((
                Stage::Main,
                limits(container.resources.as_ref(), &format!("spec.containers[{index}]"))?,
            ));
        }
        let mut sum = Limits::of_pod(&all)?;
        // Limits of the pod itself (Kubernetes 1.34 and later) are what counts where they are given.
        let own = limits(spec.resources.as_ref(), "spec")?;
        for (sum, own) in [(&mut sum.cpu, own.cpu), (&mut sum.memory, own.memory)] {
            if own != Quantity::default() {
                *sum = own;
            }
        }
        Ok(Self {
            name: metadata.name.or(metadata.generate_name).unwrap_or_default(),
            runtime_class: spec.runtime_class_name,
            annotations: metadata.annotations.unwrap_or_default(),
            limits: sum,
        })
    }
}

fn limits(resources: Option<&Resources>, path: &str) -> Result<Limits, ManifestError> {
    let mut limits = Limits::default();
    for (name, Scalar(value)) in
        resources.and_then(|resources| resources.limits.as_ref()).into_iter().flatten()
    {
        let path = || format!("{path}.resources.limits[{:?}]", shorten(name));
        let quantity = || {
            value.parse().map_err(|source| ManifestError::Quantity {
                path: path(),
                value: shorten(value),
                source,
            })
        };
        match name.as_str() {
            "cpu" => limits.cpu = quantity()?,
            "memory" => limits.memory = quantity()?,
            name => {
                let Some(resource) = name.strip_prefix(VENDOR) else { continue };
                // The switches of a board of eight come as a resource of their own.
                if is_switch(resource) {
                    continue;
                }
                if resource.starts_with("mig-") {
                    return Err(ManifestError::PartOfGpu { path: path() });
                }
                let count: Quantity = quantity()?;
                if !count.is_whole() {
                    return Err(ManifestError::Fraction { path: path(), value: shorten(value) });
                }
                let kind = crate::ResourceKind::Gpus;
                limits.gpus = limits.gpus.checked_add(count).ok_or(ManifestError::Overflow(kind))?;
            }
        }
    }
    Ok(limits)
}

/// Whether a resource of the vendor's is a switch.
pub(crate) fn is_switch(resource: &str) -> bool {
    resource.to_ascii_lowercase().contains("nvswitch")
}

fn shorten(text: &str) -> String {
    text.chars().take(100).collect()
}
