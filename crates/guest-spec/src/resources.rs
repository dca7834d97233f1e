//! Resource limits, of a new container or of an update.

use crate::error::SpecError;
use agent_client::proto::oci;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxResources};

/// How much a VM has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmSize {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Bytes of memory, of which the guest's kernel takes some.
    pub memory: u64,
}

/// What cgroups take where no period is named, in microseconds.
const USUAL_PERIOD: u64 = 100_000;

/// How many processes a kernel has at most (`PID_MAX_LIMIT`, linux/threads.h): its cgroups refuse a larger limit.
const MOST_PIDS: i64 = 4 << 20;

/// Whether limits are within a VM. CRI's status shows a limit as if it were given.
///
/// # Errors
/// [`SpecError::BeyondVm`].
pub fn check_size(container: &str, limits: &oci::LinuxResources, vm: VmSize) -> Result<(), SpecError> {
    let beyond = |wanted: String, has: String| {
        Err(SpecError::BeyondVm { container: container.to_string(), wanted, has })
    };
    let memory = u64::try_from(limits.Memory.Limit).unwrap_or(0);
    if memory > vm.memory {
        return beyond(format!("{memory} bytes of memory"), format!("{} bytes", vm.memory));
    }
    let quota = u64::try_from(limits.CPU.Quota).unwrap_or(0);
    let period = if limits.CPU.Period == 0 { USUAL_PERIOD } else { limits.CPU.Period };
    if quota > period.saturating_mul(vm.vcpus.into()) {
        let millis = quota.saturating_mul(1000) / period;
        return beyond(format!("{millis}m CPUs"), format!("{}", vm.vcpus));
    }
    if limits.Pids.Limit > MOST_PIDS {
        return beyond(format!("{} processes", limits.Pids.Limit), format!("{MOST_PIDS} at most"));
    }
    Ok(())
}

/// Translates limits; what counts in the host's numbering is left out and noted.
pub fn resources(from: &LinuxResources, notes: &mut Vec<String>) -> oci::LinuxResources {
    let mut note = |present: bool, what: &str, why: &str| {
        if present {
            notes.push(format!("resources.{what} left out: {why}"));
        }
    };
    note(
        from.hugepage_limits().iter().flatten().any(|limit| limit.limit() > 0),
        "hugepageLimits",
        "the guest has none",
    );
    note(from.unified().as_ref().is_some_and(|u| !u.is_empty()), "unified", "not in the agent's contract");
    note(from.rdma().as_ref().is_some_and(|r| !r.is_empty()), "rdma", "not in the agent's contract");
    note(from.network().is_some(), "network", "classes and priorities are the host's");
    if let Some(cpu) = from.cpu() {
        let set = |value: &Option<String>| value.as_ref().is_some_and(|v| !v.is_empty());
        note(set(cpu.cpus()), "cpu.cpus", "the host's numbering");
        note(set(cpu.mems()), "cpu.mems", "the host's numbering");
        note(cpu.idle().is_some_and(|v| v != 0), "cpu.idle", "not in the agent's contract");
        note(cpu.burst().is_some_and(|v| v != 0), "cpu.burst", "not in the agent's contract");
    }
    if let Some(io) = from.block_io() {
        note(has_devices(io), "blockIO devices", "the host's device numbers");
    }

    oci::LinuxResources {
        Devices: from.devices().iter().flatten().map(device).collect(),
        Memory: from.memory().as_ref().map(memory).into(),
        CPU: from.cpu().as_ref().map(cpu).into(),
        Pids: from
            .pids()
            .as_ref()
            .map(|pids| oci::LinuxPids { Limit: pids.limit(), ..Default::default() })
            .into(),
        BlockIO: from.block_io().as_ref().map(block_io).into(),
        ..Default::default()
    }
}

fn has_devices(io: &LinuxBlockIo) -> bool {
    let throttles = [
        io.throttle_read_bps_device(),
        io.throttle_write_bps_device(),
        io.throttle_read_iops_device(),
        io.throttle_write_iops_device(),
    ];
    io.weight_device().as_ref().is_some_and(|list| !list.is_empty())
        || throttles.into_iter().flatten().any(|list| !list.is_empty())
}

fn device(from: &LinuxDeviceCgroup) -> oci::LinuxDeviceCgroup {
    oci::LinuxDeviceCgroup {
        Allow: from.allow(),
        Type: from.typ().map_or("a", |typ| device_type(typ)).to_string(),
        // Absent is "any", and so is what the agent makes of zero and less.
        Major: from.major().unwrap_or_default(),
        Minor: from.minor().unwrap_or_default(),
        Access: from.access().clone().unwrap_or_default(),
        ..Default::default()
    }
}

