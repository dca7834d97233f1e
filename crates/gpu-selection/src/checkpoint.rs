//! Whose devices they are: kubelet's own record, which has the pods' UIDs.
//!
//! PodResources names pods by namespace and name, so an answer about an earlier pod of the same name cannot be
//! told by it. The device manager's checkpoint can tell (kubernetes/kubernetes,
//! pkg/kubelet/cm/devicemanager/checkpoint). It is internal to kubelet: where it is absent or has changed, the
//! check is left out, and said so.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

const MAX: u64 = 16 << 20;

#[derive(Debug, Deserialize)]
struct Checkpoint {
    #[serde(rename = "Data")]
    data: Data,
}

#[derive(Debug, Deserialize)]
struct Data {
    #[serde(rename = "PodDeviceEntries")]
    entries: Option<Vec<Entry>>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    #[serde(rename = "PodUID")]
    pod: String,
    #[serde(rename = "ResourceName")]
    resource: String,
    /// By NUMA node; -1 for none.
    #[serde(rename = "DeviceIDs")]
    ids: BTreeMap<String, Vec<String>>,
}

/// Who has which device.
#[derive(Debug, Default)]
pub(crate) struct Owners(BTreeMap<(String, String), Vec<String>>);

/// Below kubelet's root; `None` where there is no record that can be read.
pub(crate) fn read(root: &Path) -> Option<Owners> {
    let mut text = Vec::new();
    let file = File::open(root.join("device-plugins/kubelet_internal_checkpoint")).ok()?;
    file.take(MAX).read_to_end(&mut text).ok()?;
    let checkpoint: Checkpoint = serde_json::from_slice(&text).ok()?;
    let mut owners = Owners::default();
    for Entry { pod, resource, ids } in checkpoint.data.entries.unwrap_or_default() {
        for id in ids.into_values().flatten() {
            owners.0.entry((resource.clone(), id)).or_default().push(pod.clone());
        }
    }
    Some(owners)
}

impl Owners {
    /// The UID of another pod that has the device, if this one has not.
    pub(crate) fn other(&self, resource: &str, id: &str, uid: &str) -> Option<&str> {
        let owners = self.0.get(&(resource.to_owned(), id.to_owned()))?;
        if owners.iter().any(|owner| owner == uid) { None } else { owners.first().map(String::as_str) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_found_and_nonsense_is_no_record() {
        let root = tempfile::tempdir().unwrap();
        assert!(read(root.path()).is_none());
        let folder = root.path().join("device-plugins");
        std::fs::create_dir(&folder).unwrap();
        let file = folder.join("kubelet_internal_checkpoint");
        std::fs::write(&file, "{}").unwrap();
        assert!(read(root.path()).is_none());
        let text = r#"{"Data":{"PodDeviceEntries":[{"PodUID":"u1","ContainerName":"c","ResourceName":"nvidia.com/pgpu",
            "DeviceIDs":{"-1":["vfio3"]},"AllocResp":"AA=="}],"RegisteredDevices":{}},"Checksum":1}"#;
        std::fs::write(&file, text).unwrap();
        let owners = read(root.path()).unwrap();
        assert_eq!(owners.other("nvidia.com/pgpu", "vfio3", "u1"), None);
        assert_eq!(owners.other("nvidia.com/pgpu", "vfio3", "u2"), Some("u1"));
        assert_eq!(owners.other("nvidia.com/pgpu", "vfio4", "u2"), None);
    }
}
