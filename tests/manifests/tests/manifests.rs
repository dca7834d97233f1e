//! What is below deploy/ and examples/, read by Kubernetes' own types.

#![allow(clippy::unwrap_used, reason = "all of it is tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod, ServiceAccount};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn deploy() -> PathBuf {
    repository().join("deploy")
}

/// Every YAML file, with its documents.
fn files(directory: &Path) -> Vec<(PathBuf, Vec<Value>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            let text = plain(&fs::read_to_string(&path).unwrap());
            all.push((path, values(&text)));
        }
    }
    all
}

/// A chart's template with what `helm install coffer --namespace coffer-system` would put into it.
fn plain(text: &str) -> String {
    text.replace("{{ .Values.image | quote }}", concat!("coffer-node:", env!("CARGO_PKG_VERSION")))
        .replace("{{ .Release.Namespace }}", "coffer-system")
}

fn values(text: &str) -> Vec<Value> {
    pod_manifest::yaml::documents(text).map(|node| node.unwrap().read().unwrap()).collect()
}

/// Whatever is in `wanted` is in `found`.
fn has_every_leaf(wanted: &Value, found: &Value, at: &str) {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            for (key, value) in wanted {
                let other = found.get(key).unwrap_or(&Value::Null);
                has_every_leaf(value, other, &format!("{at}.{key}"));
            }
        }
        (Value::Array(wanted), Value::Array(found)) => {
            assert_eq!(wanted.len(), found.len(), "{at}");
            let pairs = wanted.iter().zip(found).enumerate();
            pairs.for_each(|(i, (a, b))| has_every_leaf(a, b, &format!("{at}[{i}]")));
        }
        _ => assert_eq!(wanted, found, "{at} is unknown to Kubernetes"),
    }
}

fn round_trip<T: DeserializeOwned + Serialize>(value: &Value, at: &str) {
    let typed: T = serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{at}: {error}"));
    has_every_leaf(value, &serde_json::to_value(typed).unwrap(), at);
}

/// A manifest by its own type; `None` where it is no manifest of Kubernetes'.
fn is_kubernetes(value: &Value, at: &str) -> Option<()> {
    match (value["apiVersion"].as_str()?, value["kind"].as_str()?) {
        ("v1", "Namespace") => round_trip::<Namespace>(value, at),
        ("v1", "ServiceAccount") => round_trip::<ServiceAccount>(value, at),
        ("v1", "Pod") => round_trip::<Pod>(value, at),
        ("v1", "PersistentVolumeClaim") => round_trip::<PersistentVolumeClaim>(value, at),
        ("apps/v1", "DaemonSet") => round_trip::<DaemonSet>(value, at),
        ("node.k8s.io/v1", "RuntimeClass") => round_trip::<RuntimeClass>(value, at),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => round_trip::<ClusterRole>(value, at),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => round_trip::<ClusterRoleBinding>(value, at),
        ("rbac.authorization.k8s.io/v1", "Role") => round_trip::<Role>(value, at),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => round_trip::<RoleBinding>(value, at),
        ("kustomize.config.k8s.io/v1beta1", "Kustomization") => return None,
        // OpenShift's own, of the machine-config-operator: in no API of Kubernetes'.
        ("machineconfiguration.openshift.io/v1", "MachineConfig" | "KubeletConfig") => return None,
        other => panic!("{at}: {other:?} is no kind that this test knows"),
    }
    Some(())
}

#[test]
fn every_manifest_is_what_kubernetes_reads() {
    let mut count = 0;
    for directory in [deploy(), repository().join("examples")] {
        for (path, documents) in files(&directory) {
            for value in documents {
                let at = format!("{}: {}", path.display(), value["kind"]);
                count += usize::from(is_kubernetes(&value, &at).is_some());
            }
        }
    }
    assert!(count >= 24, "{count}");
}

