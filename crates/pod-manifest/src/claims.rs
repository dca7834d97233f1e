//! Dynamic resource allocation: how many GPUs a pod's claims are. The objects `ResourceClaim` and `ResourceClaimTemplate` are
//! of the group `resource.k8s.io` (v1, and the betas before it, whose requests have no `exactly`); the device classes are those
//! of NVIDIA's DRA driver. They are found in the text that has the pod.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::yaml::{self, Node};

/// The whole GPUs' classes: for drivers of the host's kernel and for VFIO.
const GPUS: [&str; 2] = ["gpu.nvidia.com", "vfio.gpu.nvidia.com"];
/// Parts of GPUs.
const PART: &str = "mig.nvidia.com";
/// More devices are in no request (Kubernetes allocates 32 to a claim at most).
const MAX_COUNT: u32 = 1024;

/// The claims that a text describes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Claims(BTreeMap<(String, String), Result<Vec<Request>, String>>);

/// One request of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Request {
    name: String,
    /// How many GPUs, or why that cannot be told.
    gpus: Result<u32, String>,
}

#[derive(Debug, Deserialize)]
struct Object {
    spec: Spec,
}

#[derive(Debug, Deserialize)]
struct Spec {
    devices: Option<Devices>,
    /// Of a template.
    spec: Option<Box<Spec>>,
}

#[derive(Debug, Deserialize)]
struct Devices {
    requests: Option<Vec<Written>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    name: String,
    exactly: Option<Exact>,
    first_available: Option<Vec<serde::de::IgnoredAny>>,
    #[serde(flatten)]
    before: Exact,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Exact {
    device_class_name: Option<String>,
    count: Option<u32>,
    allocation_mode: Option<String>,
}

/// An entry of a pod's `resourceClaims`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OfPod {
    name: String,
    resource_claim_name: Option<String>,
    resource_claim_template_name: Option<String>,
}

/// An entry of a container's `resources.claims`: all of a claim, or one request of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct OfContainer {
    name: String,
    request: Option<String>,
}

/// One request of one claim: what is in several containers is there once.
pub(crate) type Device = (String, String);

impl Claims {
    /// All claims and templates of claims in a text. What is no such object is passed over.
    pub(crate) fn of(text: &str) -> Self {
        let mut found = BTreeMap::new();
        // Reading a whole text for nothing is spared.
        if text.contains("ResourceClaim") {
            for root in yaml::documents(text).flatten() {
                let items = root.get("items").map(Node::items).unwrap_or_default().to_vec();
                for object in items.iter().chain([&root]) {
                    let word = |node: Option<&Node>| node.and_then(Node::text).unwrap_or_default().to_owned();
                    let kind = word(object.get("kind"));
                    if ["ResourceClaim", "ResourceClaimTemplate"].contains(&kind.as_str()) {
                        let name = word(object.get("metadata").and_then(|metadata| metadata.get("name")));
                        found.insert((kind, name), requests(object));
                    }
                }
            }
        }
        Self(found)
    }

