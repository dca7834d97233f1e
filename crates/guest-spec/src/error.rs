//! Specs that cannot be had in a VM.

use std::path::PathBuf;

use shared_types::cri::TwoEngines;
use thiserror::Error;

/// Why a spec was refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SpecError {
    /// A part that every container has is not there.
    #[error("container {container}: the OCI spec has no {part}")]
    Missing {
        /// The container's id.
        container: String,
        /// The missing part's name in the spec.
        part: &'static str,
    },
    /// The id would be taken apart as a path in the guest.
    #[error("container id {container:?} is not usable: letters, digits, `_`, `.` and `-` only")]
    BadId {
        /// The id.
        container: String,
    },
    /// Annotations of two engines.
    #[error("container {container} cannot be told apart from another pod's")]
    Engines {
        /// The container's id.
        container: String,
        /// Which annotations, and what to do.
        #[source]
        source: TwoEngines,
    },
    /// The root file system has no layers.
    #[error("container {container}: no root file system layers")]
    NoLayers {
        /// The container's id.
        container: String,
    },
    /// A mount's destination is not an absolute path without `..`.
    #[error("container {container}: mount destination {destination} must be an absolute path without `..`")]
    BadDestination {
        /// The container's id.
        container: String,
        /// Where it was to be mounted.
        destination: PathBuf,
    },
    /// A bind mount with an option that the guest's agent would drop.
    #[error(
        "container {container}: the mount on {destination} has the option {option:?}, which the guest's agent does not know; \
         leave it out"
    )]
    MountOption {
        /// The container's id.
        container: String,
        /// Where it was to be mounted.
        destination: PathBuf,
        /// The option, shortened.
        option: String,
    },
    /// A bind mount without a source.
    #[error("container {container}: the mount on {destination} has no source")]
    NoSource {
        /// The container's id.
        container: String,
        /// Where it was to be mounted.
        destination: PathBuf,
    },
    /// The source is not there, or is neither file nor directory where one of them is due.
    #[error("container {container}: {source_path} for {destination} is not a {expected}")]
    WrongKind {
        /// The container's id.
        container: String,
        /// Where it was to be mounted.
        destination: PathBuf,
        /// The path on the host.
        source_path: String,
        /// What the mount needs.
        expected: &'static str,
    },
    /// A host path that is no volume we can carry into the guest.
    #[error(
        "container {container}: {source_path} cannot be mounted on {destination}: no host directory is shared with the \
         VM; use a configMap, secret, projected, downwardAPI or emptyDir volume, or put the files into the image"
    )]
    HostPath {
        /// The container's id.
        container: String,
        /// Where it was to be mounted.
        destination: PathBuf,
        /// The path on the host.
        source_path: String,
    },
    /// A `VOLUME` of the image below a root file system that nothing is written to.
    #[error(
        "container {container}: the image's volume {destination} has to be writable, and the root file system is read-only; \
         mount an emptyDir volume there"
    )]
    ImageVolume {
        /// The container's id.
        container: String,
        /// Where the image wants it.
        destination: PathBuf,
    },
    /// A `subPath` of an emptyDir of which the host's mounts do not tell which directory it is.
    #[error(
        "container {container}: the subPath of the emptyDir {volume} cannot be mounted on {destination}: kubelet's mount of \
         it is not in the shim's list of mounts; mount all of the volume and name the directory in the program's arguments"
    )]
    SubPath {
        /// The container's id.
        container: String,
        /// Where it was to be mounted.
        destination: PathBuf,
        /// The volume's name in the pod.
        volume: String,
    },
    /// A device of the host.
    #[error(
        "container {container}: device {device} cannot be had: a VM has none of the host's devices but GPUs; remove it from \
         the pod, or set privileged_without_host_devices for the runtime's handler"
    )]
    Device {
        /// The container's id.
        container: String,
        /// Its path.
        device: PathBuf,
    },
    /// The pod wants to see the host.
    #[error(
        "container {container}: the host's {namespace} namespace cannot be had: the container is in a VM; leave {field} out"
    )]
    HostNamespace {
        /// The container's id.
        container: String,
        /// The namespace's type.
        namespace: &'static str,
        /// What asks for it in a pod's manifest.
        field: &'static str,
    },
    /// A container that is no pod's, in somebody else's namespace.
    #[error(
        "container {container}: it cannot be in the {namespace} namespace {path}, which is the host's or another container's: it \
         is in a VM of its own; leave the namespace out"
    )]
    JoinedNamespace {
        /// The container's id.
        container: String,
        /// The namespace's type.
        namespace: &'static str,
        /// As the specification has it.
        path: PathBuf,
    },
    /// A network that nerdctl's hook would make.
    #[error(
        "container {container}: the network {networks} cannot be had: a hook on the host would make it, after the VM has its \
         interfaces; use `--network none`, or a namespace that CNI has set up before (`--network ns:/run/netns/NAME`)"
    )]
    HookNetwork {
        /// The container's id.
        container: String,
        /// As nerdctl's annotation has it.
        networks: String,
    },
    /// Huge pages, of which the guest has none.
    #[error(
        "container {container}: {limit} bytes of huge pages of {size} cannot be had: the guest has none; remove the limit"
    )]
    HugePages {
        /// The container's id.
        container: String,
        /// Such as `2MB`.
        size: String,
        /// Bytes.
        limit: i64,
    },
    /// An emptyDir of huge pages.
    #[error(
        "container {container}: the emptyDir {volume} cannot be had: its medium is HugePages, of which the guest has none; \
         leave the medium out, or use Memory"
    )]
    HugePagesVolume {
        /// The container's id.
        container: String,
        /// Its name in the pod.
        volume: String,
    },
    /// More than the VM has.
    #[error(
        "container {container}: {wanted} are more than its VM has, which is {has}: a VM does not grow; make the pod anew with \
         the limit that it needs"
    )]
    BeyondVm {
        /// The container's id.
        container: String,
        /// The limit, with what it is of.
        wanted: String,
        /// What there is.
        has: String,
    },
    /// Less memory than any process needs.
    #[error(
        "container {container}: a memory limit of {limit} bytes is less than any process needs; {least} is the least"
    )]
    Memory {
        /// The container's id.
        container: String,
        /// Bytes.
        limit: i64,
        /// Bytes.
        least: i64,
    },
    /// A device node as a bind mount.
    #[error(
        "container {container}: device {source_path} cannot be mounted on {destination}: request it as a device, the \
         VM has no access to the host's device nodes"
    )]
    DeviceNode {
        /// The container's id.
        container: String,
        /// Where it was to be mounted.
        destination: PathBuf,
        /// The path on the host.
        source_path: String,
    },
    /// A volume of a Kubernetes plugin that needs the host.
    #[error(
        "container {container}: volume {volume} of type {plugin} cannot be mounted on {destination}: only configMap, \
         secret, projected, downwardAPI and emptyDir volumes reach the VM"
    )]
    Plugin {
        /// The container's id.
        container: String,
        /// Where it was to be mounted.
        destination: PathBuf,
        /// The plugin's name, such as `csi`.
        plugin: String,
        /// The volume's name in the pod.
        volume: String,
    },
    /// A file system type that is not mounted inside a VM.
    #[error(
        "container {container}: a mount of type {fstype} on {destination} is not possible in the VM; remove it"
    )]
    FsType {
        /// The container's id.
        container: String,
        /// Where it was to be mounted.
        destination: PathBuf,
        /// The mount's type.
        fstype: String,
    },
}
