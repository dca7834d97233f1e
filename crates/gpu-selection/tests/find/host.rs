//! A host in a folder: sysfs, CDI folders, kubelet's root.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use gpu_selection::{Facts, Finder, Roots};
use tempfile::TempDir;

pub(crate) struct Host(TempDir);

impl Host {
    /// H100s at buses 41 and 42 (`vfio3`, group 17; `vfio4`, group 18), a NIC at bus 50 (`vfio5`, group 19).
    pub(crate) fn new() -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir_all(host.path("sys/bus/pci/devices")).unwrap();
        for (address, vfio, group) in [("0000:41:00.0", "vfio3", 17), ("0000:42:00.0", "vfio4", 18)] {
            host.device(address, "0x10de", "0x2330", "0x030200", group, Some("vfio-pci"));
            host.vfio(address, vfio);
        }
        host.device("0000:50:00.0", "0x8086", "0x1572", "0x020000", 19, Some("vfio-pci"));
        host.vfio("0000:50:00.0", "vfio5");
        host
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.0.path().join(relative)
    }

    pub(crate) fn device(
        &self,
        address: &str,
        vendor: &str,
        device: &str,
        class: &str,
        group: u32,
        driver: Option<&str>,
    ) {
        let folder = self.path("sys/devices").join(address);
        std::fs::create_dir_all(&folder).unwrap();
        let line = "0x0 0x0 0x0\n".repeat(7);
        for (name, text) in [
            ("vendor", vendor),
            ("device", device),
            ("class", class),
            ("subsystem_device", "0x16c1"),
            ("resource", &line),
            ("numa_node", "-1"),
        ] {
            std::fs::write(folder.join(name), text).unwrap();
        }
        symlink(&folder, self.path("sys/bus/pci/devices").join(address)).unwrap();
        let members = self.path("sys/kernel/iommu_groups").join(group.to_string()).join("devices");
        std::fs::create_dir_all(&members).unwrap();
        symlink(&folder, members.join(address)).unwrap();
        symlink(members.parent().unwrap(), folder.join("iommu_group")).unwrap();
        if let Some(driver) = driver {
            symlink(self.path("sys/bus/pci/drivers").join(driver), folder.join("driver")).unwrap();
        }
    }

    fn vfio(&self, address: &str, name: &str) {
        std::fs::create_dir_all(self.path("sys/devices").join(address).join("vfio-dev").join(name)).unwrap();
        std::fs::create_dir_all(self.path("sys/class/vfio-dev").join(name)).unwrap();
    }

    /// Where kubelet's root is looked for first.
    pub(crate) fn kubelet(&self) -> PathBuf {
        self.path("kubelet")
    }

    /// And then.
    pub(crate) fn second(&self) -> PathBuf {
        self.path("k0s/kubelet")
    }

    /// A CDI spec of kind `nvidia.com/pgpu` with these devices and nodes.
    pub(crate) fn cdi(&self, kind: &str, devices: &[(&str, &str)]) {
        let mut text = format!("cdiVersion: \"0.5.0\"\nkind: {kind}\ndevices:\n");
        for (name, node) in devices {
            text.push_str(&format!(
                "- name: \"{name}\"\n  containerEdits:\n    deviceNodes:\n    - path: {node}\n"
            ));
        }
        std::fs::create_dir_all(self.path("cdi")).unwrap();
        std::fs::write(self.path("cdi").join(format!("{}.yaml", kind.replace('/', "-"))), text).unwrap();
    }

    pub(crate) fn checkpoint(&self, uid: &str, id: &str) {
        Self::checkpoint_below(&self.kubelet(), uid, id);
    }

    pub(crate) fn checkpoint_below(root: &Path, uid: &str, id: &str) {
        let folder = root.join("device-plugins");
        std::fs::create_dir_all(&folder).unwrap();
        let text = format!(
            r#"{{"Data":{{"PodDeviceEntries":[{{"PodUID":"{uid}","ContainerName":"main",
                "ResourceName":"nvidia.com/pgpu","DeviceIDs":{{"0":["{id}"]}}}}]}},"Checksum":7}}"#
        );
        std::fs::write(folder.join("kubelet_internal_checkpoint"), text).unwrap();
    }

    pub(crate) fn finder(&self) -> Finder {
        let kubelet = vec![self.kubelet(), self.second()];
        Finder::new(Roots { sysfs: self.path("sys"), kubelet, cdi: vec![self.path("cdi")] })
    }
}

/// The facts of Kubernetes pod `ml/web`, with more annotations and devices.
pub(crate) fn web(annotations: &[(&str, &str)], devices: &[&str]) -> Facts {
    let pod = [
        ("io.kubernetes.cri.container-type", "sandbox"),
        ("io.kubernetes.cri.sandbox-namespace", "ml"),
        ("io.kubernetes.cri.sandbox-name", "web"),
        ("io.kubernetes.cri.sandbox-uid", "uid-1"),
    ];
    Facts::new(pod.iter().chain(annotations).copied(), devices.iter().map(PathBuf::from)).unwrap()
}

/// The same outside of Kubernetes.
pub(crate) fn plain(annotations: &[(&str, &str)], devices: &[&str]) -> Facts {
    Facts::new(annotations.iter().copied(), devices.iter().map(PathBuf::from)).unwrap()
}
