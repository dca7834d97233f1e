//! A whole container.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use agent_client::proto::agent::{CreateContainerRequest, Device, Storage, UpdateEphemeralMountsRequest};
use agent_client::proto::oci;
use oci_spec::runtime::{Hooks, LinuxNamespaceType, Spec};
use protobuf::MessageField;
use shared_types::EmptyDirectory;
use shared_types::cri::Member;

use crate::error::SpecError;
use crate::linux::{GuestLinux, linux};
use crate::mounts::{GuestMounts, mounts};
use crate::passthrough::PassedDevice;
use crate::paths;
use crate::pause::pause;
use crate::process::process;
use crate::role::{Owner, member};
use crate::rootfs::GuestRootfs;

/// Annotations that name devices of the host.
const CDI_PREFIX: &str = "cdi.k8s.io/";

/// Where the agent looks up which mount holds a container's last words.
const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";

/// Kind of a file on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A block or character device.
    Device,
    /// A socket, a pipe.
    Other,
}

/// What the caller finds at a path of the host, symlinks followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostFile {
    /// Its kind.
    pub kind: FileKind,
    /// Its group.
    pub gid: u32,
    /// Its type and permissions, as stat(2) has them in `st_mode`.
    pub mode: u32,
    /// What is mounted there, of what kubelet mounts for an emptyDir's `medium`.
    pub medium: Option<Medium>,
    /// What it is like, if it is a directory with nothing in it.
    pub empty: Option<EmptyDirectory>,
}

/// How kubelet says what an emptyDir is made of: by what it mounts at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// `Memory`: a tmpfs of so many bytes, which is the `sizeLimit` where there is one.
    Memory(u64),
    /// `HugePages`: a hugetlbfs.
    HugePages,
}

/// What must be known of the pod.
#[derive(Debug, Clone, Copy)]
pub struct SandboxFacts<'a> {
    /// containerd's namespace, `k8s.io` for example; names the parent cgroup in the guest.
    pub namespace: &'a str,
    /// Whether the guest's agent filters system calls, as GetGuestDetails says.
    pub seccomp: bool,
    /// Whether the VM has a scratch disk.
    pub scratch: bool,
    /// Who says which volumes of an image have nothing in them.
    pub volumes: VolumeJudge<'a>,
}

/// Who says that an image has nothing at the place of one of its `VOLUME`s: only there a container gets the engine's empty
/// directory, which would hide what the image has.
#[derive(Debug, Clone, Copy)]
pub enum VolumeJudge<'a> {
    /// The engine: where its directory for a volume is empty, the image has nothing. containerd and nerdctl copy into it what
    /// the image has. CRI-O copies nothing, and so its directory hides what the image has, as it does without a VM.
    Engine,
    /// The pod's policy, which says what the directories at these places are like, as Go cleans paths. At others an empty
    /// directory of the engine's says nothing; and the guest refuses one that is like another, as CRI-O's are, which are all
    /// root's.
    Policy(&'a BTreeMap<String, EmptyDirectory>),
}

impl VolumeJudge<'_> {
    /// Whether the engine's empty directory may be mounted there.
    pub(crate) fn takes(&self, destination: &Path, directory: EmptyDirectory) -> bool {
        match self {
            Self::Engine => true,
            // Without a slash at the end, or two.
            Self::Policy(places) => {
                let clean = destination.components().collect::<PathBuf>();
                clean.to_str().and_then(|place| places.get(place)) == Some(&directory)
            }
        }
    }
}

/// How much of the host is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyKind {
    /// One regular file.
    File,
    /// A directory with all that is in it.
    Tree,
}

/// Something to copy into the guest before the container is created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Where it is on the host.
    pub host: PathBuf,
    /// The pod's directory of the host below which it must be, without a symbolic link on the way. `None` for a container
    /// that is no pod's: whoever named the file is root of the host.
    pub below: Option<PathBuf>,
    /// Where the guest's spec expects it.
    pub guest: String,
    /// A file or a tree.
    pub kind: CopyKind,
    /// Whether later changes on the host must be copied too.
    pub watch: bool,
}

/// A container's last words: after its end they are fetched with GetDiagnosticData and written to the host's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TerminationLog {
    /// kubelet's file.
    pub host: PathBuf,
    /// As [`Copy::below`].
    pub below: Option<PathBuf>,
    /// The path in the container.
    pub destination: String,
}

