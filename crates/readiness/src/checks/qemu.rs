//! QEMU, and what it was built with.

use vmm_config::qemu::OLDEST;

use crate::check::{Fault, Finding, Step};
use crate::host::Host;

/// What the shim's command lines need, whatever the class.
const TYPES: [&str; 4] =
    ["memory-backend-memfd", "virtio-scsi-pci", "vhost-user-vsock-pci", "vhost-vsock-pci"];

/// What passing a device through needs.
const PASSTHROUGH: [&str; 2] = ["iommufd", "vfio-pci"];

pub(super) const QEMU: Step = Step { name: "qemu", title: "QEMU", run: version, then: &[DEVICES] };

const DEVICES: Step = Step { name: "qemu.devices", title: "QEMU's devices", run: devices, then: &[] };

pub(super) const VFIO: Step =
    Step { name: "qemu.passthrough", title: "QEMU passes devices through", run: passthrough, then: &[] };

pub(super) const BUILDER: Step = Step { name: "mkfs.erofs", title: "image builder", run: builder, then: &[] };

fn version(host: &Host<'_>) -> Finding {
    let name = host.config().qemu.as_str();
    let fix =
        format!("install QEMU {OLDEST} or newer, or set `qemu` in the node's configuration to where it is");
    match host.qemu() {
        None => Finding::failed(Fault::Setup, format!("there is no program {name:?}"), fix),
        Some(Err(error)) => Finding::failed(Fault::Setup, error.to_string(), fix),
        Some(Ok(qemu)) if qemu.version.major < OLDEST => {
            Finding::failed(Fault::Setup, format!("version {}", qemu.version), fix)
        }
        Some(Ok(qemu)) => Finding::Ok(format!("version {}", qemu.version)),
    }
}

fn devices(host: &Host<'_>) -> Finding {
    has(host, &TYPES)
}

fn passthrough(host: &Host<'_>) -> Finding {
    has(host, &PASSTHROUGH)
}

/// Whether QEMU has every one of these types.
pub(super) fn has(host: &Host<'_>, types: &[&str]) -> Finding {
    let fix = "use a QEMU that was built with them; Debian's qemu-system-x86 11 is";
    let Some(Ok(qemu)) = host.qemu() else {
        return Finding::unknown(Fault::Setup, "QEMU was not asked", "see the check of QEMU itself");
    };
    let missing: Vec<_> = types.iter().copied().filter(|name| !qemu.types.contains(*name)).collect();
    if missing.is_empty() {
        Finding::Ok(types.join(", "))
    } else {
        Finding::failed(Fault::Setup, format!("this QEMU has no {}", missing.join(", ")), fix)
    }
}

/// Only pods whose image layers are not the EROFS snapshotter's need it.
fn builder(host: &Host<'_>) -> Finding {
    match host.program("mkfs.erofs") {
        Some(path) => Finding::Ok(path.display().to_string()),
        None => Finding::warning(
            Fault::Setup,
            "there is no mkfs.erofs: only layers that containerd has given dm-verity trees can be run",
            "install erofs-utils 1.8 or newer",
        ),
    }
}
