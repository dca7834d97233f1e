//! What every VM needs of the host: KVM, vsock, the guest image.

use std::io;

use shared_types::Accelerator;
use vmm_config::config::{AutoOr, Tee};
use vmm_config::image::{ImageManifest, MAX_MANIFEST};

use crate::check::{Fault, Finding, Step};
use crate::host::Host;

pub(crate) const KVM: Step = Step { name: "kvm", title: "KVM", run: device, then: &[TRIAL] };

const TRIAL: Step = Step { name: "kvm.trial", title: "KVM runs a guest", run: trial, then: &[] };

pub(crate) const VSOCK: Step =
    Step { name: "vsock", title: "vsock, the line to the guest", run: vsock, then: &[] };

pub(super) const IMAGE: Step = Step { name: "image", title: "guest image", run: image, then: &[] };

/// The device node can be opened, or why not.
pub(crate) fn device(host: &Host<'_>) -> Finding {
    let path = "/dev/kvm";
    match host.probe.open(&host.root.path(path)) {
        Ok(()) => Finding::Ok(format!("{path} can be opened")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => no_kvm(host),
        Err(error) => barred(path, &error),
    }
}

/// A device node that is there and cannot be opened.
pub(crate) fn barred(path: &str, error: &io::Error) -> Finding {
    let (fault, fix) = match error.kind() {
        io::ErrorKind::PermissionDenied => (
            Fault::Setup,
            format!("run as root, as the shim does; inside a container, allow it the device {path}"),
        ),
        _ => (Fault::Kernel, format!("see the kernel's log for why {path} refuses")),
    };
    Finding::failed(fault, format!("{path} cannot be opened: {error}"), fix)
}

fn no_kvm(host: &Host<'_>) -> Finding {
    let cpu = host.cpu();
    let module = if cpu.vendor == "AuthenticAMD" { "kvm_amd" } else { "kvm_intel" };
    let word = if cpu.vendor == "AuthenticAMD" { "SVM" } else { "VT-x" };
    let capable = cpu.has("svm") || cpu.has("vmx");
    if capable && host.root.exists("/sys/module/kvm") {
        let fix = "mount devtmpfs at /dev, or `mknod /dev/kvm c 10 232`";
        return Finding::failed(Fault::Setup, "KVM is loaded and /dev/kvm is missing", fix);
    }
    if capable {
        let fix = format!("modprobe {module}; the kernel's log says why if that fails");
        return Finding::failed(Fault::Kernel, format!("/dev/kvm is missing: {module} is not loaded"), fix);
    }
    if cpu.is_guest() {
        let evidence = "/dev/kvm is missing: this machine is a VM without nested virtualization";
        return Finding::failed(Fault::Cpu, evidence, nested());
    }
    let fix = format!("switch {word} on in the firmware's setup");
    Finding::failed(Fault::Firmware, format!("/dev/kvm is missing: the CPU shows no {word}"), fix)
}

fn nested() -> &'static str {
    "give this VM nested virtualization, or use a machine that is none; until then plain pods run emulated, slowly"
}

fn trial(host: &Host<'_>) -> Finding {
    if host.config().accel == AutoOr::Is(Accelerator::Tcg) && host.config().tee == Tee::None {
        return Finding::NotApplicable("the configuration wants emulation (accel = \"tcg\")".to_owned());
    }
    match host.probe.trial() {
        Ok(()) => Finding::Ok("a trial guest ran to its end".to_owned()),
        Err(reason) if host.cpu().is_guest() => Finding::failed(Fault::Cpu, reason, nested()),
        Err(reason) => Finding::failed(
            Fault::Kernel,
            reason,
            "see the kernel's log; is another hypervisor running on this host?",
        ),
    }
}

/// The kernel's vhost-vsock, or the program that stands in for it.
pub(crate) fn vsock(host: &Host<'_>) -> Finding {
    let path = "/dev/vhost-vsock";
    let missing = match host.probe.open(&host.root.path(path)) {
        Ok(()) => return Finding::Ok(format!("{path} can be opened")),
        // A node without its module is opened with ENODEV, or ENXIO.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return barred(path, &error),
        Err(error) => error,
    };
    let program = host.config().vhost_device_vsock.as_str();
    match host.program(program) {
        Some(found) => Finding::Ok(format!("{} stands in for {path}", found.display())),
        None => Finding::failed(
            Fault::Kernel,
            format!("{path} cannot be opened ({missing}), and there is no program {program:?}"),
            "modprobe vhost_vsock, or install vhost-device-vsock where the kernel has no such module",
        ),
    }
}

/// The manifest can be read, and its files are there. Their digests are not computed: that takes seconds.
fn image(host: &Host<'_>) -> Finding {
    let dir = host.config().image.as_str();
    let fix = format!(
        "`make image-release` makes one; put it at {dir}, or set `image` in the node's configuration"
    );
    let failed = |evidence: String| Finding::failed(Fault::Setup, evidence, fix.clone());
    let manifest = match host.root.bytes(&format!("{dir}/image.json"), MAX_MANIFEST as u64 + 1) {
        Ok(Some(json)) => ImageManifest::parse(&json),
        Ok(None) => return failed(format!("{dir}/image.json does not exist")),
        Err(error) => return failed(error.to_string()),
    };
    let manifest = match manifest {
        Ok(manifest) => manifest,
        Err(error) => return failed(format!("{dir}: {error}")),
    };
    for file in [&manifest.kernel.file, &manifest.root.file] {
        if !host.root.exists(&format!("{dir}/{}", file.as_str())) {
            return failed(format!("{dir}/{} does not exist", file.as_str()));
        }
    }
    let (name, profile) = (&manifest.name, manifest.profile.name());
    Finding::Ok(format!("{name}, profile {profile}, {}, kernel {}", manifest.agent, manifest.kernel_release))
}
