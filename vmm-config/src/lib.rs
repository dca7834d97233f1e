//! Node configuration, pod request and VM description of Coffer; pure, no I/O.
//!
//! Three layers that never mix:
//!
//! 1. [`config`]: the node's file, [`NodeConfig`](config::NodeConfig). Each value knows where it came from.
//! 2. [`request`]: what a pod asks for, [`PodRequest`](request::PodRequest), from annotations and limits.
//! 3. [`spec`]: the typed VM, [`VmSpec`](spec::VmSpec), which renders to QEMU's arguments ([`qemu`]).
//!
//! [`plan`] joins them with the guest image's manifest ([`image`]) and with what the caller found on the
//! host. The caller does all reading, claiming and starting:
//!
//! ```text
//! NodeConfig::parse(text of the configuration file)       ─┐
//! ImageManifest::parse(bytes of <config.image>/image.json) ─┤
//! PodRequest::new(config, annotations, limits)             ─┼─> plan() ─> VmSpec ─> qemu_args()
//! HostFacts { KVM, vsock, NICs, budget, TEE, devices }     ─┘                    └─> fds(), nics(), ...
//! ```
//!
//! [`VmSpec::fds`](spec::VmSpec::fds) says which descriptor QEMU expects under which number; the caller puts
//! it there. Disks are added to the running VM with the QMP arguments of [`hotplug`], and [`deadline`] says
//! how long a boot may take.
//!
//! Everything that reads foreign input takes `&str` or `&[u8]`, limits its size and never panics.

pub mod annotation;
pub mod cmdline;
pub mod config;
pub mod deadline;
pub mod digest;
pub mod expect;
pub mod hotplug;
pub mod image;
pub mod opens;
pub mod passthrough;
pub mod path;
pub mod pci;
pub mod plan;
pub mod qemu;
pub mod request;
pub mod spec;
pub mod tee;
pub mod units;

#[cfg(test)]
mod golden;
