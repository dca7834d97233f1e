//! Which way to a function's registers: by the driver that has it.

use std::io;
use std::path::{Path, PathBuf};

use nix::libc;

use crate::PciAddress;
use crate::registers::{Registers, Resource0, Vfio};
use crate::sysfs::Function;
use crate::thread::off_thread;

/// What can go wrong with opening.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A driver that is none of VFIO's has it.
    #[error("GPU {gpu} is bound to driver {driver:?}; unbind it and bind vfio-pci (`coffer gpu bind`)")]
    Driver {
        /// The GPU.
        gpu: PciAddress,
        /// The driver.
        driver: String,
    },
    /// A VFIO driver has it, but offers no way in.
    #[error(
        "GPU {gpu} has no node in /dev/vfio: is the IOMMU enabled (Intel: boot with intel_iommu=on; AMD: without amd_iommu=off)?"
    )]
    NoNode {
        /// The GPU.
        gpu: PciAddress,
    },
    /// Without a driver sysfs is the way in, and the kernel's lockdown bars it.
    #[error(
        "cannot map BAR0 of GPU {gpu} under Secure Boot's lockdown; bind it to vfio-pci (`coffer gpu bind`)"
    )]
    Lockdown {
        /// The GPU.
        gpu: PciAddress,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The way in is barred.
    #[error(
        "cannot open GPU {gpu} over {path}; is a VM running with it, or is its group not VFIO's as a whole?"
    )]
    Open {
        /// The GPU.
        gpu: PciAddress,
        /// The node or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// VFIO's drivers for PCI functions.
#[must_use]
pub fn is_vfio(driver: &str) -> bool {
    driver == "vfio-pci" || driver.ends_with("_vfio_pci") || driver.ends_with("-vfio-pci")
}

/// Opens a function: over its VFIO device where the kernel has iommufd, else over its VFIO group; over
/// sysfs when no driver has it. `dev` is the folder of device nodes, usually `/dev`.
///
/// # Errors
/// [`Error`]. Nothing is tried besides what the driver allows.
pub async fn open(function: &Function, dev: &Path) -> Result<Box<dyn Registers>, Error> {
    let gpu = function.address;
    match function.driver.as_deref() {
        None => {
            let path = function.path.clone();
            let opened = Resource0::open(&path).map_err(|source| match source.raw_os_error() {
                Some(libc::EPERM) => Error::Lockdown { gpu, source },
                _ => Error::Open { gpu, path, source },
            });
            Ok(Box::new(opened?))
        }
        Some(driver) if is_vfio(driver) => open_vfio(function, dev).await,
        Some(driver) => Err(Error::Driver { gpu, driver: driver.to_owned() }),
    }
}

type OpenNode = Box<dyn FnOnce(&Path) -> io::Result<Vfio> + Send>;

async fn open_vfio(function: &Function, dev: &Path) -> Result<Box<dyn Registers>, Error> {
    let gpu = function.address;
    let iommufd = dev.join("iommu");
    let (path, open): (PathBuf, OpenNode) =
        match (function.vfio_device_node(dev), function.vfio_group_node(dev)) {
            (Some(node), _) if iommufd.exists() => {
                (node, Box::new(move |node| Vfio::open_device(node, &iommufd)))
            }
            (_, Some(node)) => {
                let container = dev.join("vfio/vfio");
                (node, Box::new(move |node| Vfio::open_group(node, &container, gpu)))
            }
            _ => return Err(Error::NoNode { gpu }),
        };
    let fail = |source| Error::Open { gpu, path: path.clone(), source };
    let node = path.clone();
    // The first to open a VFIO device waits for its reset.
    let opened = off_thread("gpu-open", move || open(&node)).await.map_err(fail)?;
    Ok(Box::new(opened.map_err(fail)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DeviceId;
    use crate::Kind;
    use crate::sysfs::IommuGroup;

    fn function(driver: Option<&str>, path: &Path) -> Function {
        Function {
            address: "0000:41:00.0".parse().unwrap(),
            path: path.to_owned(),
            kind: Kind::Gpu,
            id: DeviceId(0x2330),
            chip: None,
            subsystem: 0,
            class: 0x03_0200,
            driver: driver.map(str::to_owned),
            group: None,
            vfio_device: None,
            bars: vec![],
            numa_node: None,
            reset_methods: vec![],
        }
    }

    #[tokio::test]
    async fn a_function_of_another_driver_is_not_touched() {
        let nowhere = Path::new("/nonexistent");
        let error = open(&function(Some("nvidia"), nowhere), nowhere).await.unwrap_err();
        assert!(matches!(&error, Error::Driver { driver, .. } if driver == "nvidia"), "{error}");
    }

    #[tokio::test]
    async fn vfio_prefers_iommufd_and_falls_back_to_the_group() {
        let dev = tempfile::tempdir().unwrap();
        let opened = |error: Error| match error {
            Error::Open { path, .. } => path.strip_prefix(dev.path()).unwrap().to_owned(),
            other => panic!("{other}"),
        };
        let mut function = function(Some("nvgrace_gpu_vfio_pci"), dev.path());
        let error = open(&function, dev.path()).await.unwrap_err();
        assert!(matches!(error, Error::NoNode { .. }));
        function.vfio_device = Some("vfio3".into());
        function.group = Some(IommuGroup { id: 17, functions: vec![] });
        let error = open(&function, dev.path()).await.unwrap_err();
        assert_eq!(opened(error), Path::new("vfio/17"));
        std::fs::write(dev.path().join("iommu"), "").unwrap();
        let error = open(&function, dev.path()).await.unwrap_err();
        assert_eq!(opened(error), Path::new("vfio/devices/vfio3"));
    }

    #[tokio::test]
    async fn an_unbound_function_goes_over_sysfs() {
        let device = tempfile::tempdir().unwrap();
        std::fs::write(device.path().join("resource0"), [0; 4096]).unwrap();
        std::fs::write(device.path().join("config"), [0; 256]).unwrap();
        open(&function(None, device.path()), device.path()).await.unwrap();
    }
}
