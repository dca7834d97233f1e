//! NVIDIA GPUs, and what passing them through needs. Nothing is woken, reset or written.

use std::collections::BTreeMap;
use std::fmt::Write;

use gpu::fabric::Fabric;
use gpu::open::is_vfio;
use gpu::sysfs::{Function, Inventory, Sysfs};
use gpu::{Kind, Mode};
use shared_types::one_line;

use super::{qemu, vm};
use crate::check::{Fault, Finding, Step};
use crate::host::Host;

pub(super) const GPUS: Step = Step {
    name: "gpu",
    title: "NVIDIA GPUs",
    run: devices,
    then: &[
        Step {
            name: "gpu.iommu",
            title: "GPUs: IOMMU",
            run: iommu,
            then: &[Step {
                name: "gpu.vfio",
                title: "GPUs: vfio-pci",
                run: vfio,
                then: &[
                    Step { name: "gpu.iommufd", title: "GPUs: iommufd", run: iommufd, then: &[] },
                    Step { name: "gpu.bound", title: "GPUs: bound to VFIO", run: bound, then: &[] },
                    Step { name: "gpu.group", title: "GPUs: alone in their groups", run: groups, then: &[] },
                ],
            }],
        },
        Step { name: "gpu.mode", title: "GPUs: confidential computing", run: modes, then: &[] },
        Step {
            name: "gpu.partitions",
            title: "GPUs: partitions of an NVSwitch board",
            run: partitions,
            then: &[],
        },
        Step { name: "gpu.memlock", title: "GPUs: locked memory", run: memlock, then: &[] },
        qemu::VFIO,
    ],
};

fn inventory(host: &Host<'_>) -> Result<Inventory, String> {
    Sysfs::new(&host.root.path("/sys")).discover().map_err(|error| one_line(&error))
}

fn functions(host: &Host<'_>) -> Vec<Function> {
    inventory(host).map(|inventory| inventory.functions).unwrap_or_default()
}

/// Where the fabric manager's partitions were written down for the shim.
const STATE: &str = "/var/lib/coffer/gpu";

fn partitions(host: &Host<'_>) -> Finding {
    let fix = "write both files again, or remove their folder (docs/gpu.md)";
    let fabric = match Fabric::read(&host.root.path(STATE)) {
        Ok(None) => {
            return Finding::NotApplicable(
                "nothing is said of them: their number is looked at only".to_owned(),
            );
        }
        Ok(Some(fabric)) => fabric,
        Err(error) => return Finding::failed(Fault::Setup, one_line(&error), fix),
    };
    let unknown = functions(host)
        .into_iter()
        .filter(|function| function.kind == Kind::Gpu && fabric.module(function.address).is_none())
        .map(|function| function.address.to_string());
    let unknown: Vec<_> = unknown.collect();
    if !unknown.is_empty() {
        let evidence = format!("no module is known of {}", unknown.join(", "));
        return Finding::warning(Fault::Setup, evidence, "add them to `modules`, if they are on the board");
    }
    let mut sizes: BTreeMap<usize, usize> = BTreeMap::new();
    for partition in fabric.partitions() {
        *sizes.entry(partition.modules.len()).or_default() += 1;
    }
    let sizes = sizes.iter().rev().map(|(size, count)| format!("{count} of {size}"));
    Finding::Ok(format!("{} GPUs", sizes.collect::<Vec<_>>().join(", ")))
}

fn devices(host: &Host<'_>) -> Finding {
    let fix = "see the kernel's log; a GPU that has fallen off its bus comes back with a power cycle";
    let inventory = match inventory(host) {
        Ok(inventory) => inventory,
        Err(error) => return Finding::failed(Fault::Setup, error, fix),
    };
    if let Some(error) = inventory.unreadable.first() {
        return Finding::failed(Fault::Setup, one_line(error), fix);
    }
    let count = |kind| inventory.functions.iter().filter(|f| f.kind == kind).count();
    let (gpus, switches) = (count(Kind::Gpu), count(Kind::NvSwitch));
    if gpus + switches == 0 {
        return Finding::NotApplicable("there are none".to_owned());
    }
    let mut chips: Vec<_> = inventory
        .functions
        .iter()
        .map(|f| f.chip.map_or_else(|| f.id.to_string(), |c| c.to_string()))
        .collect();
    chips.sort();
    chips.dedup();
    Finding::Ok(format!("{gpus} GPUs, {switches} NVSwitches: {}", chips.join(", ")))
}

fn iommu(host: &Host<'_>) -> Finding {
    let (parameter, word) = match host.cpu().vendor.as_str() {
        "AuthenticAMD" => ("amd_iommu=off", "IOMMU"),
        _ => ("intel_iommu=off", "VT-d"),
    };
    match host.root.names("/sys/class/iommu") {
        names if !names.is_empty() => Finding::Ok(format!("{} units", names.len())),
        _ if host.booted_with(&[parameter, "iommu=off"]).is_some() => Finding::failed(
            Fault::Kernel,
            format!("the kernel was booted with {parameter}"),
            format!("boot without {parameter}"),
        ),
        _ if word == "VT-d" => Finding::failed(
            Fault::Firmware,
            "the kernel uses no IOMMU",
            "switch on VT-d in the firmware's setup, and boot with intel_iommu=on",
        ),
        _ => Finding::failed(
            Fault::Firmware,
            "the kernel uses no IOMMU",
            "switch on the IOMMU in the firmware's setup",
        ),
    }
}