/// The letter of a device type.
pub(crate) fn device_type(typ: oci_spec::runtime::LinuxDeviceType) -> &'static str {
    use oci_spec::runtime::LinuxDeviceType as Type;
    match typ {
        Type::A => "a",
        Type::B => "b",
        Type::C => "c",
        Type::U => "u",
        Type::P => "p",
    }
}

fn memory(from: &LinuxMemory) -> oci::LinuxMemory {
    oci::LinuxMemory {
        Limit: from.limit().unwrap_or_default(),
        Reservation: from.reservation().unwrap_or_default(),
        Swap: from.swap().unwrap_or_default(),
        Kernel: from.kernel().unwrap_or_default(),
        KernelTCP: from.kernel_tcp().unwrap_or_default(),
        Swappiness: from.swappiness().unwrap_or_default(),
        DisableOOMKiller: from.disable_oom_killer().unwrap_or_default(),
        ..Default::default()
    }
}

fn cpu(from: &LinuxCpu) -> oci::LinuxCPU {
    oci::LinuxCPU {
        Shares: from.shares().unwrap_or_default(),
        Quota: from.quota().unwrap_or_default(),
        Period: from.period().unwrap_or_default(),
        RealtimeRuntime: from.realtime_runtime().unwrap_or_default(),
        RealtimePeriod: from.realtime_period().unwrap_or_default(),
        ..Default::default()
    }
}

fn block_io(from: &LinuxBlockIo) -> oci::LinuxBlockIO {
    oci::LinuxBlockIO {
        Weight: from.weight().map_or(0, u32::from),
        LeafWeight: from.leaf_weight().map_or(0, u32::from),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_within_the_vm() {
        let vm = VmSize { vcpus: 2, memory: 1 << 30 };
        let check = |json: &str| check_size("c1", &translated(json).0, vm).map_err(|error| error.to_string());
        for fine in [
            "{}",
            r#"{"memory": {"limit": -1}, "cpu": {"quota": -1, "period": 100000}}"#,
            r#"{"memory": {"limit": 1073741824}, "cpu": {"quota": 200000}}"#,
        ] {
            assert_eq!(check(fine), Ok(()), "{fine}");
        }
        let memory = check(r#"{"memory": {"limit": 1073741825}}"#).unwrap_err();
        assert!(memory.contains("1073741825 bytes") && memory.contains("1073741824 bytes"), "{memory}");
        assert_eq!(check(r#"{"pids": {"limit": 4194304}}"#), Ok(()));
        let pids = check(r#"{"pids": {"limit": 4194305}}"#).unwrap_err();
        assert!(pids.contains("4194305 processes") && pids.contains("4194304 at most"), "{pids}");
        let cpu = check(r#"{"cpu": {"quota": 25000, "period": 10000}}"#).unwrap_err();
        assert!(cpu.contains("2500m CPUs") && cpu.contains("which is 2:"), "{cpu}");
    }

    fn translated(json: &str) -> (oci::LinuxResources, Vec<String>) {
        let mut notes = Vec::new();
        let from: LinuxResources = serde_json::from_str(json).unwrap();
        (resources(&from, &mut notes), notes)
    }

    #[test]
    fn limits_are_kept() {
        let (limits, notes) = translated(
            r#"{"memory": {"limit": 1073741824, "reservation": 1, "swap": -1},
                "cpu": {"shares": 512, "quota": 150000, "period": 100000}, "pids": {"limit": 100},
                "blockIO": {"weight": 500},
                "devices": [{"allow": false, "access": "rwm"},
                            {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}]}"#,
        );
        assert_eq!((limits.Memory.Limit, limits.Memory.Swap), (1 << 30, -1));
        assert_eq!((limits.CPU.Shares, limits.CPU.Quota, limits.CPU.Period), (512, 150_000, 100_000));
        assert_eq!(limits.Pids.Limit, 100);
        assert_eq!(limits.BlockIO.Weight, 500);
        assert_eq!((limits.Devices[0].Type.as_str(), limits.Devices[0].Allow), ("a", false));
        assert_eq!((limits.Devices[1].Type.as_str(), limits.Devices[1].Minor), ("c", 3));
        assert_eq!(notes, Vec::<String>::new());
    }

    #[test]
    fn what_counts_in_the_hosts_numbering_is_left_out() {
        let (limits, notes) = translated(
            r#"{"cpu": {"cpus": "0-3", "mems": "1"}, "hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}],
                "unified": {"memory.high": "1"}, "network": {"classID": 1},
                "blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}]}}"#,
        );
        assert_eq!(notes.len(), 6, "{notes:?}");
        assert_eq!((limits.CPU.Cpus.as_str(), limits.CPU.Mems.as_str()), ("", ""));
        assert!(limits.HugepageLimits.is_empty() && limits.BlockIO.ThrottleReadBpsDevice.is_empty());
        assert!(limits.Network.is_none());
    }
}
