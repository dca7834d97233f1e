//! A pod's policy and initdata.

use std::collections::BTreeMap;

use agent_policy::{Objects, Options, Permission, PolicyError};
pub(super) use measurement::initdata::annotation::NAME as ANNOTATION;
use measurement::initdata::{Algorithm, InitData, annotation, build};
use model_volumes::DOCUMENT;
use pod_manifest::spec::{Container, PodSpec};
use pod_manifest::yaml::{Path, Step};
use pod_manifest::{Document, Pod, Template};

use super::images::{Images, Resolved};
use super::input::Input;
use super::report::Report;
use crate::initdata::entry;

const POLICY: &str = "policy.rego";

/// What all pods have in common.
#[derive(Debug)]
pub(super) struct Seal<'a> {
    pub(super) images: Images<'a>,
    /// What goes into each pod's initdata beside policy and declaration.
    pub(super) entries: BTreeMap<String, String>,
    /// Whether the guest pulls the images.
    pub(super) pulled: bool,
    pub(super) exec: bool,
    pub(super) logs: bool,
}

/// A pod that is bound.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) pod: Pod,
    /// With the images' new names.
    pub(super) spec: PodSpec,
    /// By container.
    pub(super) images: BTreeMap<String, Resolved>,
    pub(super) initdata: InitData,
    /// Its form as an annotation.
    pub(super) annotation: String,
}

impl Seal<'_> {
    /// Binds one pod; tells what is wrong with it, and what is left open.
    pub(super) fn pod(
        &self,
        input: &Input,
        document: &Document,
        template: &Template,
        class: &str,
        objects: Objects,
        report: &mut Report,
    ) -> Option<Sealed> {
        let pod = template.pod(document);
        let spec = template.spec(document);
        for fault in [pod.as_ref().err(), spec.as_ref().err()].into_iter().flatten() {
            report.fault(input.at(fault.line, &fault.path), fault.problem.to_string());
        }
        let (mut spec, pod) = (spec.ok()?, pod.ok());
        let tell = Tell { input, document, template };

        let images = self.images(&mut spec, tell, report);
        let at = Path::of("metadata.annotations").then(Step::field(ANNOTATION));
        let mut fault = |why: String| {
            let path = template.path.join(&at);
            report.fault(input.at(document.root.nearest(&path).line, &path), why);
        };
        let annotations = pod.as_ref().map(|pod| &pod.annotations);
        let (algorithm, mut entries) =
            match annotations.and_then(|of| of.get(ANNOTATION)).map(|value| annotation::decode(value)) {
                None => (Algorithm::Sha384, BTreeMap::new()),
                Some(Ok(before)) => (before.algorithm(), before.data().clone()),
                Some(Err(error)) => {
                    fault(format!(
                        "the pod's initdata cannot be read, and would be lost: {error}; remove it, or mend it"
                    ));
                    return None;
                }
            };
        entries.extend(self.entries.clone());
        let volumes = match crate::policy::roots(entries.get(DOCUMENT).map_or("", String::as_str)) {
            Ok(volumes) => volumes,
            Err(error) => {
                fault(format!("{DOCUMENT} of the pod's initdata is not usable: {error:#}"));
                return None;
            }
        };
        let options = Options {
            exec: permission(self.exec),
            logs: permission(self.logs),
            images: images.iter().map(|(name, of)| (name.clone(), of.image.clone())).collect(),
            pulled: self.pulled,
            objects,
            volumes,
        };
        let policy = agent_policy::generate(&spec, &options);
        let mut pod = pod;
        let policy = match policy {
            Ok(policy) => policy,
            Err(faults) => {
                // An image that is not there has been told, and so has what the manifest's limits have.
                let is_new = |fault: &&PolicyError| {
                    !matches!(fault, PolicyError::NoImage(_) | PolicyError::HostNamespace(_))
                };
                for fault in faults.0.iter().filter(is_new) {
                    let (at, line) = tell.policy(fault, &spec);
                    report.fault(input.at(line, &at), fault.to_string());
                }
                return None;
            }
        };
        let mut pod = pod.take()?;
        pod.runtime_class = Some(class.to_owned());
        super::explain::notes(&spec, &pod, class, template, &mut |path, note| {
            let path = template.path.join(&path);
            report.note(input.at(document.root.nearest(&path).line, &path), note);
        });

        let at = Path::of("metadata.annotations").then(Step::field(ANNOTATION));
        let mut fault = |why: String| {
            let path = template.path.join(&at);
            report.fault(input.at(document.root.nearest(&path).line, &path), why);
        };
        entries.insert(POLICY.to_owned(), policy);
        match entry::of_pod(&pod, &spec.spec) {
            Ok(declaration) => entries.insert(entry::DECLARATION.to_owned(), declaration),
            Err(error) => {
                fault(format!("{error:#}"));
                return None;
            }
        };
        if let Err(error) = entry::together(&entries) {
            fault(error.to_string());
            return None;
        }
        let sealed = build(algorithm, entries).map_err(|error| error.to_string()).and_then(|initdata| {
            let annotation = annotation::encode(&initdata).map_err(|error| error.to_string())?;
            Ok((initdata, annotation))
        });
        match sealed {
            Ok((initdata, annotation)) => Some(Sealed { pod, spec, images, initdata, annotation }),
            Err(error) => {
                fault(format!("the pod's initdata cannot be made: {error}"));
                None
            }
        }
    }

    /// The images of all containers; the spec gets their new names.
    fn images(&self, spec: &mut PodSpec, tell: Tell<'_>, report: &mut Report) -> BTreeMap<String, Resolved> {
        let mut images = BTreeMap::new();
        let lists =
            [("initContainers", &mut spec.spec.init_containers), ("containers", &mut spec.spec.containers)];
        for (list, containers) in lists {
            for (index, container) in containers.iter_mut().enumerate() {
                match self.images.resolve(&container.name, &container.image) {
                    Ok(resolved) => {
                        if let Some(other) = &resolved.other {
                            let (at, line) =
                                tell.place(&of_container(list, index).then(Step::field("image")));
                            let note = format!(
                                "the image that was given has the digest {other}, and the manifest another, which is \
                                 what a node runs: the guest refuses it unless its layers are the same"
                            );
                            report.note(tell.input.at(line, &at), note);
                        }
                        container.image.clone_from(&resolved.written);
                        images.insert(container.name.clone(), resolved);
                    }
                    Err(why) => {
                        let path = of_container(list, index).then(Step::field("image"));
                        let (at, line) = tell.place(&path);
                        report.fault(tell.input.at(line, &at), why);
                    }
                }
            }
        }
        images
    }
}

