//! What containerd asks of a sandbox and what it gets back, as plain types.
//!
//! Nothing here knows a wire format: `service` translates the Task and the Sandbox API into these types
//! and back, so that the state machine and its tests need neither.

mod error;
mod volume;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::SystemTime;

use oci_spec::runtime::Spec;
use shared_types::cri::Engine;
use vmm_config::request::{CRI_CPU_PERIOD, CRI_CPU_QUOTA, CRI_CPU_SHARES, CRI_MEMORY};

pub use error::{Error, one_line};
pub use volume::VirtualVolume;

/// Result of an operation on a sandbox.
pub type Result<T> = std::result::Result<T, Error>;

/// Longest identifier containerd gives to a container, an exec or a namespace.
const MAX_ID: usize = 76;

/// Whether `id` is what containerd's `identifiers.Validate` accepts: groups of ASCII letters and digits,
/// separated by one of `.`, `_`, `-` (dashes may repeat), at most 76 bytes.
fn is_identifier(id: &str) -> bool {
    let bytes = id.as_bytes();
    let alnum = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    id.len() <= MAX_ID
        && alnum(bytes.first())
        && alnum(bytes.last())
        && bytes.windows(2).all(|pair| match (pair[0], pair[1]) {
            (a, b) if a.is_ascii_alphanumeric() => b.is_ascii_alphanumeric() || b"._-".contains(&b),
            (b'-', b) => b.is_ascii_alphanumeric() || b == b'-',
            (b'.' | b'_', b) => b.is_ascii_alphanumeric(),
            _ => false,
        })
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $field:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// Checks `id` against containerd's rules.
            ///
            /// # Errors
            /// [`Error::InvalidRequest`] when it breaks them.
            pub fn new(id: impl Into<String>) -> Result<Self> {
                let id = id.into();
                if is_identifier(&id) {
                    return Ok(Self(id));
                }
                Err(Error::InvalidRequest {
                    field: $field,
                    reason: format!(
                        "{:?} is not an identifier (letters and digits joined by '.', '_' or '-', at most 76)",
                        id.chars().take(MAX_ID + 1).collect::<String>()
                    ),
                })
            }

            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

identifier!(
    /// Name of a container; a sandbox has the name of its first container, or of the pod.
    ContainerId,
    "id"
);
identifier!(
    /// Name of an additional process of a container.
    ExecId,
    "exec_id"
);
identifier!(
    /// containerd's namespace, for example `k8s.io` or `default`.
    Namespace,
    "namespace"
);

/// One process: a container's first one, or an exec.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// The container.
    pub container: ContainerId,
    /// The exec; none means the container's first process.
    pub exec: Option<ExecId>,
}

impl ProcessId {
    /// The first process of `container`.
    pub fn init(container: ContainerId) -> Self {
        Self { container, exec: None }
    }

    /// The exec's name or the empty text, as the wire formats have it.
    pub fn exec_str(&self) -> &str {
        self.exec.as_ref().map_or("", ExecId::as_str)
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.exec {
            None => write!(f, "container {}", self.container),
            Some(exec) => write!(f, "exec {exec} of container {}", self.container),
        }
    }
}

/// Where an engine wants a process's streams; empty means nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StdioPaths {
    /// Fifo that is read.
    pub stdin: String,
    /// Fifo or URI that is written.
    pub stdout: String,
    /// Fifo or URI that is written; empty with a terminal.
    pub stderr: String,
    /// Whether the process has a terminal.
    pub terminal: bool,
}

/// `containerd.types.Mount`: how containerd's snapshotter says to mount a layer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mount {
    /// File system or kind of mount, for example `erofs`, `overlay`, `bind`.
    pub kind: String,
    /// Device, image file or directory.
    pub source: PathBuf,
    /// Path below the root file system, mostly empty.
    pub target: PathBuf,
    /// Options in fstab form.
    pub options: Vec<String>,
}

/// Where a container's root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rootfs {
    /// Mounts of the host's snapshotter; none means that `rootfs` of the bundle is it.
    Mounts(Vec<Mount>),
    /// An image that is pulled inside the guest.
    GuestPull(VirtualVolume),
}

/// The options of the runtime, as the engine's configuration has them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuntimeOptions {
    /// Path of the node configuration.
    pub config_path: Option<PathBuf>,
    /// The configuration itself, where the engine passes it in line.
    pub config_body: Option<String>,
}

/// Create a container; the first one of a sandbox boots the VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateRequest {
    /// Name of the container.
    pub id: ContainerId,
    /// Directory with the OCI `config.json`.
    pub bundle: PathBuf,
    /// Its root file system.
    pub rootfs: Rootfs,
    /// Its standard streams.
    pub stdio: StdioPaths,
    /// Runtime options, where the engine sent any.
    pub options: RuntimeOptions,
}

/// A container that is to be created: what the engine asked for, and what its bundle says.
#[derive(Debug, Clone)]
pub struct NewContainer {
    /// What was asked for.
    pub request: CreateRequest,
    /// The bundle's `config.json`.
    pub spec: Spec,
}

/// Add a process to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecRequest {
    /// The container.
    pub container: ContainerId,
    /// Name of the new process.
    pub exec: ExecId,
    /// Its standard streams.
    pub stdio: StdioPaths,
    /// OCI `Process` as JSON.
    pub process: Vec<u8>,
}

/// Send a signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KillRequest {
    /// The process.
    pub process: ProcessId,
    /// Signal number, 1 to 64.
    pub signal: u32,
    /// Every process of the container.
    pub all: bool,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl TerminalSize {
    /// The size that a process's specification gives its terminal, where it has one and the size is one. kata-agent 4.1.0
    /// passes over it (`openpty` without a size).
    pub fn early(terminal: bool, height: u32, width: u32) -> Option<Self> {
        (terminal && height > 0 && width > 0).then_some(Self { width, height })
    }
}

