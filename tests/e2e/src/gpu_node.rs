//! A node whose kubelet is played: it says which GPU it gave to which pod.

#[allow(clippy::unwrap_used, reason = "what is around the tests fails as they do")]
#[path = "../../../crates/gpu-selection/tests/find/kubelet.rs"]
mod kubelet;

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::or_fail::OrFail;
use kubelet::{Behaviour, Kubelet, PodResources, pod};

/// What a device plugin calls a GPU.
const RESOURCE: &str = "nvidia.com/pgpu";
/// Kubelet's root.
const ROOT: &str = "/var/lib/kubelet";

/// A kubelet that gave one GPU away; its files go with the value.
#[derive(Debug)]
pub struct GpuNode;

impl GpuNode {
    /// Where it is asked.
    pub const SOCKET: &str = "/var/lib/kubelet/pod-resources/kubelet.sock";

    /// Kubelet gave GPU `id` to the only pod, called `name`; by its own record to the pod of `uid`. It takes its time to say so.
    pub fn new(name: &str, uid: &str, id: &str, delay: Duration) -> Self {
        let pods = vec![PodResources { namespace: "default".to_owned(), ..pod(name, &[(RESOURCE, &[id])]) }];
        Kubelet::new(Behaviour { pods, delay, ..Behaviour::default() }).serve(Path::new(ROOT));
        let entry = serde_json::json!({
            "PodUID": uid, "ContainerName": "main", "ResourceName": RESOURCE, "DeviceIDs": { "-1": [id] },
        });
        let checkpoint = serde_json::json!({ "Data": { "PodDeviceEntries": [entry] }, "Checksum": 0 });
        let plugins = Path::new(ROOT).join("device-plugins");
        fs::create_dir_all(&plugins).or_fail("folder of the checkpoint");
        let file = plugins.join("kubelet_internal_checkpoint");
        fs::write(file, checkpoint.to_string()).or_fail("checkpoint");
        Self
    }
}

impl Drop for GpuNode {
    fn drop(&mut self) {
        for folder in ["pod-resources", "device-plugins"] {
            let _ = fs::remove_dir_all(Path::new(ROOT).join(folder));
        }
    }
}