    /// The GPUs that containers have by claims: for each of its requests how many.
    ///
    /// # Errors
    /// Which entry of `resourceClaims` cannot be counted, and why.
    pub(crate) fn gpus<'a>(
        &self,
        of_pod: &[OfPod],
        of_containers: impl IntoIterator<Item = &'a OfContainer>,
    ) -> Result<BTreeMap<Device, u32>, (Option<usize>, String)> {
        let mut all = BTreeMap::new();
        for wanted in of_containers {
            let place = of_pod.iter().position(|claim| claim.name == wanted.name);
            let fault = |reason: String| (place, reason);
            let claim = place.and_then(|at| of_pod.get(at)).ok_or_else(|| {
                fault(format!("a container uses the claim {:?}, which the pod has not", wanted.name))
            })?;
            let (kind, name) = match (&claim.resource_claim_name, &claim.resource_claim_template_name) {
                (Some(name), None) => ("ResourceClaim", name),
                (None, Some(name)) => ("ResourceClaimTemplate", name),
                _ => {
                    return Err(fault(
                        "it has neither or both of resourceClaimName and resourceClaimTemplateName"
                            .to_owned(),
                    ));
                }
            };
            let found = self.0.get(&(kind.to_owned(), name.clone())).ok_or_else(|| {
                fault(format!(
                    "the {kind} {name}, which says how many GPUs it is, is not in this file: put it there"
                ))
            })?;
            let requests = found.as_ref().map_err(|reason| fault(format!("{kind} {name}: {reason}")))?;
            // One claim under two names is one.
            let key = if kind == "ResourceClaim" { format!("/{name}") } else { claim.name.clone() };
            let ours = |request: &&Request| wanted.request.as_ref().is_none_or(|only| *only == request.name);
            let mut any = false;
            for request in requests.iter().filter(ours) {
                any = true;
                let gpus = request.gpus.clone().map_err(|reason| {
                    fault(format!("{kind} {name}, request {:?}: {reason}", request.name))
                })?;
                all.insert((key.clone(), request.name.clone()), gpus);
            }
            if !any {
                let only = wanted.request.as_deref().unwrap_or_default();
                return Err(fault(format!("{kind} {name} has no request {only:?}")));
            }
        }
        Ok(all)
    }
}

fn requests(object: &Node) -> Result<Vec<Request>, String> {
    let read: Object = object.read().map_err(|error| error.reason)?;
    let spec = read.spec.spec.map_or(read.spec.devices, |inner| inner.devices);
    let written = spec.and_then(|devices| devices.requests).unwrap_or_default();
    Ok(written.into_iter().map(|one| Request { gpus: gpus(&one), name: one.name }).collect())
}

fn gpus(request: &Written) -> Result<u32, String> {
    if request.first_available.is_some() {
        return Err("of several alternatives (firstAvailable) it is not known which one the pod gets, and its policy \
                    must say: ask for one exactly"
            .to_owned());
    }
    let exact = request.exactly.as_ref().unwrap_or(&request.before);
    let class = exact.device_class_name.as_deref().unwrap_or_default();
    if class == PART {
        return Err(
            "a part of a GPU; a VM gets whole GPUs: ask for the device class gpu.nvidia.com".to_owned()
        );
    }
    if !GPUS.contains(&class) {
        return Err(format!(
            "the device class {class:?} is not known to be of whole GPUs: ask for gpu.nvidia.com or vfio.gpu.nvidia.com"
        ));
    }
    if exact.allocation_mode.as_deref().is_some_and(|mode| mode != "ExactCount") {
        return Err("with allocationMode All the number of GPUs is the node's: give a count".to_owned());
    }
    match exact.count.unwrap_or(1) {
        count @ 1..=MAX_COUNT => Ok(count),
        count => Err(format!("{count} is no number of GPUs")),
    }
}

#[cfg(test)]
mod tests {
    use crate::spec::PodSpec;
    use crate::{ManifestError, Pod};

    /// A claim of two GPUs, one of one GPU by the beta's form, and a pod of these lines.
    fn manifest(claims: &str, containers: &str) -> String {
        format!(
            "apiVersion: resource.k8s.io/v1\nkind: ResourceClaimTemplate\nmetadata: {{name: two}}\nspec:\n  spec:\n    devices:\n      \
             requests:\n      - name: gpus\n        exactly: {{deviceClassName: vfio.gpu.nvidia.com, count: 2}}\n      \
             - name: more\n        exactly: {{deviceClassName: gpu.nvidia.com}}\n---\n\
             apiVersion: resource.k8s.io/v1beta1\nkind: ResourceClaim\nmetadata: {{name: one}}\nspec:\n  devices:\n    requests:\n    \
             - {{name: gpu, deviceClassName: gpu.nvidia.com}}\n    - {{name: part, deviceClassName: mig.nvidia.com}}\n    \
             - {{name: all, deviceClassName: gpu.nvidia.com, allocationMode: All}}\n    - {{name: other, deviceClassName: nic.example.com}}\n    \
             - {{name: either, firstAvailable: [{{name: a}}]}}\n    - {{name: none, deviceClassName: gpu.nvidia.com, count: 0}}\n---\n\
             apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec:\n  resourceClaims: [{claims}]\n  containers:\n{containers}"
        )
    }