/// Change a container's limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateRequest {
    /// The container.
    pub id: ContainerId,
    /// OCI `LinuxResources` as JSON.
    pub resources: Vec<u8>,
    /// Annotations that come with them.
    pub annotations: BTreeMap<String, String>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, or 128 + signal.
    pub status: u32,
    /// When.
    pub at: SystemTime,
}

/// Life of a process in containerd's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Created, not started.
    Created,
    /// Running.
    Running,
    /// Its container is paused.
    Paused,
    /// Ended; kept until it is deleted.
    Stopped(Exit),
}

/// Answer to State.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessState {
    /// The process.
    pub process: ProcessId,
    /// The container's bundle.
    pub bundle: PathBuf,
    /// The process id that stands for it on the host; QEMU's, which is the one process that the host sees.
    pub pid: u32,
    /// Where it is in its life.
    pub status: Status,
    /// Its standard streams.
    pub stdio: StdioPaths,
}

/// One line of Pids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Process id.
    pub pid: u32,
    /// The exec that it is, if it is one.
    pub exec: Option<ExecId>,
}

/// Answer to Delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deleted {
    /// The process id it had.
    pub pid: u32,
    /// How it ended.
    pub exit: Exit,
}

/// Answer to Connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connected {
    /// Process id of the shim.
    pub shim_pid: u32,
    /// Process id of the container's first process.
    pub task_pid: u32,
}

/// Create a sandbox without a pause container (Sandbox API).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateSandboxRequest {
    /// Name of the sandbox.
    pub id: ContainerId,
    /// The sandbox's bundle; may hold no `config.json`.
    pub bundle: PathBuf,
    /// Network namespace made by CNI; none with host networking.
    pub netns: Option<PathBuf>,
    /// Annotations of the engine's own; they win over the pod's.
    pub annotations: BTreeMap<String, String>,
    /// What CRI says of the pod.
    pub facts: PodFacts,
}

/// What CRI says of a pod that has no pause container to say it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// The pod's host name; empty leaves the image's.
    pub hostname: String,
    /// The cgroup that kubelet made for the pod; empty where it made none.
    pub cgroup_parent: String,
    /// CPU time in microseconds that the pod's containers have together in each period.
    pub cpu_quota: Option<i64>,
    /// That period, in microseconds.
    pub cpu_period: Option<u64>,
    /// Their weight, 1024 for each CPU.
    pub cpu_shares: Option<u64>,
    /// Bytes of memory that they have together.
    pub memory_limit: Option<i64>,
    /// Its name, UID and namespace, as annotations; and its annotations for the VM, none of them trusted.
    pub annotations: BTreeMap<String, String>,
    /// What its name server is; `None` leaves the host's.
    pub dns: Option<Dns>,
    /// Its sysctls.
    pub sysctls: BTreeMap<String, String>,
    /// What it would share with the host, by the fields that ask for it in a pod's manifest.
    pub host_namespaces: Vec<&'static str>,
}

impl PodFacts {
    /// The annotations that containerd would give a pause container.
    pub fn of_a_pause_container(&self) -> BTreeMap<String, String> {
        let mut annotations = self.annotations.clone();
        annotations.insert(Engine::Containerd.names().kind.to_owned(), "sandbox".to_owned());
        let limits = [
            (CRI_CPU_QUOTA, self.cpu_quota.map(|quota| quota.to_string())),
            (CRI_CPU_PERIOD, self.cpu_period.map(|period| period.to_string())),
            (CRI_CPU_SHARES, self.cpu_shares.map(|shares| shares.to_string())),
            (CRI_MEMORY, self.memory_limit.map(|bytes| bytes.to_string())),
        ];
        annotations.extend(limits.into_iter().filter_map(|(name, limit)| Some((name.to_owned(), limit?))));
        annotations
    }
}

/// How a pod looks names up (CRI's `DNSConfig`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Addresses.
    pub servers: Vec<String>,
    /// Domains.
    pub searches: Vec<String>,
    /// As `resolv.conf` has them.
    pub options: Vec<String>,
}

/// Answer to StartSandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SandboxStarted {
    /// Process id that stands for the VM.
    pub pid: u32,
    /// When the sandbox was created.
    pub created_at: SystemTime,
}

/// State of a sandbox in CRI's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxState {
    /// The VM runs.
    Ready,
    /// It does not run yet, or no longer.
    NotReady,
}

/// Answer to SandboxStatus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxStatus {
    /// Process id that stands for the VM, 0 when there is none.
    pub pid: u32,
    /// Whether it runs.
    pub state: SandboxState,
    /// Facts for a verbose status.
    pub info: BTreeMap<String, String>,
    /// When it was created.
    pub created_at: Option<SystemTime>,
    /// When it ended.
    pub exited_at: Option<SystemTime>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_follow_containerds_rules() {
        for good in ["a", "web-1", "k8s.io", "a_b", "a--b", &"x".repeat(76)] {
            assert!(ContainerId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a..b", "a._b", "../x", "a/b", "a b", "ä", "a\n", &"x".repeat(77)] {
            assert!(ContainerId::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_refused_identifier_is_named_but_not_repeated_at_length() {
        let text = ExecId::new("y".repeat(100_000)).unwrap_err().to_string();
        assert!(text.contains("exec_id") && text.len() < 300, "{text}");
    }

    #[test]
    fn processes_are_shown_as_an_operator_names_them() {
        let container = ContainerId::new("web").unwrap();
        let exec = Some(ExecId::new("sh").unwrap());
        assert_eq!(ProcessId::init(container.clone()).to_string(), "container web");
        assert_eq!(ProcessId { container, exec }.to_string(), "exec sh of container web");
    }
}
