//! Paths in the guest, fixed by kata-agent.

use crate::rootfs::LunAddress;

/// Directory of everything the agent keeps for containers; the agent creates it anew in CreateSandbox.
pub const BASE: &str = "/run/kata-containers";

/// The only directory CopyFile writes to.
pub const SHARED: &str = "/run/kata-containers/shared/containers";

/// The pod's `/dev/shm`, mounted with the sandbox.
pub const SHM: &str = "/run/kata-containers/sandbox/shm";

/// Parent of the emptyDir volumes.
pub const EPHEMERAL: &str = "/run/kata-containers/sandbox/ephemeral";

/// Where a layer is mounted, for all containers that have it. Short, because an overlay's options name up to 128 of them.
pub fn layer(address: LunAddress) -> String {
    format!("/run/layers/{}-{}", address.target, address.lun)
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
