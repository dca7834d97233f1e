//! Turns a container's OCI spec into what the guest agent is asked for; pure, no I/O.
//!
//! [`translate`] takes the spec that containerd wrote for this host and returns the [`GuestContainer`]: the spec in the
//! guest's terms, the storages the agent mounts, the files to copy in first, and notes on what was left out. No path
//! of the host reaches the guest's spec. What cannot be had without sharing a host directory is an error.

mod error;
mod linux;
mod model;
mod mounts;
mod passthrough;
mod paths;
mod pause;
mod process;
mod resources;
mod role;
mod rootfs;
mod seccomp;
mod storage;
pub mod support;
mod translate;
mod volume;

pub use error::SpecError;
pub use linux::check_limits;
pub use model::ModelMount;
pub use passthrough::PassedDevice;
pub use pause::{OwnSandbox, own_sandbox};
pub use process::process;
pub use resources::{VmSize, check_size, lift, resources};
pub use role::{Role, member};
pub use rootfs::GuestRootfs;
pub use storage::{shm_remount, shm_storage};
pub use translate::{
    Copy, CopyKind, FileKind, GuestContainer, HostFile, Medium, SandboxFacts, TerminationLog, VolumeJudge,
    translate,
};
