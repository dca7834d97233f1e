//! GPUs of a container: found where the host says that they are, and counted as the guest's CDI specification would.
//!
//! kata-agent waits for a specification that NVIDIA's tools write in the guest, and puts what it says into the container.
//! Here there is no driver: what is checked is that the host told the truth, and the container gets nothing by it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_client::proto::agent::Device;
use tokio::time::{sleep, timeout};

use crate::error::{Error, Result};

/// How often sysfs is looked at.
const POLL: Duration = Duration::from_millis(10);
/// The one type that is played: devices for a driver in the guest, not for VFIO there.
const TYPE: &str = "vfio-pci-gk";
const CDI: &str = "cdi.k8s.io/";
const KIND: &str = "nvidia.com/gpu=";
/// kata-agent takes a first number from here on for a root bus.
const FIRST_ROOT: u8 = 0x20;

/// Waits for all devices, and compares the annotations with what is there.
pub async fn check(
    devices: &[Device],
    annotations: &HashMap<String, String>,
    sysfs: &Path,
    limit: Duration,
) -> Result<()> {
    let mut found = HashMap::new();
    for device in devices {
        found.insert(device.id.as_str(), find(device, sysfs, limit).await?);
    }
    for (key, value) in annotations.iter().filter(|(key, _)| key.starts_with(CDI)) {
        let refuse = |why: &str| Error::refused(format!("annotation {key}={value}: {why}"));
        let index = value.strip_prefix(KIND).and_then(|index| index.parse::<usize>().ok());
        let index = index.ok_or_else(|| refuse("no device of the guest's; the host's must be left out"))?;
        let gpus = gpus(sysfs)?;
        let gpu = gpus.get(index).ok_or_else(|| refuse(&format!("the guest has {} GPUs", gpus.len())))?;
        let device = found.get(&key[CDI.len()..]).ok_or_else(|| refuse("no device of this name"))?;
        if device != gpu {
            return Err(refuse(&format!(
                "that is {}, but the device is {}",
                gpu.display(),
                device.display()
            )));
        }
    }
    Ok(())
}

/// The device's folder, which is named by its address.
async fn find(device: &Device, sysfs: &Path, limit: Duration) -> Result<PathBuf> {
    let Device { id, type_, container_path, options, .. } = device;
    let refuse = |why: String| Error::refused(format!("device {id:?}: {why}"));
    if type_ != TYPE {
        return Err(Error::Unsupported("devices of other types than vfio-pci-gk"));
    }
    // What CoCo's policies check.
    if Path::new(container_path).file_name().and_then(|name| name.to_str()) != Some(id) {
        return Err(refuse(format!("its id is not the end of its path {container_path:?}")));
    }
    let [option] = options.as_slice() else {
        return Err(refuse(format!("{} options, not one", options.len())));
    };
    let place = option.split_once('=').and_then(|(_, path)| numbers(path));
    let place = place.ok_or_else(|| refuse(format!("option {option:?} is no host address=guest path")))?;
    let search = async {
        loop {
            if let Some(folder) = walk(sysfs, &place) {
                return folder;
            }
            sleep(POLL).await;
        }
    };
    let what = format!("a PCI device at {option}");
    timeout(limit, search).await.map_err(|_| Error::Timeout { what, limit })
}

fn numbers(path: &str) -> Option<Vec<u8>> {
    path.split('/').map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2)).collect()
}

fn walk(sysfs: &Path, place: &[u8]) -> Option<PathBuf> {
    let (root, slots) = match place {
        [root, slots @ ..] if slots.len() >= 2 && *root >= FIRST_ROOT => (*root, slots),
        slots => (0, slots),
    };
    let bus = sysfs.join(format!("devices/pci0000:{root:02x}"));
    slots.iter().try_fold(bus, |folder, slot| {
        let end = format!(":{slot:02x}.0");
        let entries = fs::read_dir(&folder).ok()?.flatten();
        let is = |name: &str| name.ends_with(&end) && name.matches(':').count() == 2;
        entries
            .map(|entry| entry.path())
            .find(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is))
    })
}

/// NVIDIA's display controllers in the order of their addresses.
fn gpus(sysfs: &Path) -> Result<Vec<PathBuf>> {
    let devices = sysfs.join("bus/pci/devices");
    let mut found = Vec::new();
    for entry in fs::read_dir(&devices).map_err(Error::path("list", &devices))?.flatten() {
        let read = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        if read("vendor").trim() == "0x10de" && read("class").starts_with("0x03") {
            found.push(fs::canonicalize(entry.path()).map_err(Error::path("follow", &entry.path()))?);
        }
    }
    found.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(20);

    /// Two GPUs on the board's root bus and one behind another.
    fn sysfs() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("bus/pci/devices")).unwrap();
        for (place, class) in [
            ("pci0000:00/0000:00:09.0/0000:01:00.0", "0x030200"),
            ("pci0000:00/0000:00:0a.0/0000:02:00.0", "0x068000"),
            ("pci0000:20/0000:20:00.0/0000:21:00.0", "0x030200"),
        ] {
            let folder = fs::canonicalize(root.path()).unwrap().join("devices").join(place);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("vendor"), "0x10de\n").unwrap();
            fs::write(folder.join("class"), class).unwrap();
            symlink(&folder, root.path().join("bus/pci/devices").join(folder.file_name().unwrap())).unwrap();
        }
        root
    }

    fn device(number: u8, path: &str) -> Device {
        Device {
            id: format!("vfio{number}"),
            type_: TYPE.to_owned(),
            container_path: format!("/dev/vfio/devices/vfio{number}"),
            options: vec![format!("0000:41:00.0={path}")],
            ..Device::default()
        }
    }

    async fn refusal(devices: &[Device], annotations: &[(&str, &str)]) -> String {
        let root = sysfs();
        let annotations =
            annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        match check(devices, &annotations, root.path(), LIMIT).await {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[tokio::test]
    async fn devices_are_where_the_host_says_and_counted_in_order() {
        let all = [device(1, "09/00"), device(2, "0a/00"), device(3, "20/00/00")];
        let annotations =
            [("cdi.k8s.io/vfio1", "nvidia.com/gpu=0"), ("cdi.k8s.io/vfio3", "nvidia.com/gpu=1"), ("a", "b")];
        assert_eq!(refusal(&all, &annotations).await, "");
    }

    #[tokio::test]
    async fn what_the_host_gets_wrong_is_refused() {
        assert!(refusal(&[device(1, "0b/00")], &[]).await.contains("a PCI device at 0000:41:00.0=0b/00"));
        assert!(refusal(&[device(1, "9/0")], &[]).await.contains("no host address=guest path"));
        let other = Device { id: "gpu".into(), ..device(1, "09/00") };
        assert!(refusal(&[other], &[]).await.contains("not the end of its path"));
        let one = [device(1, "09/00")];
        let by = async |value| refusal(&one, &[("cdi.k8s.io/vfio1", value)]).await;
        assert!(by("nvidia.com/gpu=1").await.contains("but the device is"));
        assert!(by("nvidia.com/gpu=2").await.contains("the guest has 2 GPUs"));
        assert!(by("nvidia.com/pgpu=0").await.contains("must be left out"));
        let named = refusal(&one, &[("cdi.k8s.io/vfio2", "nvidia.com/gpu=0")]).await;
        assert!(named.contains("no device of this name"), "{named}");
    }
}
