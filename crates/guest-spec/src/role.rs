//! What a container is to its pod, and whose files of the host it may have.

use oci_spec::runtime::Spec;
use shared_types::cri::{Member, TwoEngines};

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
    ///
    /// # Errors
    /// [`TwoEngines`].
    pub fn of(spec: &Spec) -> Result<Self, TwoEngines> {
        Ok(match member(spec)? {
            None => Self::Single,
            Some(Member { is_sandbox: true, .. }) => Self::Sandbox,
            Some(_) => Self::PodContainer,
        })
    }
}

/// The place in its pod of a spec's container; `None` for one that is no pod's.
///
/// # Errors
/// [`TwoEngines`].
pub fn member(spec: &Spec) -> Result<Option<Member<'_>>, TwoEngines> {
    let annotations = spec.annotations().as_ref();
    Member::of(|name| annotations?.get(name).map(String::as_str))
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
    /// The owner of the files of `container`.
    pub(crate) fn of(container: &'a str, member: Option<&Member<'a>>) -> Self {
        let pod = member.map(|member| PodIds {
            uid: member.uid.unwrap_or_default(),
            sandbox: member.sandbox.unwrap_or_default(),
        });
        Self { container, pod }
    }
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

    /// A container of CRI-O with one more annotation, which its pod's author wrote.
    fn crio_with(name: &str, value: &str) -> Spec {
        spec(&[
            (name, value),
            ("io.kubernetes.cri-o.ContainerType", "container"),
            ("io.kubernetes.cri-o.SandboxID", "f00d"),
            ("io.kubernetes.container.name", "app"),
            ("io.kubernetes.pod.uid", "8c5d"),
        ])
    }

    #[test]
    fn a_container_has_one_role() {
        let containerd = spec(&[("io.kubernetes.cri.container-type", "container")]);
        let crio = spec(&[
            ("io.kubernetes.cri-o.ContainerType", "sandbox"),
            ("io.kubernetes.container.name", "POD"),
        ]);
        assert_eq!(Role::of(&containerd), Ok(Role::PodContainer));
        assert_eq!(Role::of(&crio), Ok(Role::Sandbox));
        assert_eq!(Role::of(&crio_with("a", "b")), Ok(Role::PodContainer));
        assert_eq!(Role::of(&Spec::default()), Ok(Role::Single));
    }

    #[test]
    fn a_pod_of_crio_owns_what_crio_says() {
        let own = PodIds { uid: "8c5d", sandbox: "f00d" };
        for (name, value) in [
            ("io.kubernetes.cri.sandbox-uid", "9e1f"),
            ("io.kubernetes.cri.sandbox-id", "beef"),
            ("io.kubernetes.cri-o.Labels", r#"{"io.kubernetes.pod.uid":"9e1f"}"#),
        ] {
            let spec = crio_with(name, value);
            let member = member(&spec).unwrap();
            assert_eq!(Owner::of("c1", member.as_ref()).pod, Some(own), "{name}");
        }
        // Nor does it become a container of nobody's, whose files root has named.
        assert_eq!(Role::of(&crio_with("io.kubernetes.cri.container-type", "x")), Err(TwoEngines));
    }
}