    fn container(name: &str, claims: &str) -> String {
        format!(
            "  - {{name: {name}, image: i, resources: {{claims: [{claims}], limits: {{nvidia.com/pgpu: 1}}}}}}\n"
        )
    }

    const TWO: &str = "{name: a, resourceClaimTemplateName: two}";
    const ONE: &str = "{name: b, resourceClaimName: one}";

    fn count(text: &str) -> (u128, Vec<u32>) {
        let of_pod = Pod::parse(text).unwrap().limits.gpus.whole();
        let of_containers = PodSpec::parse(text).unwrap().spec.containers;
        (of_pod, of_containers.iter().map(|container| container.resources.gpus).collect())
    }

    #[test]
    fn devices_of_claims_are_counted_with_those_of_limits() {
        let all = container("m", "{name: a}");
        assert_eq!(count(&manifest(TWO, &all)), (4, vec![4]), "two and one by the claim, one by the limit");
        let both = [
            container("m", "{name: a, request: gpus}"),
            container("o", "{name: a}, {name: b, request: gpu}"),
        ];
        let claims = format!("{TWO}, {ONE}");
        // Each container has its own by limits; the claim's are there once.
        assert_eq!(count(&manifest(&claims, &both.concat())), (6, vec![3, 5]));
        // A claim that no container uses is no device of the VM.
        assert_eq!(count(&manifest(&claims, &container("m", ""))), (1, vec![1]));
    }

    #[test]
    fn one_claim_under_two_names_is_one() {
        let claims = "{name: b, resourceClaimName: one}, {name: c, resourceClaimName: one}";
        let containers =
            [container("m", "{name: b, request: gpu}"), container("o", "{name: c, request: gpu}")].concat();
        assert_eq!(count(&manifest(claims, &containers)), (3, vec![2, 2]));
        // From a template each is another.
        let claims = "{name: b, resourceClaimTemplateName: two}, {name: c, resourceClaimTemplateName: two}";
        let containers =
            [container("m", "{name: b, request: more}"), container("o", "{name: c, request: more}")].concat();
        assert_eq!(count(&manifest(claims, &containers)), (4, vec![2, 2]));
    }

    #[test]
    fn claims_whose_gpus_cannot_be_counted_are_refused_with_the_reason() {
        let refused = |claims: &str, of_container: &str| {
            let error = Pod::parse(&manifest(claims, &container("m", of_container))).unwrap_err();
            assert!(matches!(error, ManifestError::Fault(_)), "{error}");
            error.to_string()
        };
        for (request, reason) in [
            ("part", "a part of a GPU"),
            ("all", "allocationMode All"),
            ("other", "\"nic.example.com\" is not known to be of whole GPUs"),
            ("either", "firstAvailable"),
            ("none", "0 is no number of GPUs"),
            ("nothing", "ResourceClaim one has no request \"nothing\""),
        ] {
            let said = refused(ONE, &format!("{{name: b, request: {request}}}"));
            assert!(said.contains("spec.resourceClaims[0]: ") && said.contains(reason), "{said}");
        }
        let said = refused("{name: x, resourceClaimName: elsewhere}", "{name: x}");
        assert!(
            said.contains("the ResourceClaim elsewhere, which says how many GPUs it is, is not in this file"),
            "{said}"
        );
        assert!(refused("{name: x}", "{name: x}").contains("neither or both"));
        assert!(refused(ONE, "{name: nobody}").contains("the claim \"nobody\", which the pod has not"));
    }
}