fn vfio(host: &Host<'_>) -> Finding {
    if host.root.exists("/sys/bus/pci/drivers/vfio-pci") {
        return Finding::Ok("the driver is there".to_owned());
    }
    let fix = "modprobe vfio-pci, and name it in /etc/modules-load.d";
    Finding::failed(Fault::Kernel, "the driver vfio-pci is not loaded", fix)
}

fn iommufd(host: &Host<'_>) -> Finding {
    let path = "/dev/iommu";
    match host.probe.open(&host.root.path(path)) {
        Ok(()) => Finding::Ok(format!("{path} can be opened")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Finding::failed(
            Fault::Kernel,
            format!("{path} is missing: confidential VMs take GPUs over it only"),
            "modprobe iommufd; the kernel needs CONFIG_IOMMUFD and CONFIG_VFIO_DEVICE_CDEV",
        ),
        Err(error) => vm::barred(path, &error),
    }
}

fn bound(host: &Host<'_>) -> Finding {
    let functions = functions(host);
    let strangers: Vec<_> = functions.iter().filter(|f| !f.driver.as_deref().is_some_and(is_vfio)).collect();
    if strangers.is_empty() {
        return Finding::Ok(format!("all {}", functions.len()));
    }
    let list = listed(strangers.iter().map(|f| {
        let driver = f.driver.as_deref().unwrap_or("no driver");
        format!("{} has {driver}", f.address)
    }));
    let fix = "bind them to vfio-pci (driverctl set-override ADDRESS vfio-pci), or leave them to NVIDIA's vfio-manager";
    Finding::warning(Fault::Setup, list, fix)
}

fn groups(host: &Host<'_>) -> Finding {
    let functions = functions(host);
    let ours: Vec<_> = functions.iter().map(|f| f.address).collect();
    let mut shared = Vec::new();
    for function in &functions {
        match &function.group {
            None => shared.push(format!("{} is in no group", function.address)),
            Some(group) => {
                let others = group.others(&ours).filter(|other| other.driver.is_some());
                shared.extend(others.map(|other| format!("{} is with {}", function.address, other.address)));
            }
        }
    }
    if shared.is_empty() {
        return Finding::Ok("no other device is in them".to_owned());
    }
    let fix = "switch on ACS in the firmware's setup, or bind the other devices to vfio-pci, too";
    Finding::warning(Fault::Firmware, listed(shared.into_iter()), fix)
}

fn modes(host: &Host<'_>) -> Finding {
    let functions = functions(host);
    let (mut seen, mut unseen) = (Vec::<(Mode, usize)>::new(), Vec::new());
    for function in &functions {
        match host.probe.gpu_mode(function) {
            Ok(mode) => match seen.iter_mut().find(|(m, _)| *m == mode) {
                Some((_, count)) => *count += 1,
                None => seen.push((mode, 1)),
            },
            Err(why) => unseen.push(format!("{}: {why}", function.address)),
        }
    }
    let mut evidence = String::new();
    for (mode, count) in &seen {
        let separator = if evidence.is_empty() { "" } else { ", " };
        let _ = write!(evidence, "{separator}{count} {mode}");
    }
    if seen.len() > 1 {
        let fix = "set all to one mode; a pod's start verifies the mode that it asks for";
        return Finding::warning(Fault::Setup, format!("modes differ: {evidence}"), fix);
    }
    if unseen.is_empty() {
        return Finding::Ok(evidence);
    }
    let fix = "nothing, if they are in use or asleep: a pod's start reads the mode itself";
    Finding::unknown(Fault::Setup, format!("not read in passing: {}", listed(unseen.into_iter())), fix)
}

/// A VM with a GPU has all its memory locked. QEMU is root's and may lock what it likes, unless containerd's unit
/// drops that capability.
fn memlock(host: &Host<'_>) -> Finding {
    let (whose, limits) = match containerd_limits(host) {
        Some(limits) => ("containerd's", Some(limits)),
        None => ("this process's", host.root.text("/proc/self/limits").ok().flatten()),
    };
    let limits = limits.unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    match line.and_then(|line| line.split_ascii_whitespace().next()) {
        Some("unlimited") => Finding::Ok(format!("{whose} limit is unlimited")),
        Some(soft) => Finding::warning(
            Fault::Setup,
            format!("{whose} limit is {soft} bytes, and a VM with a GPU locks all its memory"),
            "set LimitMEMLOCK=infinity in containerd's unit",
        ),
        None => Finding::unknown(
            Fault::Setup,
            "the limit cannot be read",
            "set LimitMEMLOCK=infinity in containerd's unit",
        ),
    }
}

fn containerd_limits(host: &Host<'_>) -> Option<String> {
    let mut processes =
        host.root.names("/proc").into_iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit()));
    let pid = processes.find(|pid| {
        let comm = host.root.text(&format!("/proc/{pid}/comm")).ok().flatten();
        comm.is_some_and(|comm| comm.trim() == "containerd")
    })?;
    host.root.text(&format!("/proc/{pid}/limits")).ok().flatten()
}

/// The first few of a list.
fn listed(items: impl ExactSizeIterator<Item = String>) -> String {
    let (count, shown) = (items.len(), 3);
    let mut text = items.take(shown).collect::<Vec<_>>().join("; ");
    if count > shown {
        let _ = write!(text, "; and {} more", count - shown);
    }
    text
}
