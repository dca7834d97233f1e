//! What is known of a pod and its container before anything is asked.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// A Kubernetes pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID: a later pod may have the same name.
    pub uid: String,
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} ({})", self.namespace, self.name, self.uid)
    }
}

/// containerd's annotations of a sandbox (internal/cri/annotations of containerd 2): namespace, name, UID.
pub const CONTAINERD: [&str; 3] = [
    "io.kubernetes.cri.sandbox-namespace",
    "io.kubernetes.cri.sandbox-name",
    "io.kubernetes.cri.sandbox-uid",
];
/// CRI-O's (pkg/annotations of CRI-O); the UID is among the labels, which are JSON.
const CRIO: [&str; 2] = ["io.kubernetes.cri-o.Namespace", "io.kubernetes.cri-o.KubeName"];
const CRIO_LABELS: &str = "io.kubernetes.cri-o.Labels";
/// Kubelet's label.
const UID_LABEL: &str = "io.kubernetes.pod.uid";

/// Annotations with this prefix name CDI devices.
const CDI: &str = "cdi.k8s.io/";

/// What a bundle says about the pod and the devices wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The pod, where an engine of Kubernetes runs it.
    pub pod: Option<Pod>,
    /// CDI annotations: key and value.
    pub cdi: Vec<(String, String)>,
    /// Paths of `linux.devices`, as they are on the host.
    pub devices: Vec<PathBuf>,
}

impl Facts {
    /// From the annotations and device paths of a bundle's `config.json`.
    pub fn new<'a>(
        annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
        devices: impl IntoIterator<Item = PathBuf>,
    ) -> Self {
        let annotations: BTreeMap<_, _> = annotations.into_iter().collect();
        let cdi = annotations.iter().filter(|(key, _)| key.starts_with(CDI));
        let cdi = cdi.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Self { pod: pod(&annotations), cdi, devices: devices.into_iter().collect() }
    }
}

fn pod(annotations: &BTreeMap<&str, &str>) -> Option<Pod> {
    let get = |key| annotations.get(key).copied().filter(|text| !text.is_empty()).map(str::to_owned);
    if let [Some(namespace), Some(name), Some(uid)] = CONTAINERD.map(get) {
        return Some(Pod { namespace, name, uid });
    }
    let [namespace, name] = CRIO.map(get);
    let labels: BTreeMap<String, String> = serde_json::from_str(annotations.get(CRIO_LABELS)?).ok()?;
    Some(Pod { namespace: namespace?, name: name?, uid: labels.get(UID_LABEL)?.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_engines_name_their_pods() {
        let expected = Pod { namespace: "ml".into(), name: "web".into(), uid: "u1".into() };
        let containerd = [
            ("io.kubernetes.cri.sandbox-namespace", "ml"),
            ("io.kubernetes.cri.sandbox-name", "web"),
            ("io.kubernetes.cri.sandbox-uid", "u1"),
            ("cdi.k8s.io/gpu", "nvidia.com/pgpu=0"),
            ("cdi.example.com/gpu", "nvidia.com/pgpu=1"),
        ];
        let facts = Facts::new(containerd, []);
        assert_eq!(facts.pod, Some(expected.clone()));
        assert_eq!(facts.cdi, [("cdi.k8s.io/gpu".to_owned(), "nvidia.com/pgpu=0".to_owned())]);
        let crio = [
            ("io.kubernetes.cri-o.Namespace", "ml"),
            ("io.kubernetes.cri-o.KubeName", "web"),
            ("io.kubernetes.cri-o.Labels", r#"{"io.kubernetes.pod.uid":"u1"}"#),
        ];
        assert_eq!(Facts::new(crio, []).pod, Some(expected));
        assert_eq!(Facts::new(containerd[..2].iter().copied(), []).pod, None);
    }
}