/// What the guest is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct GuestContainer {
    /// The spec in the guest's terms.
    pub oci: oci::Spec,
    /// What the agent mounts: the root file system's layers, then the volumes.
    pub storages: Vec<Storage>,
    /// Devices of the VM that the container gets; [`Self::pass`] adds them.
    pub devices: Vec<Device>,
    /// What must be in the guest before.
    pub copies: Vec<Copy>,
    /// Whether the container joins the sandbox's PID namespace.
    pub sandbox_pidns: bool,
    /// The container's last words, where somebody wants them.
    pub termination_log: Option<TerminationLog>,
    /// What was left out of the spec and why, for the log.
    pub notes: Vec<String>,
    /// Gives each emptyDir of the container that has a size its size, once it is mounted.
    pub sizes: Vec<UpdateEphemeralMountsRequest>,
    /// Places in emptyDirs (`subPath`), which the agent makes. One that is there it would change, which kubelet does not: the
    /// caller asks for each, and [keeps](Self::keep) those.
    pub places: Vec<String>,
}

impl GuestContainer {
    /// Leaves a place in an emptyDir as it is.
    pub fn keep(&mut self, place: &str) {
        self.storages.retain(|storage| storage.mount_point != place);
    }

    /// Gives the container devices of its VM, in the guest's names. What the engine said of them in the host's is gone by
    /// then.
    pub fn pass(&mut self, devices: &[PassedDevice]) {
        self.devices.extend(devices.iter().map(PassedDevice::device));
        let named = devices.iter().filter_map(|device| device.annotation(CDI_PREFIX));
        self.oci.Annotations.extend(named);
    }

    /// The request that creates this container.
    pub fn into_request(self, container: &str) -> CreateContainerRequest {
        CreateContainerRequest {
            container_id: container.to_string(),
            exec_id: container.to_string(),
            devices: self.devices,
            storages: self.storages,
            OCI: MessageField::some(self.oci),
            sandbox_pidns: self.sandbox_pidns,
            ..Default::default()
        }
    }
}

/// Translates the spec of container `container`; `stat` says what is at a path of the host. A pod's own container needs
/// no root file system: it has the guest image's.
pub fn translate(
    container: &str,
    spec: &Spec,
    sandbox: &SandboxFacts<'_>,
    rootfs: &GuestRootfs,
    stat: &dyn Fn(&Path) -> Option<HostFile>,
) -> Result<GuestContainer, SpecError> {
    if !is_usable_id(container) {
        return Err(SpecError::BadId { container: container.to_string() });
    }
    let member =
        member(spec).map_err(|source| SpecError::Engines { container: container.to_string(), source })?;
    if let Some(pod) = member.filter(|member| member.is_sandbox) {
        return pause(container, spec, &pod, sandbox);
    }
    if rootfs.is_empty() {
        return Err(SpecError::NoLayers { container: container.to_string() });
    }
    let missing = |part| SpecError::Missing { container: container.to_string(), part };
    let from_process = spec.process().as_ref().ok_or_else(|| missing("process"))?;
    let from_linux = spec.linux().as_ref().ok_or_else(|| missing("linux"))?;

    let mut notes = Vec::new();
    let owner = Owner::of(container, member.as_ref());
    if owner.pod.is_none() {
        hooks_network(container, spec)?;
    }
    if spec.hooks().as_ref().is_some_and(has_hooks) {
        notes.push("hooks left out: they are programs of the host".to_string());
    }
    let read_only = spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or_default();
    let from_mounts = spec.mounts().as_deref().unwrap_or_default();
    let GuestMounts { mounts, storages: volumes, copies, termination_log, notes: of_mounts, sizes, places } =
        mounts(owner, read_only, sandbox, from_mounts, stat)?;
    notes.extend(of_mounts);
    let GuestLinux { linux, sandbox_pidns } = linux(owner, from_linux, sandbox, &mut notes)?;

    let oci = oci::Spec {
        Version: spec.version().clone(),
        Process: MessageField::some(process(from_process, &mut notes)),
        Root: MessageField::some(oci::Root {
            Path: paths::rootfs(container),
            Readonly: read_only,
            ..Default::default()
        }),
        Hostname: hostname(spec, linux.Namespaces.iter().any(|ns| ns.Type == "uts"), &mut notes),
        Mounts: mounts,
        Annotations: annotations(container, member.as_ref(), spec, termination_log.as_ref(), &mut notes),
        Linux: MessageField::some(linux),
        ..Default::default()
    };
    let storages = rootfs.storages(container).into_iter().chain(volumes).collect();
    Ok(GuestContainer {
        oci,
        storages,
        devices: Vec::new(),
        copies,
        sandbox_pidns,
        termination_log,
        notes,
        sizes,
        places,
    })
}

/// The agent builds paths and cgroups from ids.
fn is_usable_id(id: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    id.starts_with(|c: char| c.is_ascii_alphanumeric()) && id.chars().all(letter) && !id.contains("..")
}

fn has_hooks(hooks: &Hooks) -> bool {
    // The getter of the deprecated kind is deprecated too; compare with "none" instead.
    *hooks != Hooks::default()
}

