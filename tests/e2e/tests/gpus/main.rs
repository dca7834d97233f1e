//! Pods with emulated GPUs, started by the shim that knows them.
//!
//! One binary: a binary has one containerd, and its tests have one kind of shim.

mod campaign;
#[allow(clippy::unwrap_used, reason = "all of it is tests")]
#[path = "../../../../crates/gpu-selection/tests/find/kubelet.rs"]
mod kubelet;
mod pods;
mod pods_of_kubelet;
