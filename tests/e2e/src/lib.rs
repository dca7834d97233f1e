//! Harness and end-to-end tests on real containerd and QEMU.
//!
//! The tests are in `tests/`; each is a call of [`e2e`] with a few lines on a [`Rig`]. They run inside the rig that
//! `tools/enter` makes (a Debian forky root in namespaces of its own); `tests/README.md` says how.
//!
//! ```text
//! e2e ── Containerd (one per test binary) ── ctr, Pod (CRI), Events     what the tests drive
//!   │                                        ShimProcess, Task          containerd's part, played without containerd
//!   └─── Machine before and after            faults, NodeConfig         what goes wrong, on purpose
//! ```

mod artefacts;
mod bare_node;
mod bound_pod;
mod bundle;
mod cgroup;
mod containerd;
mod cri;
mod crio;
mod ctr;
pub mod direct;
mod events;
mod faults;
mod fw_cfg;
mod gpu_node;
mod gpus;
mod hypervisor;
mod image_variant;
mod images;
mod inference;
mod key_broker;
mod kubelet;
mod leaks;
mod model_disk;
mod monitor;
mod netns;
mod node_config;
mod oci_archive;
mod or_fail;
mod pod;
mod port_forward;
mod process;
mod pty;
mod random;
mod registry;
mod rig;
mod shim_start;
mod task_client;
mod tenant;
mod wait;

pub use artefacts::{Artefacts, fixture, workspace};
pub use bare_node::{BareNode, LOG as BARE_NODE_LOG};
pub use bound_pod::{BoundPod, INITDATA};
pub use bundle::{Bundle, spec};
pub use cgroup::MemoryCgroup;
pub use containerd::{Containerd, NAMESPACE, SOCKET, TTRPC_SOCKET};
pub use cri::Cri;
pub use ctr::{Container, Output, Run, ctr, ctr_with_stdin};
pub use events::{Event, Events};
pub use faults::{FullDirectory, PHASES, Victim};
pub use gpu_node::GpuNode;
pub use gpus::Gpus;
pub use hypervisor::Hypervisor;
pub use image_variant::ImageVariant;
pub use images::{
    BUSYBOX, LAYERED, LAYERS, LLAMA, ODD, PAUSE, WITH_EMPTY_VOLUMES, WITH_VOLUME, busybox as busybox_layer,
    busybox_archive, import as import_images, import_busybox, import_llama, import_odd, import_pause,
    import_with_empty_volumes, import_with_volume, layered_archive, llama_archive, unpack_busybox,
};
pub use inference::{Given, Inference, Refused, completion};
pub use key_broker::KeyBroker;
pub use kubelet::PodDirectory;
pub use leaks::Machine;
pub use model_disk::ModelDisk;
pub use monitor::Monitor;
pub use netns::Netns;
pub use node_config::{NodeConfig, SCRATCH};
pub use oci_archive::{Layer, archive as oci_archive};
pub use or_fail::OrFail;
pub use pod::{Pod, PodContainer, PodRequest};
pub use port_forward::Forwarded;
pub use process::{Process, processes};
pub use pty::Pty;
pub use random::Random;
pub use registry::Registry;
pub use rig::{Rig, e2e, e2e_in_outer_vm, e2e_that_takes, e2e_with_gpus};
pub use shim_start::{ShimProcess, StartReply, shim};
pub use task_client::{Api, Refusal, Task};
pub use tenant::{Binding, Flipped, Tenant, converted_layer};
pub use wait::{until, within};
