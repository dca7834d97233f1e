//! A container's place in its pod, as its engine tells it in the annotations of the OCI specification.
//!
//! The engine's annotations stand among those of the pod's author. Which name can be believed depends on the order in which an
//! engine writes them, so nothing else reads them:
//!
//! * **containerd** (`DefaultCRIAnnotations` of `internal/cri/annotations`) writes its own last. Of the author's it takes those
//!   that the runtime's `pod_annotations` name.
//! * **CRI-O** copies all of the pod's. A container gets them before CRI-O's own (`SpecAddAnnotations` of
//!   `internal/factory/container`), a sandbox after them (`server/sandbox_run_linux.go`): there the author's word replaces
//!   CRI-O's. Labels come last in both: those that kubelet gives every pod and container, and `POD`, by which CRI-O
//!   marks a sandbox and which cannot be a container's name.
//!
//! An author adds and replaces annotations, and removes none. So a specification is of the engine whose word for a container's
//! type it has. One that has both was written for an attack, or is as good as one, and is refused.

/// containerd's annotation with a pod's CPU quota in µs per period; zero or negative: no limit.
pub const CRI_CPU_QUOTA: &str = "io.kubernetes.cri.sandbox-cpu-quota";
/// The quota's period in µs.
pub const CRI_CPU_PERIOD: &str = "io.kubernetes.cri.sandbox-cpu-period";
/// The pod's CPU weight; kubelet gives 1024 for each CPU.
pub const CRI_CPU_SHARES: &str = "io.kubernetes.cri.sandbox-cpu-shares";
/// The pod's memory limit in bytes; zero: no limit.
pub const CRI_MEMORY: &str = "io.kubernetes.cri.sandbox-memory";

/// The name by which CRI-O labels a pod's sandbox (`InfraContainerName` of `internal/oci`).
const CRIO_SANDBOX: &str = "POD";

/// Who wrote a specification for Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// containerd's CRI plugin.
    Containerd,
    /// CRI-O.
    Crio,
}

/// An engine's names for what it tells of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    /// `sandbox` or `container`.
    pub kind: &'static str,
    /// The sandbox's id.
    pub sandbox: &'static str,
    /// The pod's UID.
    pub uid: &'static str,
    /// The pod's name.
    pub pod: &'static str,
    /// The pod's namespace.
    pub namespace: &'static str,
    /// The container's name in the pod.
    pub container: &'static str,
    /// The container's image.
    pub image: &'static str,
}

const CONTAINERD: Names = Names {
    kind: "io.kubernetes.cri.container-type",
    sandbox: "io.kubernetes.cri.sandbox-id",
    uid: "io.kubernetes.cri.sandbox-uid",
    pod: "io.kubernetes.cri.sandbox-name",
    namespace: "io.kubernetes.cri.sandbox-namespace",
    container: "io.kubernetes.cri.container-name",
    image: "io.kubernetes.cri.image-name",
};

/// CRI-O has names of its own for pod, namespace and UID as well, which are not labels and not believed.
const CRIO: Names = Names {
    kind: "io.kubernetes.cri-o.ContainerType",
    sandbox: "io.kubernetes.cri-o.SandboxID",
    uid: "io.kubernetes.pod.uid",
    pod: "io.kubernetes.pod.name",
    namespace: "io.kubernetes.pod.namespace",
    container: "io.kubernetes.container.name",
    image: "io.kubernetes.cri-o.ImageName",
};

impl Engine {
    /// Its names.
    pub const fn names(self) -> &'static Names {
        match self {
            Self::Containerd => &CONTAINERD,
            Self::Crio => &CRIO,
        }
    }
}

/// A specification that both engines seem to have written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the annotations {} (containerd) and {} (CRI-O) are both there, so that nobody can tell whose container it is: remove the \
     one that is not your engine's from the pod's annotations",
    CONTAINERD.kind, CRIO.kind
)]
pub struct TwoEngines;

