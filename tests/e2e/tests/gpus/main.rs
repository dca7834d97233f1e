//! Pods with emulated GPUs, started by the shim that knows them.
//!
//! One binary: a binary has one containerd, and its tests have one kind of shim.

mod campaign;
mod inference;
mod pods;
mod pods_of_kubelet;
