//! Paths in the guest, fixed by kata-agent.

/// Directory of everything the agent keeps for containers; the agent creates it anew in CreateSandbox.
pub const BASE: &str = "/run/kata-containers";

/// The only directory CopyFile writes to.
pub const SHARED: &str = "/run/kata-containers/shared/containers";

/// The pod's `/dev/shm`, mounted with the sandbox.
pub const SHM: &str = "/run/kata-containers/sandbox/shm";

/// Parent of the emptyDir volumes.
pub const EPHEMERAL: &str = "/run/kata-containers/sandbox/ephemeral";

/// A container's root file system.
pub fn rootfs(container: &str) -> String {
    format!("{BASE}/{container}/rootfs")
}