/// A container of a pod, the pod's own (its sandbox) among them. What the engine does not tell is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member<'a> {
    /// Who tells it.
    pub engine: Engine,
    /// Whether it is the pod's sandbox.
    pub is_sandbox: bool,
    /// The id of a container's sandbox; `None` for the sandbox, whose id is its own.
    pub sandbox: Option<&'a str>,
    /// The pod's UID, by which kubelet names its directory.
    pub uid: Option<&'a str>,
    /// The pod's name.
    pub pod: Option<&'a str>,
    /// The pod's namespace.
    pub namespace: Option<&'a str>,
    /// The container's name in the pod; `None` for the sandbox.
    pub container: Option<&'a str>,
    /// The container's image; `None` for the sandbox.
    pub image: Option<&'a str>,
}

impl<'a> Member<'a> {
    /// Reads it with `get`, which looks an annotation up by its name. `None`: the container is no pod's, and whoever made it is
    /// root of this host.
    ///
    /// # Errors
    /// [`TwoEngines`].
    pub fn of(get: impl Fn(&str) -> Option<&'a str>) -> Result<Option<Self>, TwoEngines> {
        let kind = |engine: Engine| get(engine.names().kind);
        let (engine, kind) = match (kind(Engine::Containerd), kind(Engine::Crio)) {
            (None, None) => return Ok(None),
            (Some(kind), None) => (Engine::Containerd, kind),
            (None, Some(kind)) => (Engine::Crio, kind),
            (Some(_), Some(_)) => return Err(TwoEngines),
        };
        let names = engine.names();
        let told = |name: &str| get(name).filter(|text| !text.is_empty());
        let container = told(names.container);
        let is_sandbox = match (engine, container) {
            (Engine::Crio, Some(name)) => name == CRIO_SANDBOX,
            // CRI-O labels nothing where its caller, who is not kubelet then, labels nothing.
            (Engine::Crio, None) | (Engine::Containerd, _) => kind == "sandbox",
        };
        let of_container = |text: Option<&'a str>| text.filter(|_| !is_sandbox);
        Ok(Some(Self {
            engine,
            is_sandbox,
            sandbox: of_container(told(names.sandbox)),
            uid: told(names.uid),
            pod: told(names.pod),
            namespace: told(names.namespace),
            container: of_container(container),
            image: of_container(told(names.image)),
        }))
    }

