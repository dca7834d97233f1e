//! Paths in the guest, fixed by kata-agent.

use verity::RootHash;

/// Directory of everything the agent keeps for containers; the agent creates it anew in CreateSandbox.
pub const BASE: &str = "/run/kata-containers";

/// The only directory CopyFile writes to.
pub const SHARED: &str = "/run/kata-containers/shared/containers";

/// The pod's `/dev/shm`, mounted with the sandbox.
pub const SHM: &str = "/run/kata-containers/sandbox/shm";

/// Parent of the emptyDir volumes.
pub(crate) const EPHEMERAL: &str = "/run/kata-containers/sandbox/ephemeral";

/// The root file system of the pod's own container, in the measured image.
pub const PAUSE: &str = "/usr/lib/coffer/pause/rootfs";

/// The checked form of a layer.
pub fn mapping(root: &RootHash) -> String {
    format!("/dev/mapper/{root}")
}

/// Where a layer is mounted, for all containers that have it. Short, because an overlay's options name up to 127 of
/// them in one page; 80 bits of the root hash, because another layer with the same ones would be taken for it.
pub fn layer(root: &RootHash) -> String {
    format!("/run/l/{:.20}", root.to_string())
}

/// Where a container's changes to its root file system are.
pub fn upper(container: &str) -> String {
    format!("{BASE}/{container}/upper")
}

/// The overlay's own directory beside [`upper`].
pub fn work(container: &str) -> String {
    format!("{BASE}/{container}/work")
}

/// A container's root file system.
pub fn rootfs(container: &str) -> String {
    format!("{BASE}/{container}/rootfs")
}

/// A container's cgroup, below the one that PID 1 has made the root of all of them.
pub fn cgroup(namespace: &str, container: &str) -> String {
    format!("/{namespace}/{container}")
}
