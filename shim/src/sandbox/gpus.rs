//! A pod's GPUs: which it gets, and what each container is told of them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use gpu::sysfs::Sysfs;
use gpu::{Kind, PciAddress};
use gpu_selection::{Assigned, Facts, Finder, NoKubelet, PATIENCE, Request, Roots, Wish};
use guest_spec::PassedDevice;
use oci_spec::runtime::Spec;
use slog::{Logger, info};
use vmm::devices::{DevicesRequest, GpuHost};
use vmm_config::pci::GuestPciPath;
use vmm_config::spec::VmSpec;

use super::bundle;
use crate::api::{Error, Result};

/// A device of the VM, as its containers need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestDevice {
    /// Where it is on the host.
    pub address: PciAddress,
    /// Where it is in the guest.
    pub path: GuestPciPath,
    /// Of a GPU: its rank among the VM's GPUs in the guest's order.
    pub gpu: Option<usize>,
}

/// The devices for the VM of a pod, from its annotations and from the device nodes of the container that is the whole pod.
///
/// # Errors
/// It cannot be told; a pod that asks for GPUs is not started without.
pub async fn of_pod(
    annotations: &BTreeMap<String, String>,
    devices: &[PathBuf],
    log: &Logger,
) -> Result<DevicesRequest> {
    let annotations = annotations.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let facts = facts(annotations, devices.iter().cloned())?;
    let host = host();
    let found = finder(&host).pod(&facts, Wish::Unknown, PATIENCE).await.map_err(Box::new)?;
    let Request { assigned, companions, notes } = found;
    for note in notes {
        info!(log, "GPUs: {note}");
    }
    for Assigned { address, source, .. } in &assigned {
        info!(log, "GPU assigned"; "gpu" => %address, "by" => %source);
    }
    if !companions.is_empty() {
        info!(log, "functions of the GPUs that stay on the host"; "functions" => ?companions);
    }
    let addresses = assigned.into_iter().map(|assigned| assigned.address).collect();
    Ok(DevicesRequest { addresses, host })
}

/// The devices of a VM, with the ranks that its guest's CDI specification will count them by.
pub fn in_guest(spec: &VmSpec) -> Vec<GuestDevice> {
    let mut gpus: Vec<GuestPciPath> = spec
        .passthrough()
        .iter()
        .filter(|device| device.kind == Kind::Gpu)
        .map(|device| device.guest_path())
        .collect();
    gpus.sort();
    let known = spec.passthrough().iter().map(|device| {
        let path = device.guest_path();
        let gpu = gpus.iter().position(|gpu| *gpu == path);
        GuestDevice { address: device.address, path, gpu }
    });
    known.collect()
}

/// What the agent is told of the devices that a container's bundle names.
///
/// # Errors
/// It names one that its VM does not have.
pub fn of_container(spec: &Spec, vm: &[GuestDevice]) -> Result<Vec<PassedDevice>> {
    let annotations = spec.annotations().iter().flatten().map(|(key, value)| (key.as_str(), value.as_str()));
    let facts = facts(annotations, bundle::devices(spec))?;
    let host = host();
    let finder = finder(&host);
    let assigned = finder.container(&facts).map_err(Box::new)?;
    let sysfs = Sysfs::new(&host.sysfs);
    let no_kubelet = || finder.missing_kubelet(&facts);
    assigned.into_iter().map(|assigned| passed(assigned, vm, &sysfs, no_kubelet)).collect()
}

fn passed(
    assigned: Assigned,
    vm: &[GuestDevice],
    sysfs: &Sysfs,
    no_kubelet: impl Fn() -> Option<NoKubelet>,
) -> Result<PassedDevice> {
    let Assigned { address, source, .. } = assigned;
    let text = address.to_string();
    let device = vm.iter().find(|device| device.address == address);
    let late = || Error::LateGpu { gpu: address, source_of: source.to_string(), no_kubelet: no_kubelet() };
    let device = device.ok_or_else(late)?;
    Ok(PassedDevice {
        number: number(address, sysfs),
        host: text,
        guest: device.path.to_string(),
        gpu: device.gpu,
    })
}

