//! The node as a whole: its configuration, control groups, memory.

use crate::check::{Fault, Finding, Step};
use crate::host::Host;

pub(super) const CONFIG: Step = Step { name: "config", title: "node configuration", run: config, then: &[] };

pub(super) const CGROUP: Step = Step { name: "cgroup", title: "control groups", run: cgroup, then: &[] };

pub(super) const MEMORY: Step =
    Step { name: "hugepages", title: "reserved huge pages", run: hugepages, then: &[] };

fn config(host: &Host<'_>) -> Finding {
    match host.config_error() {
        None => Finding::Ok(format!(
            "tee = {:?}, accel = {:?}",
            host.config().tee.name(),
            host.config().accel.name()
        )),
        Some(error) => Finding::failed(
            Fault::Setup,
            error,
            "correct the file; `coffer config` lists the keys, and what follows assumes the defaults",
        ),
    }
}

fn cgroup(host: &Host<'_>) -> Finding {
    if host.root.exists("/sys/fs/cgroup/cgroup.controllers") {
        return Finding::Ok("version 2".to_owned());
    }
    let fix = "boot with systemd.unified_cgroup_hierarchy=1";
    match host.root.names("/sys/fs/cgroup") {
        names if names.is_empty() => {
            Finding::failed(Fault::Setup, "/sys/fs/cgroup is not mounted", "mount cgroup2 at /sys/fs/cgroup")
        }
        _ => Finding::warning(Fault::Kernel, "version 1, for which Kubernetes gets no new features", fix),
    }
}

/// Coffer's VMs have ordinary memory; a reserved huge page is lost to them.
fn hugepages(host: &Host<'_>) -> Finding {
    let text = host.root.text("/proc/meminfo").ok().flatten().unwrap_or_default();
    let value = |key: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    let (Some(total), Some(kib)) = (value("HugePages_Total"), value("Hugetlb")) else {
        return Finding::NotApplicable("the kernel has none".to_owned());
    };
    if total == 0 && kib == 0 {
        return Finding::Ok("none".to_owned());
    }
    Finding::warning(
        Fault::Setup,
        format!("{} MiB, which no pod VM can use", kib >> 10),
        "set vm.nr_hugepages=0 unless other programs of this node need them",
    )
}
