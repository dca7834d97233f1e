//! NVIDIA's own driver in the guest: an image that was built with `GPU=1`, and an emulated H100, which computes nothing.
//!
//! `tools/test gpu-image` builds the image and runs this.

use e2e::{BUSYBOX, Gpus, INITDATA, Run, Tenant, e2e_with_gpus};

/// A key broker is named, since GPUs that nobody attests are refused. Nobody asks this one.
const AA: &str = "[token_configs.kbs]\nurl = \"http://127.0.0.1:1\"\n";

#[test]
fn nvidias_driver_loads_and_a_gpu_that_does_not_start_ends_the_boot() {
    e2e_with_gpus(async |rig| {
        let gpus = Gpus::h100(1);
        let owner = Tenant::with_documents("driver", &[("aa.toml", AA), ("coffer.toml", "gpus = 1\n")]);
        let config = rig.config().set("default_memory_mib", "1024").write("driver");
        let refused = Run::new("driver", BUSYBOX, &["true"])
            .config(&config)
            .flag("--annotation")
            .flag(&Gpus::annotation(1))
            .flag("--annotation")
            .flag(&format!("{INITDATA}={}", owner.annotation()))
            .refused()
            .await;
        for line in [
            "GPUs: driver 550.163.01",
            "GPUs: loading the module nvidia with NVreg_NvLinkDisable=1",
            "GPUs: loading the module nvidia-uvm",
            "GPUs: opening all of them (persistence daemon)",
        ] {
            rig.logged(&[line]).await;
        }
        // The driver has found the GPU, has taken its firmware from the measured root, and has given the GPU's own firmware the
        // command to start it. The emulator knows no such command.
        rig.logged(&["NVRM", "kfspSendBootCommands_GH100: FSP boot cmds failed"]).await;
        rig.logged(&["NVRM", "RmInitAdapter: Cannot initialize GSP firmware RM"]).await;
        refused.failed_with(&["GPUs: opening all of them (persistence daemon) failed"]);
        gpus.free(0).await;
        assert_eq!(gpus.quarantined(0), None);
    });
}
