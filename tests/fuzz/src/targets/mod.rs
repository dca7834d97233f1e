//! The targets, by the crate whose readers they are about.

mod agent;
mod attest;
mod config;
mod gpu;
mod guest;
mod host;
mod measure;
mod node;
mod shim;
mod vmm;
mod volumes;

use std::fmt;

/// One reader, or one chain of them.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, which is that of its folder in `corpus/`.
    pub name: &'static str,
    /// Changed inputs that `cargo test` tries; fewer where one takes long.
    pub runs: u32,
    run: fn(&[u8]),
}

impl Target {
    /// Gives `input` to the reader.
    ///
    /// # Panics
    /// When the reader has a bug.
    pub fn run(&self, input: &[u8]) {
        (self.run)(input);
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("name", &self.name).finish_non_exhaustive()
    }
}

const fn target(name: &'static str, runs: u32, run: fn(&[u8])) -> Target {
    Target { name, runs, run }
}

/// Every target.
pub const TARGETS: &[Target] = &[
    target("acpi_script", 2000, measure::acpi_script),
    target("agent_answers", 500, agent::answers),
    target("attest_agent", 200, attest::agent),
    target("attest_broker", 200, attest::broker),
    target("attest_config", 1000, attest::config),
    target("attest_events", 2000, attest::events),
    target("attest_jwe", 1000, attest::sealed),
    target("attest_question", 2000, attest::question),
    target("attest_sealed", 2000, attest::secret),
    target("bundle_list", 300, node::bundle_list),
    target("cdi_names", 2000, gpu::cdi_names),
    target("cgroup_path", 2000, host::cgroup_path),
    target("console", 1000, vmm::console),
    target("engine_file", 300, node::engine_file),
    target("erofs_image", 500, host::erofs_image),
    target("erofs_mounts", 2000, host::erofs_mounts),
    target("firmware", 2000, measure::firmware),
    target("gpu_address", 2000, gpu::address),
    target("gpu_fabric", 300, gpu::fabric),
    target("gpu_firmware", 1000, gpu::firmware_replies),
    target("gpu_lock", 500, gpu::lock),
    target("gpu_quarantine", 500, gpu::quarantine),
    target("gpu_sysfs", 500, gpu::sysfs),
    target("id_block", 200, measure::id_block),
    target("image_manifest", 2000, config::image_manifest),
    target("initdata_annotation", 2000, measure::initdata_annotation),
    target("initdata_disk", 1000, measure::initdata_disk),
    target("initdata_document", 2000, measure::initdata_document),
    target("initdata_gzip", 1000, measure::initdata_gzip),
    target("install_record", 300, node::install_record),
    target("kernel_cmdline", 2000, config::kernel_cmdline),
    target("luks_disk", 1000, volumes::disk),
    target("luks_metadata", 2000, volumes::slots),
    target("node_config", 2000, config::node_config),
    target("oci_spec", 1000, guest::oci_spec),
    target("pe", 2000, measure::pe),
    target("pod_manifest", 1000, config::pod_manifest),
    target("pod_request", 2000, config::pod_request),
    target("qmp", 1000, vmm::qmp),
    target("shim_bundle", 2000, shim::bundle),
    target("shim_guest_pull", 2000, shim::guest_pull),
    target("shim_sandbox_options", 2000, shim::sandbox_options),
    target("shim_start", 2000, shim::start),
    target("state_record", 2000, vmm::state_record),
    target("volumes_document", 2000, volumes::document),
];
