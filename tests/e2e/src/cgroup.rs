//! A pod's memory cgroup as kubelet makes it, on cgroup v2 or on v1's memory hierarchy.

use std::fs;
use std::path::{Path, PathBuf};

use crate::containerd::NAMESPACE;
use crate::or_fail::OrFail;

const V1: &str = "/sys/fs/cgroup/memory";
const V2: &str = "/sys/fs/cgroup";

/// A cgroup with a memory limit; removed when dropped.
#[derive(Debug)]
pub struct MemoryCgroup {
    directory: PathBuf,
    parent: String,
}

impl MemoryCgroup {
    /// Makes `name` with a limit of `bytes`.
    pub fn with_limit(name: &str, bytes: u64) -> Self {
        let is_v1 = Path::new(V1).is_dir();
        let (root, file) = if is_v1 { (V1, "memory.limit_in_bytes") } else { (V2, "memory.max") };
        let parent = format!("/coffer-e2e-{name}");
        let directory = PathBuf::from(format!("{root}{parent}"));
        fs::create_dir_all(&directory).or_fail("make a memory cgroup");
        fs::write(directory.join(file), bytes.to_string()).or_fail("limit a memory cgroup");
        Self { directory, parent }
    }

    /// The path that a pod request names as its cgroup parent.
    pub fn parent(&self) -> &str {
        &self.parent
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // A process that a failed test left in it keeps it; the leak check tells.
        let _ = fs::remove_dir(&self.directory);
    }
}

/// Removes the empty cgroups that carry the containerd namespace's name: runc makes one per hierarchy, on the host.
pub fn remove_empty_parents() {
    let hierarchies = fs::read_dir(V2).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([PathBuf::from(V2)]) {
        let _ = fs::remove_dir(hierarchy.join(NAMESPACE));
    }
}
