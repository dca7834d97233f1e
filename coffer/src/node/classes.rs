//! What each runtime class needs of a bundle, and whether the node can run it.

use std::fmt::Write as _;

use node_install::{Bundle, Instance, Root};
use readiness::{Class, Gpus, Host, Real, Report, Verdict, examine};

/// Where the node's programs are looked up: what systemd gives containerd, and what root has.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Firmware with SEV-SNP's launch measurements, in Debian's and Ubuntu's package ovmf-amdsev, Fedora's edk2-ovmf.
const SNP_FIRMWARE: [&str; 2] = ["/usr/share/ovmf/OVMF.amdsev.fd", "/usr/share/edk2/ovmf/OVMF.amdsev.fd"];
/// Firmware with TDX's metadata: Debian's ovmf-inteltdx, Ubuntu's ovmf, Fedora's edk2-ovmf.
const TDX_FIRMWARE: [&str; 3] =
    ["/usr/share/ovmf/OVMF.inteltdx.fd", "/usr/share/ovmf/OVMF.fd", "/usr/share/edk2/ovmf/OVMF.inteltdx.fd"];

/// The default configuration of each class.
pub(super) fn configurations(
    root: &Root,
    bundle: &Bundle,
    instance: &Instance,
) -> Vec<(&'static str, String)> {
    Class::ALL.map(|class| (class.name(), configuration(root, bundle, instance, class))).to_vec()
}

fn configuration(root: &Root, bundle: &Bundle, instance: &Instance, class: Class) -> String {
    let current = instance.current();
    let mut text = format!(
        "# Pods of the runtime class {}. Made by `coffer install`, which leaves it alone once you have changed it.\n\
         # `coffer config --config FILE` prints every key with its meaning.\n\n",
        instance.handler(class.name())
    );
    let mut set = |key: &str, value: &str| {
        let _ = writeln!(text, "{key} = {value:?}");
    };
    let image = if class == Class::Plain { "plain" } else { "confidential" };
    set("image", &format!("{current}/share/images/{image}"));
    for (key, program) in [("qemu", "qemu-system-x86_64"), ("vhost_device_vsock", "vhost-device-vsock")] {
        if bundle.has(&format!("bin/{program}")) {
            set(key, &format!("{current}/bin/{program}"));
        }
    }
    let (tee, name, elsewhere) = match class {
        Class::Plain => return text,
        Class::Snp => ("snp", "snp.fd", &SNP_FIRMWARE[..]),
        Class::Tdx => ("tdx", "tdx.fd", &TDX_FIRMWARE[..]),
    };
    set("tee", tee);
    let bundled = format!("share/firmware/{name}");
    if bundle.has(&bundled) {
        set("firmware", &format!("{current}/{bundled}"));
    } else if let Some(path) = elsewhere.iter().find(|path| root.exists(path)) {
        set("firmware", path);
    }
    text
}

/// What `coffer doctor` finds on the node with this configuration.
pub(super) fn examined(root: &Root, config: &str) -> Report {
    let root = readiness::Root::new(root.directory());
    let probe = Real::new(&root);
    examine(&Host::new(&root, &probe, config, PATH.as_ref()))
}

/// Why a class cannot run on the node; `None` where it can.
pub(super) fn stopped(report: &Report, class: Class) -> Option<String> {
    match report.verdict(class) {
        Verdict::Ready | Verdict::ReadyWithWarnings => None,
        Verdict::NotReady => Some(report.stopped(class).unwrap_or("see `coffer doctor`").to_owned()),
    }
}

/// What pods can have of the node's GPUs, in one line; `None` where it has none.
pub(super) fn gpus(report: &Report) -> Option<String> {
    match report.gpus() {
        Gpus::None => None,
        Gpus::Ready(what) => Some(what),
        Gpus::NotReady(reason) => Some(format!("not ready: {reason}")),
    }
}

/// The class of this name.
pub(super) fn class_of(name: &str) -> Option<Class> {
    Class::ALL.into_iter().find(|class| class.name() == name)
}