    /// The sandbox that the container `id` is in, or is.
    pub fn sandbox_of<'b>(&self, id: &'b str) -> &'b str
    where
        'a: 'b,
    {
        self.sandbox.unwrap_or(id)
    }

    /// What is known of the container `id`, under its engine's names: as a guest is told of it.
    pub fn annotations<'b>(&self, id: &'b str) -> impl Iterator<Item = (&'static str, &'b str)>
    where
        'a: 'b,
    {
        let names = self.engine.names();
        let kind = if self.is_sandbox { "sandbox" } else { "container" };
        // CRI-O's name of an image is any that it knows it by, and tells a guest nothing.
        let image = self.image.filter(|_| self.engine == Engine::Containerd);
        let all = [
            (names.kind, Some(kind)),
            (names.sandbox, Some(self.sandbox_of(id))),
            (names.uid, self.uid),
            (names.pod, self.pod),
            (names.namespace, self.namespace),
            (names.container, self.container),
            (names.image, image),
        ];
        all.into_iter().filter_map(|(name, text)| Some((name, text?)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A sandbox as containerd writes it.
    const CONTAINERD_SANDBOX: [(&str, &str); 5] = [
        ("io.kubernetes.cri.container-type", "sandbox"),
        ("io.kubernetes.cri.sandbox-id", "f00d"),
        ("io.kubernetes.cri.sandbox-uid", "8c5d"),
        ("io.kubernetes.cri.sandbox-name", "web-0"),
        ("io.kubernetes.cri.sandbox-namespace", "ml"),
    ];
    /// A sandbox as CRI-O writes it, for kubelet.
    const CRIO_SANDBOX_SPEC: [(&str, &str); 9] = [
        ("io.kubernetes.cri-o.ContainerType", "sandbox"),
        ("io.kubernetes.cri-o.SandboxID", "f00d"),
        ("io.kubernetes.cri-o.Namespace", "ml"),
        ("io.kubernetes.cri-o.KubeName", "web-0"),
        ("io.kubernetes.cri-o.Labels", r#"{"io.kubernetes.pod.uid":"8c5d"}"#),
        ("io.kubernetes.container.name", "POD"),
        ("io.kubernetes.pod.uid", "8c5d"),
        ("io.kubernetes.pod.name", "web-0"),
        ("io.kubernetes.pod.namespace", "ml"),
    ];
    /// A container of it.
    const CRIO_CONTAINER_SPEC: [(&str, &str); 7] = [
        ("io.kubernetes.cri-o.ContainerType", "container"),
        ("io.kubernetes.cri-o.SandboxID", "f00d"),
        ("io.kubernetes.cri-o.ImageName", "quay.io/a/b:1"),
        ("io.kubernetes.container.name", "app"),
        ("io.kubernetes.pod.uid", "8c5d"),
        ("io.kubernetes.pod.name", "web-0"),
        ("io.kubernetes.pod.namespace", "ml"),
    ];
    /// What a pod's author may write in order to be somebody else, with the names of either engine.
    const FORGED: [(&str, &str); 19] = [
        ("io.kubernetes.cri.sandbox-id", "beef"),
        ("io.kubernetes.cri.sandbox-uid", "9e1f"),
        ("io.kubernetes.cri.sandbox-name", "victim"),
        ("io.kubernetes.cri.sandbox-namespace", "other"),
        ("io.kubernetes.cri.container-name", "other"),
        ("io.kubernetes.cri.image-name", "evil"),
        ("io.kubernetes.cri-o.ContainerType", "container"),
        ("io.kubernetes.cri-o.ContainerType", ""),
        ("io.kubernetes.cri-o.SandboxID", "beef"),
        ("io.kubernetes.cri-o.Namespace", "other"),
        ("io.kubernetes.cri-o.KubeName", "victim"),
        ("io.kubernetes.cri-o.Labels", r#"{"io.kubernetes.pod.uid":"9e1f"}"#),
        ("io.kubernetes.cri-o.ImageName", "evil"),
        ("io.kubernetes.cri-o.SandboxName", "victim"),
        ("io.kubernetes.cri-o.ContainerID", "beef"),
        ("io.kubernetes.container.name", "app"),
        ("io.kubernetes.pod.uid", "9e1f"),
        ("io.kubernetes.pod.name", "victim"),
        ("io.kubernetes.pod.namespace", "other"),
    ];

    fn member<'a>(annotations: &[(&'a str, &'a str)]) -> Result<Option<Member<'a>>, TwoEngines> {
        let all: BTreeMap<_, _> = annotations.iter().copied().collect();
        Member::of(|name| all.get(name).copied())
    }

    const POD: Member<'_> = Member {
        engine: Engine::Containerd,
        is_sandbox: true,
        sandbox: None,
        uid: Some("8c5d"),
        pod: Some("web-0"),
        namespace: Some("ml"),
        container: None,
        image: None,
    };

    #[test]
    fn both_engines_are_understood() {
        assert_eq!(member(&CONTAINERD_SANDBOX), Ok(Some(POD)));
        assert_eq!(member(&CRIO_SANDBOX_SPEC), Ok(Some(Member { engine: Engine::Crio, ..POD })));
        let container = Member {
            engine: Engine::Crio,
            is_sandbox: false,
            sandbox: Some("f00d"),
            container: Some("app"),
            image: Some("quay.io/a/b:1"),
            ..POD
        };
        assert_eq!(member(&CRIO_CONTAINER_SPEC), Ok(Some(container)));
        assert_eq!(member(&[]), Ok(None));
        assert_eq!(
            member(&[("io.kubernetes.cri.sandbox-id", "f00d"), ("io.kubernetes.pod.uid", "8c5d")]),
            Ok(None)
        );
    }

    /// CRI-O writes the pod's annotations over a sandbox's own, and labels over both.
    #[test]
    fn a_pods_author_changes_nothing_of_a_sandbox_of_crio() {
        let labels = &CRIO_SANDBOX_SPEC[5..];
        for forged in FORGED {
            let spec = [&CRIO_SANDBOX_SPEC[..], &[forged], labels].concat();
            assert_eq!(member(&spec), member(&CRIO_SANDBOX_SPEC), "{forged:?}");
        }
    }

    /// CRI-O writes a container's own, and labels, over the pod's annotations.
    #[test]
    fn a_pods_author_changes_nothing_of_a_container_of_crio() {
        for forged in FORGED {
            let spec = [&[forged], &CRIO_CONTAINER_SPEC[..]].concat();
            assert_eq!(member(&spec), member(&CRIO_CONTAINER_SPEC), "{forged:?}");
        }
    }

    /// Where a node's containerd lets everything pass; it writes its own over that.
    #[test]
    fn a_pods_author_makes_no_other_engine_of_containerd() {
        for forged in FORGED {
            let found = member(&[&[forged], &CONTAINERD_SANDBOX[..]].concat());
            let is_crios = forged.0 == CRIO.kind;
            let expected = if is_crios { Err(TwoEngines) } else { Ok(true) };
            assert_eq!(
                found.map(|found| found.is_some_and(|it| it.engine == Engine::Containerd)),
                expected,
                "{forged:?}"
            );
            // A name and an image are a container's; a sandbox has none to be replaced.
            assert!(is_crios || found == Ok(Some(POD)), "{forged:?}");
        }
    }

    #[test]
    fn a_specification_of_two_engines_is_refused() {
        for kind in ["sandbox", "container", "x", ""] {
            for own in [&CRIO_SANDBOX_SPEC[..], &CRIO_CONTAINER_SPEC] {
                assert_eq!(
                    member(&[own, &[("io.kubernetes.cri.container-type", kind)]].concat()),
                    Err(TwoEngines)
                );
            }
        }
        let text = TwoEngines.to_string();
        assert!(
            text.contains(CONTAINERD.kind) && text.contains(CRIO.kind) && text.contains("remove"),
            "{text}"
        );
    }

    #[test]
    fn an_unknown_type_is_a_containers() {
        let found = member(&[("io.kubernetes.cri.container-type", "x")]).unwrap().unwrap();
        assert!(!found.is_sandbox && found.uid.is_none() && found.sandbox_of("own") == "own");
    }

    /// Without labels CRI-O's caller is root, and not kubelet.
    #[test]
    fn a_sandbox_that_nobody_labelled_is_one_by_its_type() {
        assert!(member(&[("io.kubernetes.cri-o.ContainerType", "sandbox")]).unwrap().unwrap().is_sandbox);
    }

    #[test]
    fn a_guest_is_told_what_is_believed_and_nothing_else() {
        let told = |spec: &[(&str, &str)]| -> Vec<String> {
            let found = member(spec).unwrap().unwrap();
            found.annotations("own").map(|(name, text)| format!("{name}={text}")).collect()
        };
        assert_eq!(
            told(&[&CRIO_SANDBOX_SPEC[..], &[("io.kubernetes.cri-o.SandboxID", "beef")]].concat()),
            [
                "io.kubernetes.cri-o.ContainerType=sandbox",
                "io.kubernetes.cri-o.SandboxID=own",
                "io.kubernetes.pod.uid=8c5d",
                "io.kubernetes.pod.name=web-0",
                "io.kubernetes.pod.namespace=ml",
            ]
        );
        let container = told(&CRIO_CONTAINER_SPEC);
        assert_eq!(container.len(), 6, "{container:?}");
        assert!(container.contains(&"io.kubernetes.container.name=app".to_owned()), "{container:?}");
        assert!(container.contains(&"io.kubernetes.cri-o.SandboxID=f00d".to_owned()), "{container:?}");
    }
}