/// The number in the name of the device's VFIO node, or of its group: only a name in the guest.
fn number(address: PciAddress, sysfs: &Sysfs) -> u32 {
    let Ok(Some(function)) = sysfs.function(address) else { return 0 };
    let node = function.vfio_device.as_deref().and_then(|node| node.strip_prefix("vfio")?.parse().ok());
    node.or_else(|| function.group.map(|group| group.id)).unwrap_or_default()
}

fn facts<'a>(
    annotations: impl Iterator<Item = (&'a str, &'a str)>,
    devices: impl IntoIterator<Item = PathBuf>,
) -> Result<Facts> {
    let facts = Facts::new(annotations, devices).map_err(gpu_selection::Error::from);
    Ok(facts.map_err(Box::new)?)
}

fn finder(host: &GpuHost) -> Finder {
    Finder::new(Roots { sysfs: host.sysfs.clone(), ..Roots::default() })
}

/// The host; in a rig that has them, the emulated GPUs.
#[cfg(feature = "vfio-user")]
fn host() -> GpuHost {
    let emulated = PathBuf::from(gpu::registers::RIG);
    if !emulated.exists() {
        return GpuHost::default();
    }
    GpuHost { sysfs: emulated.join("sys"), emulated: Some(emulated), ..GpuHost::default() }
}

/// The host.
#[cfg(not(feature = "vfio-user"))]
fn host() -> GpuHost {
    GpuHost::default()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use gpu_selection::Source;

    use super::*;

    fn sysfs(vfio_device: bool) -> (tempfile::TempDir, Sysfs) {
        let root = tempfile::tempdir().unwrap();
        let device = root.path().join("bus/pci/devices/0000:41:00.0");
        std::fs::create_dir_all(&device).unwrap();
        for (name, text) in [
            ("vendor", "0x10de"),
            ("device", "0x2330"),
            ("class", "0x030200"),
            ("subsystem_device", "0x16c1"),
            ("resource", ""),
        ] {
            std::fs::write(device.join(name), text).unwrap();
        }
        let group = root.path().join("kernel/iommu_groups/17");
        std::fs::create_dir_all(group.join("devices")).unwrap();
        symlink(&device, group.join("devices/0000:41:00.0")).unwrap();
        symlink(&group, device.join("iommu_group")).unwrap();
        if vfio_device {
            std::fs::create_dir_all(device.join("vfio-dev/vfio3")).unwrap();
        }
        let sysfs = Sysfs::new(root.path());
        (root, sysfs)
    }

    fn assigned(address: &str) -> Assigned {
        Assigned {
            address: address.parse().unwrap(),
            kind: gpu::Kind::Gpu,
            source: Source::Device("/dev/vfio/devices/vfio3".into()),
        }
    }

    #[test]
    fn a_container_is_told_where_its_gpu_is_in_the_guest() {
        let vm = [GuestDevice {
            address: "0000:41:00.0".parse().unwrap(),
            path: GuestPciPath::from_numbers(0, &[9, 0]),
            gpu: Some(2),
        }];
        for (vfio_device, number) in [(true, 3), (false, 17)] {
            let (_root, sysfs) = sysfs(vfio_device);
            let passed = passed(assigned("0000:41:00.0"), &vm, &sysfs, || None).unwrap();
            let expected =
                PassedDevice { number, host: "0000:41:00.0".into(), guest: "09/00".into(), gpu: Some(2) };
            assert_eq!(passed, expected);
        }
        let (_root, sysfs) = sysfs(true);
        let error = passed(assigned("0000:42:00.0"), &vm, &sysfs, || None).unwrap_err().to_string();
        assert!(error.contains("0000:42:00.0 (device /dev/vfio/devices/vfio3)"), "{error}");
    }

    #[tokio::test]
    async fn devices_that_are_no_gpus_ask_for_nothing() {
        let log = Logger::root(slog::Discard, slog::o!());
        let devices = [PathBuf::from("/dev/null"), PathBuf::from("/dev/fuse")];
        let request = of_pod(&BTreeMap::new(), &devices, &log).await.unwrap();
        assert_eq!(request.addresses, []);
    }
}