#[test]
fn a_typing_error_is_seen() {
    let right = json!({ "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": { "name": "x" }, "handler": "x" });
    is_kubernetes(&right, "x");
    let mut wrong = right.clone();
    wrong["overheads"] = json!({ "podFixed": {} });
    assert!(std::panic::catch_unwind(|| is_kubernetes(&wrong, "x")).is_err());
    let mut deeper = right;
    deeper["overhead"] = json!({ "podFixd": { "memory": "1Mi" } });
    assert!(std::panic::catch_unwind(|| is_kubernetes(&deeper, "x")).is_err());
}

/// What kustomize, as it is in kubectl, makes of a directory.
fn kustomized(directory: &Path) -> Vec<Value> {
    let found = Command::new(repository().join("tools/kubectl")).output().unwrap();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    let kubectl = String::from_utf8(found.stdout).unwrap();
    let output = Command::new(kubectl.trim()).arg("kustomize").arg(directory).output().unwrap();
    assert!(output.status.success(), "{}: {}", directory.display(), String::from_utf8_lossy(&output.stderr));
    values(&String::from_utf8(output.stdout).unwrap())
}

fn named<'a>(documents: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let is_it = |value: &&Value| value["kind"] == kind && value["metadata"]["name"] == name;
    documents.iter().find(is_it).unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

#[test]
fn overlays_are_the_base_with_what_they_say() {
    let base = kustomized(&deploy().join("base"));
    let cases: [(&str, &[(&str, &str)]); 3] = [
        (
            "gpu-operator",
            &[("coffer-snp", "nvidia.com/cc.ready.state"), ("coffer-tdx", "nvidia.com/cc.ready.state")],
        ),
        (
            "nfd",
            &[
                ("coffer-snp", "amd.feature.node.kubernetes.io/snp"),
                ("coffer-tdx", "intel.feature.node.kubernetes.io/tdx"),
            ],
        ),
        ("openshift", &[]),
    ];
    for (overlay, labels) in cases {
        let made = kustomized(&deploy().join("overlays").join(overlay));
        for value in &made {
            is_kubernetes(value, overlay);
        }
        for wanted in &base {
            let (kind, name) =
                (wanted["kind"].as_str().unwrap(), wanted["metadata"]["name"].as_str().unwrap());
            has_every_leaf(wanted, named(&made, kind, name), &format!("{overlay}: {kind} {name}"));
        }
        for (class, label) in labels {
            let selector = &named(&made, "RuntimeClass", class)["scheduling"]["nodeSelector"];
            assert_eq!(
                (&selector[label], selector.as_object().unwrap().len()),
                (&json!("true"), 2),
                "{overlay}"
            );
        }
        let plain = &named(&made, "RuntimeClass", "coffer")["scheduling"]["nodeSelector"];
        assert_eq!(plain.as_object().unwrap().len(), 1, "{overlay}");
    }
}

/// What takes Coffer away is what brought it, with another name and another argument, and the same account, which has the rights.
#[test]
fn the_uninstaller_is_the_installer_with_another_argument() {
    let read = |path: &str| fs::read_to_string(deploy().join(path)).unwrap();
    let wanted = read("base/daemonset.yaml")
        .replace("name: coffer-node\n", "name: coffer-node-uninstall\n")
        .replace("args: [\"install\"]", "args: [\"uninstall\"]");
    assert_eq!(read("uninstall/daemonset.yaml"), wanted);
    kustomized(&deploy().join("uninstall"));
}

#[test]
fn the_chart_is_the_base() {
    let made = tempfile::tempdir().unwrap();
    let status = Command::new(repository().join("tools/chart")).arg(made.path()).status().unwrap();
    assert!(status.success());
    for name in ["Chart.yaml", "values.yaml"] {
        let read = |directory: &Path| fs::read_to_string(directory.join(name)).unwrap();
        assert_eq!(read(made.path()), read(&deploy().join("chart")), "run tools/chart");
    }
    let base: Vec<_> = files(&deploy().join("base"))
        .into_iter()
        .filter(|(path, _)| !["kustomization.yaml", "namespace.yaml"].iter().any(|name| path.ends_with(name)))
        .collect();
    for directory in [made.path().join("templates"), deploy().join("chart/templates")] {
        let chart = files(&directory);
        assert_eq!(chart.len(), base.len(), "run tools/chart");
        for (path, documents) in &base {
            let name = path.file_name().unwrap();
            let (_, of_chart) =
                chart.iter().find(|(other, _)| other.ends_with(name)).expect("run tools/chart");
            assert_eq!(of_chart, documents, "{}: run tools/chart", path.display());
        }
    }
}

