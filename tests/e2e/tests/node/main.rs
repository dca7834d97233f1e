//! A node without GPUs: containers and pods as containerd, Kubernetes and CRI-O run them, and whatever goes wrong with them.
//!
//! One binary: a binary has one containerd, and compiling the harness's generics into each of many takes minutes.

mod bad_input;
mod boot_protocols;
mod bound;
mod cri;
mod crio;
mod dishonest;
mod events;
mod faults;
mod harness;
mod jail;
mod keys;
mod last_words;
mod lifecycle;
mod measure_acpi;
mod reports;
mod scratch;
mod sealed;
mod soak;
mod tdx_platform;
mod volumes;
