//! Coffer on a host that has GPUs: the programs over the kernel's own sysfs and VFIO, an IOMMU and KVM.

#![allow(clippy::unwrap_used, reason = "all of it is tests")]

mod command;
mod gpus;
mod nudge;
mod pods;
mod streams;
