//! What a container is to its pod, as the CRI implementation's annotations say.

use oci_spec::runtime::Spec;

/// containerd's names, then CRI-O's.
const TYPE: [&str; 2] = ["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"];
const SANDBOX_ID: [&str; 2] = ["io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID"];

/// The pod's UID, by which kubelet names its directory.
const POD_UID: [&str; 2] = ["io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"];

/// A container's role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The pod's sandbox (pause) container.
    Sandbox,
    /// One of a pod's containers.
    PodContainer,
    /// Not from CRI: a pod of one.
    Single,
}

impl Role {
    /// Reads the role of a spec's container.
    pub fn of(spec: &Spec) -> Self {
        match annotation(spec, TYPE) {
            Some("sandbox") => Self::Sandbox,
            Some("container") => Self::PodContainer,
            _ => Self::Single,
        }
    }
}

/// The id of the sandbox a spec's container belongs to; `None` for one that is a pod of its own.
pub fn sandbox_id(spec: &Spec) -> Option<&str> {
    annotation(spec, SANDBOX_ID).filter(|id| !id.is_empty())
}

/// Whose files of the host a container may have: its own pod's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner<'a> {
    /// The container's id.
    pub(crate) container: &'a str,
    /// The pod's ids; `None` for a container that is no pod's: whoever made it is root of this host, and names files as such.
    pub(crate) pod: Option<PodIds<'a>>,
}

/// What directories of a pod are called. An id that is not known is empty, and no directory's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PodIds<'a> {
    /// In kubelet's.
    pub(crate) uid: &'a str,
    /// In the engine's.
    pub(crate) sandbox: &'a str,
}

impl<'a> Owner<'a> {
    /// The owner of a spec's files.
    pub(crate) fn of(container: &'a str, spec: &'a Spec) -> Self {
        let pod = (Role::of(spec) != Role::Single).then(|| PodIds {
            uid: annotation(spec, POD_UID).unwrap_or_default(),
            sandbox: sandbox_id(spec).unwrap_or_default(),
        });
        Self { container, pod }
    }
}

fn annotation<'a>(spec: &'a Spec, names: [&str; 2]) -> Option<&'a str> {
    let annotations = spec.annotations().as_ref()?;
    names.iter().find_map(|name| annotations.get(*name)).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn spec(annotations: &[(&str, &str)]) -> Spec {
        let map: HashMap<String, String> =
            annotations.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let mut spec = Spec::default();
        spec.set_annotations(Some(map));
        spec
    }

    #[test]
    fn both_engines_are_understood() {
        let containerd = spec(&[
            ("io.kubernetes.cri.container-type", "container"),
            ("io.kubernetes.cri.sandbox-id", "s1"),
        ]);
        assert_eq!((Role::of(&containerd), sandbox_id(&containerd)), (Role::PodContainer, Some("s1")));
        let crio = spec(&[
            ("io.kubernetes.cri-o.ContainerType", "sandbox"),
            ("io.kubernetes.cri-o.SandboxID", "s2"),
        ]);
        assert_eq!((Role::of(&crio), sandbox_id(&crio)), (Role::Sandbox, Some("s2")));
    }

    #[test]
    fn without_annotations_it_is_a_pod_of_one() {
        assert_eq!((Role::of(&Spec::default()), sandbox_id(&Spec::default())), (Role::Single, None));
        assert_eq!(sandbox_id(&spec(&[("io.kubernetes.cri.sandbox-id", "")])), None);
    }
}
