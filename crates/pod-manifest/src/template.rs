//! Where in a document pods are described.

use crate::names::Names;
use crate::spec::PodSpec;
use crate::yaml::{Node, Path, Step, Value};
use crate::{Document, Fault, Pod, Problem, written};

/// The object that has a pod template.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// `kind`.
    pub kind: String,
    /// `metadata.name`.
    pub name: Option<String>,
    /// `metadata.namespace`.
    pub namespace: Option<String>,
}

/// A pod, or what pods are made from: `metadata` and `spec`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Who makes the pods; of a Pod it is itself.
    pub owner: Owner,
    /// From the document to what has `metadata` and `spec`.
    pub path: Path,
    /// How its pods are called.
    pub names: Names,
}

/// Kinds whose controllers take the template as it is.
const FAITHFUL: [&str; 9] = [
    "Pod",
    "Deployment",
    "ReplicaSet",
    "ReplicationController",
    "StatefulSet",
    "DaemonSet",
    "Job",
    "CronJob",
    "LeaderWorkerSet",
];

pub(crate) fn is_list(object: &Node) -> bool {
    let kind = object.get("kind").and_then(Node::text).unwrap_or_default();
    kind.ends_with("List") && matches!(object.get("items").map(|items| &items.value), Some(Value::List(_)))
}

pub(crate) fn templates(document: &Document) -> Vec<Template> {
    let mut found = Vec::new();
    objects(&document.root, &Path::default(), &mut |object, path| {
        let owner = owner(object);
        if owner.kind == "Pod" {
            found.push(Template { names: names_of_pod(object, &owner), owner, path: path.clone() });
        } else {
            within(object, path, &owner, &mut found);
        }
    });
    found
}

fn objects(node: &Node, path: &Path, each: &mut dyn FnMut(&Node, &Path)) {
    if !is_list(node) {
        return each(node, path);
    }
    let items = node.get("items").map(Node::items).unwrap_or_default();
    for (index, item) in items.iter().enumerate() {
        objects(item, &path.then(Step::field("items")).then(Step::Item(index)), each);
    }
}

fn owner(object: &Node) -> Owner {
    let text = |node: Option<&Node>| node.and_then(Node::text).map(str::to_owned);
    let metadata = object.get("metadata");
    let field = |name| text(metadata.and_then(|metadata| metadata.get(name)));
    Owner {
        kind: text(object.get("kind")).unwrap_or_default(),
        name: field("name"),
        namespace: field("namespace"),
    }
}

/// A mapping below a field whose name ends in "template", with a `spec` that has `containers`.
fn within(node: &Node, path: &Path, owner: &Owner, found: &mut Vec<Template>) {
    for field in node.fields() {
        let path = path.then(Step::Field(field.name.clone().into()));
        let is_template = field.name.to_ascii_lowercase().ends_with("template")
            && field.value.get("spec").is_some_and(|spec| spec.get("containers").is_some());
        if is_template {
            let name = owner.name.as_deref();
            let names = name.map_or_else(Names::any, |name| Names::of(&owner.kind, name));
            found.push(Template { owner: owner.clone(), path, names });
        } else {
            within(&field.value, &path, owner, found);
        }
    }
    for (index, item) in node.items().iter().enumerate() {
        within(item, &path.then(Step::Item(index)), owner, found);
    }
}

/// Of a pod that a controller made (`kubectl get pod -o yaml`) they are the names of the controller's pods.
fn names_of_pod(pod: &Node, owner: &Owner) -> Names {
    let metadata = pod.get("metadata");
    let generate = metadata.and_then(|metadata| metadata.get("generateName")).and_then(Node::text);
    let controllers = metadata.and_then(|metadata| metadata.get("ownerReferences")).map(Node::items);
    let controller =
        controllers.unwrap_or_default().iter().find_map(|of| of.get("kind").and_then(Node::text));
    match (generate, &owner.name, controller) {
        (Some(base), name, Some("StatefulSet")) => {
            let base = base.trim_end_matches('-');
            name.as_ref().map_or_else(Names::any, |_| Names::of("StatefulSet", base))
        }
        // The ReplicaSet's hash is another with the next change of the Deployment, whose name is before it.
        (Some(base), _, Some("ReplicaSet")) => {
            let hash = metadata
                .and_then(|metadata| metadata.get("labels"))
                .and_then(|labels| labels.get("pod-template-hash"))
                .and_then(Node::text);
            let deployment = hash.and_then(|hash| base.strip_suffix(&format!("-{hash}-")));
            deployment.map_or_else(|| Names::generated(base), |name| Names::of("Deployment", name))
        }
        (Some(base), _, _) => Names::generated(base),
        (_, Some(name), _) => Names::Exact(name.clone()),
        (_, None, _) => Names::any(),
    }
}

impl Template {
    /// Its `metadata` and `spec`.
    pub fn node<'a>(&self, document: &'a Document) -> &'a Node {
        document.root.nearest(&self.path)
    }

    /// Whether its owner's controller makes pods of it as it is, as far as is known.
    pub fn is_faithful(&self) -> bool {
        FAITHFUL.contains(&self.owner.kind.as_str())
    }

    /// What decides the VM.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn pod(&self, document: &Document) -> Result<Pod, Fault> {
        let node = self.node(document);
        if self.owner.kind == "Pod" {
            let version = node.get("apiVersion").and_then(Node::text).unwrap_or_default();
            if version != "v1" {
                let version = version.chars().take(100).collect();
                return Err(self.fault(
                    document,
                    &Path::of("apiVersion"),
                    None,
                    Problem::ApiVersion(version),
                ));
            }
        }
        let pod = written::Pod::read(node, &document.claims);
        let mut pod = pod.map_err(|(path, line, problem)| self.fault(document, &path, line, problem))?;
        if pod.name.is_empty() || self.owner.kind != "Pod" {
            pod.name = self.owner.name.clone().unwrap_or(pod.name);
        }
        Ok(pod)
    }

    /// What its containers are.
    ///
    /// # Errors
    /// [`Fault`]: a field of another type than the API's.
    pub fn spec(&self, document: &Document) -> Result<PodSpec, Fault> {
        let node = self.node(document);
        let mut read: PodSpec = node.read().map_err(|error| {
            self.fault(document, &error.path, Some(error.line), Problem::Type(error.reason))
        })?;
        read.count_claims(&document.claims);
        read.names = self.names.clone();
        read.metadata.namespace = self.owner.namespace.clone();
        Ok(read)
    }

    /// A fault of a field of the template.
    pub fn fault(&self, document: &Document, path: &Path, line: Option<usize>, problem: Problem) -> Fault {
        let path = self.path.join(path);
        let line = line.filter(|line| *line > 0).unwrap_or_else(|| document.root.nearest(&path).line);
        Fault { line, path, problem }
    }
}
