//! What containers get with a GPU, in the words of CDI (Container Device Interface, SPEC.md, version 0.6.0).
//!
//! The agent reads it where a request names `nvidia.com/gpu=N`; N is a GPU's rank on the bus, as the shim counts them. NVIDIA's own
//! generator asks the same driver; it is in no Debian release, and needs a shell's surroundings.

use std::fmt::Write as _;

use super::Seen;
use super::installed::Library;

/// The description of these GPUs, which are in the order of the bus; `common` are the nodes that every GPU's user needs.
pub fn spec(gpus: &[Seen], common: &[String], libraries: &[Library]) -> String {
    let device = |(rank, gpu): (usize, &Seen)| {
        format!(
            "{{\"name\":\"{rank}\",\"containerEdits\":{{\"deviceNodes\":[{{\"path\":\"/dev/nvidia{}\"}}]}}}}",
            gpu.minor
        )
    };
    let devices: Vec<String> = gpus.iter().enumerate().map(device).collect();
    let nodes: Vec<String> = common.iter().map(|path| format!("{{\"path\":\"{path}\"}}")).collect();
    let mut mounts = Vec::new();
    for library in libraries {
        for place in &library.places {
            mounts.push(format!(
                "{{\"hostPath\":\"{}\",\"containerPath\":\"{place}\",\"options\":[\"ro\",\"nosuid\",\"nodev\",\"bind\"]}}",
                library.path
            ));
        }
    }
    let mut text = String::from("{\"cdiVersion\":\"0.6.0\",\"kind\":\"nvidia.com/gpu\"");
    // A string takes everything.
    let _ = write!(
        text,
        ",\"devices\":[{}],\"containerEdits\":{{\"env\":[\"NVIDIA_VISIBLE_DEVICES=void\"],\"deviceNodes\":[{}]",
        devices.join(","),
        nodes.join(",")
    );
    if !mounts.is_empty() {
        let _ = write!(text, ",\"mounts\":[{}]", mounts.join(","));
    }
    text.push_str("}}\n");
    text
}