/// Refuses a container whose network a hook of nerdctl's would make (`pkg/labels` and `withNerdctlOCIHook` of
/// `pkg/cmd/container/create.go`): CNI would be asked for it after the VM has its interfaces.
fn hooks_network(container: &str, spec: &Spec) -> Result<(), SpecError> {
    const NETWORKS: &str = "nerdctl/networks";
    let annotations = spec.annotations().as_ref();
    let Some(networks) = annotations.and_then(|all| all.get(NETWORKS)) else { return Ok(()) };
    let namespaces = spec.linux().iter().filter_map(|linux| linux.namespaces().as_ref()).flatten();
    let has_own = namespaces
        .filter(|namespace| namespace.typ() == LinuxNamespaceType::Network)
        .any(|namespace| namespace.path().as_ref().is_some_and(|path| path != Path::new("")));
    let has_hook = spec.hooks().as_ref().and_then(|hooks| hooks.create_runtime().as_ref());
    if networks == r#"["none"]"# || has_own || has_hook.is_none_or(Vec::is_empty) {
        return Ok(());
    }
    let networks = networks.chars().take(100).collect();
    Err(SpecError::HookNetwork { container: container.to_string(), networks })
}

/// The agent refuses a host name without a UTS namespace to set it in.
pub(crate) fn hostname(spec: &Spec, has_uts: bool, notes: &mut Vec<String>) -> String {
    if spec.domainname().as_ref().is_some_and(|name| !name.is_empty()) {
        notes.push("domainname left out: not in the agent's contract".to_string());
    }
    let name = spec.hostname().clone().unwrap_or_default();
    if !name.is_empty() && !has_uts {
        notes.push("hostname left out: the container has no UTS namespace".to_string());
        return String::new();
    }
    name
}

