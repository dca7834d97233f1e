//! What is known of a pod and its container before anything is asked.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use shared_types::cri::{Member, TwoEngines};

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
    ///
    /// # Errors
    /// [`TwoEngines`].
    pub fn new<'a>(
        annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
        devices: impl IntoIterator<Item = PathBuf>,
    ) -> Result<Self, TwoEngines> {
        let annotations: BTreeMap<_, _> = annotations.into_iter().collect();
        let cdi = annotations.iter().filter(|(key, _)| key.starts_with(CDI));
        let cdi = cdi.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let member = Member::of(|name| annotations.get(name).copied())?;
        Ok(Self { pod: member.and_then(|member| pod(&member)), cdi, devices: devices.into_iter().collect() })
    }
}

/// The pod, if its engine tells all of it.
fn pod(of: &Member<'_>) -> Option<Pod> {
    Some(Pod { namespace: of.namespace?.to_owned(), name: of.pod?.to_owned(), uid: of.uid?.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CRIO: [(&str, &str); 5] = [
        ("io.kubernetes.cri-o.ContainerType", "sandbox"),
        ("io.kubernetes.container.name", "POD"),
        ("io.kubernetes.pod.namespace", "ml"),
        ("io.kubernetes.pod.name", "web"),
        ("io.kubernetes.pod.uid", "u1"),
    ];

    #[test]
    fn both_engines_name_their_pods() {
        let expected = Pod { namespace: "ml".into(), name: "web".into(), uid: "u1".into() };
        let containerd = [
            ("io.kubernetes.cri.container-type", "sandbox"),
            ("io.kubernetes.cri.sandbox-namespace", "ml"),
            ("io.kubernetes.cri.sandbox-name", "web"),
            ("io.kubernetes.cri.sandbox-uid", "u1"),
            ("cdi.k8s.io/gpu", "nvidia.com/pgpu=0"),
            ("cdi.example.com/gpu", "nvidia.com/pgpu=1"),
        ];
        let facts = Facts::new(containerd, []).unwrap();
        assert_eq!(facts.pod, Some(expected.clone()));
        assert_eq!(facts.cdi, [("cdi.k8s.io/gpu".to_owned(), "nvidia.com/pgpu=0".to_owned())]);
        assert_eq!(Facts::new(CRIO, []).unwrap().pod, Some(expected));
        assert_eq!(Facts::new(containerd[..3].iter().copied(), []).unwrap().pod, None);
        assert_eq!(Facts::new([("cdi.k8s.io/gpu", "x")], []).unwrap().pod, None);
    }

    /// Of a pod of CRI-O anybody may write annotations but those that are labels.
    #[test]
    fn kubelet_is_asked_for_no_other_pod_than_the_engines() {
        let forged = [
            ("io.kubernetes.cri.sandbox-namespace", "other"),
            ("io.kubernetes.cri.sandbox-name", "victim"),
            ("io.kubernetes.cri.sandbox-uid", "u2"),
            ("io.kubernetes.cri-o.Namespace", "other"),
            ("io.kubernetes.cri-o.KubeName", "victim"),
            ("io.kubernetes.cri-o.Labels", r#"{"io.kubernetes.pod.uid":"u2"}"#),
        ];
        let facts = Facts::new(CRIO.into_iter().chain(forged), []).unwrap();
        assert_eq!(facts.pod.unwrap().to_string(), "ml/web (u1)");
        let both = CRIO.into_iter().chain([("io.kubernetes.cri.container-type", "sandbox")]);
        assert_eq!(Facts::new(both, []), Err(TwoEngines));
    }
}
