//! NVIDIA's own driver in the guest: an image that was built with `GPU=1`, and an emulated H100, which computes nothing.
//!
//! `tools/test gpu-image` builds the image and runs this.

use std::time::Instant;

use e2e::{BUSYBOX, Gpus, INITDATA, KeyBroker, Run, Tenant, e2e_with_gpus};

/// The word of a packet to the GPU's firmware that says what follows: a vendor's message (0x7e) of PCI vendor 0x10de and kind 0x14,
/// by which the driver has its own firmware checked and started (open-gpu-kernel-modules, `fsp_nvdm_format.h`:
/// `NVDM_TYPE_COT`).
const START: &str = "1410de7e";

#[test]
fn nvidias_driver_loads_and_a_gpu_that_does_not_start_ends_the_boot() {
    e2e_with_gpus(async |rig| {
        let gpus = Gpus::h100(1);
        // A key broker is named, since GPUs that nobody attests are refused. Nobody asks this one.
        let aa = KeyBroker::at(8100).document();
        let owner = Tenant::with_documents("driver", &[("aa.toml", &aa), ("coffer.toml", "gpus = 1\n")]);
        let config = rig.config().set("default_memory_mib", "1024").write("driver");
        let refused = Run::new("driver", BUSYBOX, &["true"])
            .config(&config)
            .flag("--annotation")
            .flag(&Gpus::annotation(1))
            .flag("--annotation")
            .flag(&format!("{INITDATA}={}", owner.annotation()))
            .refused()
            .await;
        refused.failed_with(&["GPUs: opening all of them (persistence daemon) failed"]);
        for line in [
            "GPUs: driver 550.163.01",
            "GPUs: loading the module nvidia with NVreg_NvLinkDisable=1",
            "GPUs: loading the module nvidia-uvm",
            "GPUs: opening all of them (persistence daemon)",
        ] {
            rig.logged(&[line]).await;
        }
        // The driver has found the GPU, has taken its firmware from the measured root, and has sent the GPU's own firmware the
        // command to start it. The emulator, which knows settings only, notes that as a request that is none.
        let foreign = gpus.with(0, |gpu| format!("{:?}", gpu.state(Instant::now()).violations));
        assert!(foreign.contains(START), "{foreign}");
        gpus.free(0).await;
        assert_eq!(gpus.quarantined(0), None);
    });
}
