//! Paths in the guest, fixed by kata-agent.

use sha2::{Digest as _, Sha256};
use verity::RootHash;

/// Directory of everything the agent keeps for containers; the agent creates it anew in CreateSandbox.
pub const BASE: &str = "/run/kata-containers";

/// The only directory CopyFile writes to.
pub const SHARED: &str = "/run/kata-containers/shared/containers";

/// The pod's `/dev/shm`, mounted with the sandbox.
pub const SHM: &str = "/run/kata-containers/sandbox/shm";

/// What no file of it can be.
pub const SHM_CONFINED: [&str; 3] = ["noexec", "nosuid", "nodev"];

/// Parent of the emptyDir volumes.
pub(crate) const EPHEMERAL: &str = "/run/kata-containers/sandbox/ephemeral";

/// The root file system of the pod's own container, in the measured image.
pub const PAUSE: &str = "/usr/lib/coffer/pause/rootfs";

/// The checked form of a layer.
pub fn mapping(root: &RootHash) -> String {
    format!("/dev/mapper/{root}")
}

/// Where a layer is mounted for a container, and for no other one: kata-agent takes a mount point that it has counted before for
/// mounted, also while that mount waits for its disk or fails (4.1.0, `add_storages`). Short, because an overlay's options name
/// up to 127 of them in one page. Of an engine's id ten digits, which policies allow once; another id can be as long as it
/// likes and begin like its neighbour's, so it goes by its digest.
pub fn layer(container: &str, root: &RootHash) -> String {
    let digit = |letter: u8| letter.is_ascii_digit() || (b'a'..=b'f').contains(&letter);
    let root = root.to_string();
    if container.len() == 64 && container.bytes().all(digit) {
        return format!("/run/l/{container:.10}{root:.10}");
    }
    let digest: String = Sha256::digest(container).iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    format!("/run/l/{digest}{root:.10}")
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_containers_and_no_two_layers_share_a_place() {
        let engines = "0123456789".repeat(7)[..64].to_owned();
        let upper = engines.replace('0', "A");
        let ids =
            [&engines, &engines[1..], &upper, "c", "c1", "0123456789", "web-frontend-1", "web-frontend-2"];
        let roots = ["1", "2"].map(|digit| digit.repeat(64).parse().unwrap());
        let places: BTreeSet<_> =
            ids.iter().flat_map(|id| roots.iter().map(move |root| layer(id, root))).collect();
        assert_eq!(places.len(), ids.len() * roots.len());
        assert!(places.iter().all(|place| place.len() == "/run/l/".len() + 20), "{places:?}");
        assert_eq!(layer(&engines, &roots[0]), "/run/l/01234567891111111111");
    }
}