/// By which a container and its pod are known, in their engine's names. The agent has no use for others, and a guest's policy
/// takes none.
pub(crate) fn annotations(
    container: &str,
    member: Option<&Member<'_>>,
    spec: &Spec,
    log: Option<&TerminationLog>,
    notes: &mut Vec<String>,
) -> HashMap<String, String> {
    let known = member.into_iter().flat_map(|member| member.annotations(container));
    let mut kept: HashMap<_, _> = known.map(|(name, text)| (name.to_string(), text.to_string())).collect();
    if spec.annotations().iter().flatten().any(|(name, _)| name.starts_with(CDI_PREFIX)) {
        notes.push(format!("{CDI_PREFIX} annotations left out: they name devices of the host"));
    }
    if let Some(log) = log {
        kept.insert(TERMINATION_PATH.to_string(), log.destination.clone());
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(json: &str) -> Result<GuestContainer, SpecError> {
        let spec: Spec = serde_json::from_str(json).unwrap();
        let rootfs = GuestRootfs::Layers(vec!["1".repeat(64).parse().unwrap()]);
        translate(
            "c1",
            &spec,
            &SandboxFacts {
                namespace: "default",
                seccomp: true,
                scratch: false,
                volumes: VolumeJudge::Engine,
            },
            &rootfs,
            &|_| None,
        )
    }

    const PROCESS: &str = r#""process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"}"#;

    #[test]
    fn hooks_and_device_annotations_are_left_out_and_noted() {
        let json = format!(
            r#"{{"ociVersion": "1.2.0", {PROCESS}, "root": {{"path": "/host/rootfs", "readonly": true}},
                "hooks": {{"createRuntime": [{{"path": "/usr/bin/hook"}}]}}, "hostname": "h",
                "annotations": {{"cdi.k8s.io/vfio0": "nvidia.com/pgpu=0", "io.katacontainers.x": "y",
                    "io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-uid": "1",
                    "io.kubernetes.pod.uid": "2"}},
                "linux": {{"namespaces": [{{"type": "pid"}}, {{"type": "ipc"}}, {{"type": "network"}}, {{"type": "uts"}}]}}}}"#
        );
        let guest = translated(&json).unwrap();
        assert_eq!(guest.notes.len(), 2, "{:?}", guest.notes);
        assert!(guest.oci.Hooks.is_none());
        let mut names: Vec<_> = guest.oci.Annotations.keys().collect();
        names.sort();
        let known =
            ["container-type", "sandbox-id", "sandbox-uid"].map(|name| format!("io.kubernetes.cri.{name}"));
        assert_eq!(names, known.iter().collect::<Vec<_>>());
        assert_eq!(
            (guest.oci.Root.Path.as_str(), guest.oci.Root.Readonly),
            ("/run/kata-containers/c1/rootfs", true)
        );
        assert_eq!(guest.oci.Hostname, "h");
    }

    #[test]
    fn gpus_are_named_as_the_guests_policy_expects() {
        let json = format!(
            r#"{{"ociVersion": "1.2.0", {PROCESS},
                "linux": {{"namespaces": [{{"type": "pid"}}, {{"type": "ipc"}}, {{"type": "network"}}, {{"type": "uts"}}]}},
                "annotations": {{"cdi.k8s.io/vfio7": "nvidia.com/pgpu=7"}}}}"#
        );
        let mut guest = translated(&json).unwrap();
        let passed = |number, gpu| PassedDevice {
            number,
            host: format!("0000:4{number}:00.0"),
            guest: "09/00".into(),
            gpu,
        };
        guest.pass(&[passed(1, Some(10)), passed(2, None)]);
        assert_eq!(
            guest.oci.Annotations.iter().collect::<Vec<_>>(),
            [(&"cdi.k8s.io/vfio1".to_owned(), &"nvidia.com/gpu=10".to_owned())]
        );
        let request = guest.into_request("c1");
        let device = &request.devices[0];
        assert_eq!(
            (device.id.as_str(), device.type_.as_str(), device.vm_path.as_str()),
            ("vfio1", "vfio-pci-gk", "")
        );
        assert_eq!(device.container_path, "/dev/vfio/devices/vfio1");
        assert_eq!(device.options, ["0000:41:00.0=09/00"]);
        assert_eq!(request.devices[1].id, "vfio2");
    }

    #[test]
    fn a_host_name_needs_its_namespace() {
        let json = format!(
            r#"{{"ociVersion": "1.2.0", {PROCESS}, "hostname": "h", "annotations": {{"io.kubernetes.cri.container-type": "container"}},
                "linux": {{"namespaces": [{{"type": "pid"}}, {{"type": "ipc"}}, {{"type": "network"}}]}}}}"#
        );
        let guest = translated(&json).unwrap();
        assert_eq!(guest.oci.Hostname, "");
        assert_eq!(guest.notes.len(), 1, "{:?}", guest.notes);
    }

    /// `nerdctl run -d -p 8080:80`: the ports would lead nowhere.
    #[test]
    fn a_network_that_a_hook_would_make_is_refused() {
        let of = |networks: &str, path: &str, hooks: &str| {
            let json = format!(
                r#"{{"ociVersion": "1.2.0", {PROCESS}, "annotations": {{"nerdctl/networks": "{networks}"}}, {hooks}
                    "linux": {{"namespaces": [{{"type": "pid"}}, {{"type": "ipc"}}, {{"type": "uts"}},
                        {{"type": "network", "path": "{path}"}}]}}}}"#
            );
            translated(&json).map(|_| ()).map_err(|error| error.to_string())
        };
        let hook = r#""hooks": {"createRuntime": [{"path": "/usr/bin/nerdctl"}]},"#;
        let error = of(r#"[\"bridge\"]"#, "", hook).unwrap_err();
        for part in ["bridge", "--network none", "ns:/run/netns/"] {
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(of(r#"[\"none\"]"#, "", hook), Ok(()));
        assert_eq!(of(r#"[\"ns:/run/netns/x\"]"#, "/run/netns/x", hook), Ok(()));
        assert_eq!(of(r#"[\"bridge\"]"#, "", ""), Ok(()));
    }

    #[test]
    fn an_incomplete_spec_is_refused() {
        let error = translated(r#"{"ociVersion": "1.2.0", "linux": {}}"#).unwrap_err();
        assert_eq!(error.to_string(), "container c1: the OCI spec has no process");
        let error = translated(&format!(r#"{{"ociVersion": "1.2.0", {PROCESS}}}"#)).unwrap_err();
        assert_eq!(error.to_string(), "container c1: the OCI spec has no linux");
    }

    #[test]
    fn ids_that_are_paths_are_refused() {
        let sandbox = SandboxFacts {
            namespace: "default",
            seccomp: true,
            scratch: false,
            volumes: VolumeJudge::Engine,
        };
        let rootfs = GuestRootfs::Layers(vec!["1".repeat(64).parse().unwrap()]);
        for id in ["", "..", "a/b", "-x", "a b", "a..b"] {
            let error = translate(id, &Spec::default(), &sandbox, &rootfs, &|_| None).unwrap_err();
            assert!(matches!(error, SpecError::BadId { .. }), "{id}");
        }
    }

    #[test]
    fn a_root_file_system_has_a_layer() {
        let sandbox = SandboxFacts {
            namespace: "default",
            seccomp: true,
            scratch: false,
            volumes: VolumeJudge::Engine,
        };
        let rootfs = GuestRootfs::Layers(Vec::new());
        let error = translate("c1", &Spec::default(), &sandbox, &rootfs, &|_| None).unwrap_err();
        assert!(matches!(error, SpecError::NoLayers { .. }));
    }
}
