//! What is to be bound, and what else is known of it.

use std::collections::{BTreeMap, BTreeSet};

use agent_policy::Objects;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pod_manifest::yaml::{Node, Path, Step};
use pod_manifest::{Document, Template, documents};

use super::input::Input;
use super::report::Report;

/// Runtime classes of this name's beginning are ours.
const OURS: &str = "coffer";

/// A document with its pods.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) document: Document,
    pub(super) templates: Vec<Template>,
}

/// Whether a pod is bound.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// For this class.
    Bind(String),
    /// Not at all, and why.
    Leave(&'static str),
}

/// All documents of an input; a broken one is a fault.
pub(super) fn find(input: &Input, report: &mut Report) -> Vec<Found> {
    let mut all = Vec::new();
    for found in documents(&input.text) {
        match found {
            Ok(document) => {
                let templates = document.templates();
                if templates.is_empty() {
                    unhandled(input, &document, report);
                }
                all.push(Found { document, templates });
            }
            Err(error) => {
                let hint = if input.text.contains("{{") {
                    " (it looks like a chart's template: `helm template ... | coffer bind -`)"
                } else {
                    ""
                };
                report.fault(input.at(error.line, &Path::default()), format!("{}{hint}", error.reason));
            }
        }
    }
    all
}

/// A kind that has containers, but in no template: what makes the pods of it adds to them.
fn unhandled(input: &Input, document: &Document, report: &mut Report) {
    fn containers(node: &Node, path: &Path) -> Option<Path> {
        for field in node.fields() {
            let path = path.then(Step::Field(field.name.clone().into()));
            if field.name == "containers"
                && field.value.items().iter().any(|item| item.get("image").is_some())
            {
                return Some(path);
            }
            let below = containers(&field.value, &path);
            if below.is_some() {
                return below;
            }
        }
        None
    }
    if document.kind == "CustomResourceDefinition" {
        return;
    }
    if let Some(path) = containers(&document.root, &Path::default()) {
        let line = document.root.nearest(&path).line;
        let why = format!(
            "the kind {} has containers and no pod template: its controller makes the pods of more than this. Bind what \
             it makes: `kubectl get deployment,pod -o yaml | coffer bind -`; {}",
            document.kind,
            pod_manifest::CAN
        );
        report.note(input.at(line, &path), why);
    }
}

/// Whether and for which class a pod is bound.
pub(super) fn choose(document: &Document, template: &Template, given: Option<&str>) -> Choice {
    let class = template.node(document).get("spec").and_then(|spec| spec.get("runtimeClassName"));
    match (class.and_then(Node::text).filter(|class| !class.is_empty()), given) {
        (Some(class), _) if class.starts_with(OURS) => Choice::Bind(class.to_owned()),
        (Some(class), Some(given)) if class == given => Choice::Bind(class.to_owned()),
        (Some(_), _) => Choice::Leave("left as it is: its runtime class is another's"),
        (None, Some(given)) => Choice::Bind(given.to_owned()),
        (None, None) => Choice::Leave("left as it is: no runtimeClassName, and no --class"),
    }
}

/// Two objects of one kind and name are one for Kubernetes, and the later one would win.
pub(super) fn twice(inputs: &[Input], texts: &[Vec<Found>], report: &mut Report) {
    let mut seen: BTreeMap<_, String> = BTreeMap::new();
    for (input, found) in inputs.iter().zip(texts) {
        for template in
            found.iter().flat_map(|found| found.templates.iter().map(move |of| (of, &found.document)))
        {
            let (template, document) = template;
            let owner = &template.owner;
            let Some(name) = &owner.name else { continue };
            let root = document.root.at(&template.path).map_or(1, |node| node.line);
            let object = (
                &owner.kind,
                &owner.namespace,
                name,
                template
                    .path
                    .0
                    .iter()
                    .skip_while(|step| matches!(step, Step::Item(_)) || **step == Step::field("items"))
                    .map(|step| format!("{step:?}"))
                    .collect::<String>(),
            );
            match seen.get(&object) {
                Some(before) => report.fault(
                    input.at(root, &Path::default()),
                    format!(
                        "there is already a {} called {name:?}, at {before}: give one another name",
                        owner.kind
                    ),
                ),
                None => {
                    seen.insert(object, input.place(root));
                }
            }
        }
    }
}

