//! The pod's cgroup: how much memory it allows, and the sandbox's own cgroup below it.

mod join;
mod layout;
mod limit;
mod path;

pub use join::{CgroupPlan, CgroupRecord, Limits, SandboxCgroup};
pub use layout::{Hierarchies, Hierarchy};
pub use limit::{MemoryLimit, memory_limit};
pub use path::CgroupPath;

use std::io;
use std::path::PathBuf;

/// What can go wrong with cgroups.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The OCI spec's `cgroupsPath` is neither a plain path nor `slice:prefix:name`.
    #[error("the cgroups path {path:?} of the OCI spec is malformed: {reason}")]
    Malformed {
        /// As it stands in the spec.
        path: String,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// A file of cgroupfs cannot be read, written or understood.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No cgroup file system where limits were asked for.
    #[error("the pod has resource limits and {root} holds no cgroup hierarchy that could enforce them")]
    Absent {
        /// Where it should be mounted.
        root: PathBuf,
    },
    /// Somebody else's processes are in the sandbox's cgroup.
    #[error("cannot remove cgroup {path}: processes {pids:?} are still in it")]
    Busy {
        /// The cgroup.
        path: PathBuf,
        /// Who.
        pids: Vec<i32>,
    },
}

impl Error {
    fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}