/// Each class's node selector is a label that the installer's pod sets, and its handler one that `coffer install` registers.
#[test]
fn classes_are_scheduled_where_the_installer_says() {
    let script = fs::read_to_string(deploy().join("image/coffer-node")).unwrap();
    let prefix = script.lines().find_map(|line| line.strip_prefix("prefix=")).unwrap();
    let classes = script.lines().find_map(|line| line.strip_prefix("classes=(")?.strip_suffix(')')).unwrap();
    let text = fs::read_to_string(deploy().join("base/runtimeclasses.yaml")).unwrap();
    let found: Vec<String> = values(&text)
        .into_iter()
        .map(|value| {
            let name = value["handler"].as_str().unwrap().to_owned();
            assert_eq!(value["metadata"]["name"], name.as_str());
            let selector = value["scheduling"]["nodeSelector"].as_object().unwrap();
            assert_eq!(selector.keys().collect::<Vec<_>>(), [&format!("{prefix}/{name}")]);
            name
        })
        .collect();
    assert_eq!(found.join(" "), classes);
}

/// What Kubernetes' admission makes of a pod with a runtime class (kubernetes/kubernetes,
/// plugin/pkg/admission/runtimeclass, `setOverhead` and `setScheduling`): the class's overhead, and both node selectors; a label
/// that both have with other values, or a pod's own overhead, is refused.
fn admitted(mut pod: Pod, class: &RuntimeClass) -> Result<Pod, String> {
    let spec = pod.spec.as_mut().unwrap();
    let overhead = class.overhead.clone().and_then(|overhead| overhead.pod_fixed);
    if spec.overhead.is_some() && spec.overhead != overhead {
        return Err("pod's overhead".to_owned());
    }
    spec.overhead = overhead;
    let scheduling = class.scheduling.clone().unwrap_or_default();
    let mut selector = spec.node_selector.take().unwrap_or_default();
    for (label, value) in scheduling.node_selector.unwrap_or_default() {
        match selector.insert(label.clone(), value.clone()) {
            Some(own) if own != value => return Err(format!("conflict: {label} is {own} and {value}")),
            _ => {}
        }
    }
    spec.node_selector = Some(selector);
    Ok(pod)
}

#[test]
fn a_pod_gets_its_class_overhead_and_node_selector() {
    let classes = kustomized(&deploy().join("overlays/gpu-operator"));
    let class = |name: &str| -> RuntimeClass {
        serde_json::from_value(named(&classes, "RuntimeClass", name).clone()).unwrap()
    };
    let text = fs::read_to_string(repository().join("examples/pod.yaml")).unwrap();
    let mut pod: Pod = serde_json::from_value(values(&text).remove(0)).unwrap();
    let name = pod.spec.as_ref().unwrap().runtime_class_name.clone().unwrap();
    pod.spec.as_mut().unwrap().node_selector = Some([("zone".to_owned(), "a".to_owned())].into());
    let spec = admitted(pod.clone(), &class(&name)).unwrap().spec.unwrap();
    let labels: Vec<_> = spec.node_selector.unwrap().into_keys().collect();
    assert_eq!(labels, ["coffer.internal/coffer-snp", "nvidia.com/cc.ready.state", "zone"]);
    let overhead = spec.overhead.unwrap();
    assert_eq!((overhead["memory"].0.as_str(), overhead["cpu"].0.as_str()), ("384Mi", "100m"));
    // A pod that wants the opposite goes nowhere, and hears why.
    pod.spec.as_mut().unwrap().node_selector =
        Some([("nvidia.com/cc.ready.state".to_owned(), "false".to_owned())].into());
    assert!(admitted(pod, &class(&name)).unwrap_err().contains("cc.ready.state"));
}