/// The ConfigMaps and Secrets of a pod's namespace that are among the inputs. Of a Secret only the names of keys.
pub(super) fn objects(texts: &[Vec<Found>], template: &Template) -> Objects {
    let mut objects = Objects::default();
    let text = |node: Option<&Node>| node.and_then(Node::text).map(str::to_owned);
    for (kind, object) in texts.iter().flatten().flat_map(|found| found.document.objects()) {
        let metadata = object.get("metadata");
        let namespace = text(metadata.and_then(|metadata| metadata.get("namespace")));
        let Some(name) = text(metadata.and_then(|metadata| metadata.get("name"))) else { continue };
        let is_near = namespace.is_none()
            || template.owner.namespace.is_none()
            || namespace == template.owner.namespace;
        let fields = |field: &str| object.get(field).map(Node::fields).unwrap_or_default();
        match kind {
            "ConfigMap" if is_near => {
                let data = fields("data").iter();
                let data =
                    data.filter_map(|field| Some((field.name.clone(), field.value.text()?.to_owned())));
                objects.config_maps.insert(name, data.collect());
            }
            "Secret" if is_near => {
                let is_text = |field: &&pod_manifest::yaml::Field| {
                    let data = field.value.text().unwrap_or_default();
                    STANDARD.decode(data.trim()).is_ok()
                };
                let data = fields("data").iter().filter(is_text).chain(fields("stringData"));
                objects.secrets.insert(name, data.map(|field| field.name.clone()).collect::<BTreeSet<_>>());
            }
            _ => {}
        }
    }
    objects
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(text: &str) -> Input {
        Input { path: Some("a.yaml".into()), name: "a.yaml".into(), text: text.into() }
    }

    #[test]
    fn only_pods_of_our_classes_are_bound() {
        let pod = |class: &str| format!("{{apiVersion: v1, kind: Pod, spec: {{containers: [], {class}}}}}");
        for (class, given, choice) in [
            ("runtimeClassName: coffer-snp", None, Choice::Bind("coffer-snp".into())),
            ("runtimeClassName: coffer-snp", Some("coffer-tdx"), Choice::Bind("coffer-snp".into())),
            ("x: y", Some("coffer-tdx"), Choice::Bind("coffer-tdx".into())),
            (
                "runtimeClassName: nvidia",
                Some("coffer"),
                Choice::Leave("left as it is: its runtime class is another's"),
            ),
            ("x: y", None, Choice::Leave("left as it is: no runtimeClassName, and no --class")),
        ] {
            let mut report = Report::default();
            let found = find(&input(&pod(class)), &mut report);
            assert_eq!(choose(&found[0].document, &found[0].templates[0], given), choice, "{class}");
        }
    }

    #[test]
    fn every_broken_document_is_told_and_what_has_containers_elsewhere() {
        let text = "a: [\n---\nkind: InferenceService\nspec:\n  predictor:\n    containers: [{image: x}]\n---\nb: {\n";
        let mut report = Report::default();
        assert_eq!(find(&input(text), &mut report).len(), 1);
        let said = report.lines();
        assert_eq!(report.faults(), 2, "{said}");
        assert!(said.contains("a.yaml:6: spec.predictor.containers: the kind InferenceService"), "{said}");
    }

    #[test]
    fn objects_beside_a_pod_are_known_without_a_secrets_values() {
        let text = "kind: ConfigMap\nmetadata: {name: c, namespace: a}\ndata: {K: v}\n---\n\
                    kind: Secret\nmetadata: {name: s}\ndata: {T: c2VjcmV0}\nstringData: {U: plain}\n---\n\
                    kind: ConfigMap\nmetadata: {name: d, namespace: b}\ndata: {K: v}\n---\n\
                    apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: a}\nspec: {containers: [{name: x}]}\n";
        let mut report = Report::default();
        let found = find(&input(text), &mut report);
        let template = found.last().unwrap().templates[0].clone();
        let objects = objects(&[found], &template);
        assert_eq!(objects.config_maps.keys().collect::<Vec<_>>(), ["c"]);
        assert_eq!(objects.secrets["s"], ["T", "U"].map(str::to_owned).into());
    }

    #[test]
    fn two_of_one_name_are_a_fault() {
        let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: x}]}\n";
        let text = input(&format!("{pod}---\n{pod}"));
        let mut report = Report::default();
        let found = find(&text, &mut report);
        twice(&[text], &[found], &mut report);
        assert!(
            report.lines().contains("a.yaml:6: there is already a Pod called \"p\", at a.yaml:1"),
            "{}",
            report.lines()
        );
    }
}
