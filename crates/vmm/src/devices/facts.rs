//! What vmm-config must know of a device, told only of one that was verified.

use std::path::Path;

use gpu::Assignable;
use gpu::chip::VENDOR;
use gpu::sysfs::Function;
use vmm_config::passthrough::{Access, Bar, Description, PciId, VerifiedDevice};

use super::{DevicesError, GpuHost};

/// Describes the device that became an [`Assignable`]: the only way into a VM's description.
pub(super) fn verified(
    function: &Function,
    assignable: &Assignable,
    host: &GpuHost,
) -> Result<VerifiedDevice, DevicesError> {
    let bars = function.bars.iter().map(|bar| Bar {
        index: bar.index,
        size: bar.size,
        wide: bar.wide,
        prefetchable: bar.prefetchable,
    });
    Ok(VerifiedDevice::declare(Description {
        address: assignable.address(),
        kind: function.kind,
        id: PciId { vendor: VENDOR, device: assignable.id().0 },
        bars: bars.collect(),
        node: function.numa_node,
        access: access(function, host)?,
    }))
}

/// iommufd where the kernel has it, as crate `gpu` prefers it too.
fn access(function: &Function, host: &GpuHost) -> Result<Access, DevicesError> {
    #[cfg(feature = "vfio-user")]
    if let Some(socket) = host.socket(function.address) {
        let path = socket.to_str().and_then(vmm_config::path::SocketPath::new);
        return match path {
            Some(socket) => Ok(Access::VfioUser { socket }),
            None => Err(DevicesError::Description {
                gpu: function.address,
                reason: format!("{} is no path of a socket", socket.display()),
            }),
        };
    }
    Ok(match function.vfio_device_node(&host.dev) {
        Some(_) if Path::exists(&host.iommu()) => Access::Iommufd,
        _ => Access::Group,
    })
}