fn permission(granted: bool) -> Permission {
    if granted { Permission::Granted } else { Permission::Refused }
}

/// The way from a template to a container.
pub(super) fn of_container(list: &'static str, index: usize) -> Path {
    Path(vec![Step::field("spec"), Step::field(list), Step::Item(index)])
}

/// All containers with their ways.
pub(super) fn containers(spec: &PodSpec) -> impl Iterator<Item = (Path, &Container)> {
    let lists = [("initContainers", &spec.spec.init_containers), ("containers", &spec.spec.containers)];
    lists.into_iter().flat_map(|(list, containers)| {
        containers.iter().enumerate().map(move |(index, container)| (of_container(list, index), container))
    })
}

/// Where something of a pod is in the text.
#[derive(Clone, Copy)]
struct Tell<'a> {
    input: &'a Input,
    document: &'a Document,
    template: &'a Template,
}

impl Tell<'_> {
    fn place(&self, path: &Path) -> (Path, usize) {
        let path = self.template.path.join(path);
        let line = self.document.root.nearest(&path).line;
        (path, line)
    }

    fn policy(&self, fault: &PolicyError, spec: &PodSpec) -> (Path, usize) {
        let (container, field) = fault.place();
        let base = match container {
            Some(name) => {
                containers(spec).find(|(_, container)| container.name == name).map(|(path, _)| path)
            }
            None => Some(Path::of("spec")),
        };
        self.place(&base.unwrap_or_default().join(&Path::of(field)))
    }
}
