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

/// Why some are left out: the agent would fail to write a file that is not there.
const NOT_IN_V2: &str = "cgroups of version 2 have none";

/// What a kernel has taken as `cpu.shares` (`MIN_SHARES`, `MAX_SHARES`, kernel/sched/sched.h). The agent makes a weight of it,
/// which is none outside of these.
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;

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

/// Makes an update's limits out of those that say "none" (-1): as much as the VM has. The agent takes only numbers above zero
/// for limits, and would leave the old ones.
pub fn lift(limits: &mut oci::LinuxResources, vm: VmSize) {
    if let Some(cpu) = limits.CPU.as_mut().filter(|cpu| cpu.Quota < 0) {
        if cpu.Period == 0 {
            cpu.Period = USUAL_PERIOD;
        }
        let all = cpu.Period.saturating_mul(vm.vcpus.into());
        cpu.Quota = i64::try_from(all).unwrap_or(i64::MAX);
    }
    if let Some(memory) = limits.Memory.as_mut().filter(|memory| memory.Limit < 0) {
        memory.Limit = i64::try_from(vm.memory).unwrap_or(i64::MAX);
    }
}

/// Translates limits; what counts in the host's numbering, and what the guest's cgroups (version 2) have not, is left out
/// and noted.
pub fn resources(from: &LinuxResources, notes: &mut Vec<String>) -> oci::LinuxResources {
    let shares = from.cpu().as_ref().and_then(LinuxCpu::shares).unwrap_or_default();
    if shares != nearest(shares) {
        notes.push(format!(
            "resources.cpu.shares: {} instead of {shares}, since a weight is made of 2 to 262144",
            nearest(shares)
        ));
    }
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
        note(cpu.realtime_runtime().is_some_and(|v| v != 0), "cpu.realtimeRuntime", NOT_IN_V2);
        note(cpu.realtime_period().is_some_and(|v| v != 0), "cpu.realtimePeriod", NOT_IN_V2);
    }
    if let Some(memory) = from.memory() {
        note(memory.disable_oom_killer() == Some(true), "memory.disableOOMKiller", NOT_IN_V2);
        note(memory.swappiness().is_some_and(|v| v != 0), "memory.swappiness", NOT_IN_V2);
        note(memory.kernel().is_some_and(|v| v > 0), "memory.kernel", NOT_IN_V2);
        note(memory.kernel_tcp().is_some_and(|v| v > 0), "memory.kernelTCP", NOT_IN_V2);
    }
    if let Some(io) = from.block_io() {
        note(has_devices(io), "blockIO devices", "the host's device numbers");
        let set = |weight: Option<u16>| weight.is_some_and(|weight| weight != 0);
        note(
            set(io.weight()) || set(io.leaf_weight()),
            "blockIO weight",
            "the guest's disks are weighed by nobody",
        );
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
        ..Default::default()
    }
}

/// The nearest shares of which the agent makes a weight; zero is none to it.
fn nearest(shares: u64) -> u64 {
    if shares == 0 { 0 } else { shares.clamp(*SHARES.start(), *SHARES.end()) }
}

fn cpu(from: &LinuxCpu) -> oci::LinuxCPU {
    oci::LinuxCPU {
        Shares: from.shares().map_or(0, nearest),
        Quota: from.quota().unwrap_or_default(),
        Period: from.period().unwrap_or_default(),
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
                "devices": [{"allow": false, "access": "rwm"},
                            {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}]}"#,
        );
        assert_eq!((limits.Memory.Limit, limits.Memory.Swap), (1 << 30, -1));
        assert_eq!((limits.CPU.Shares, limits.CPU.Quota, limits.CPU.Period), (512, 150_000, 100_000));
        assert_eq!(limits.Pids.Limit, 100);
        assert_eq!((limits.Devices[0].Type.as_str(), limits.Devices[0].Allow), ("a", false));
        assert_eq!((limits.Devices[1].Type.as_str(), limits.Devices[1].Minor), ("c", 3));
        assert_eq!(notes, Vec::<String>::new());
    }

    #[test]
    fn shares_are_what_a_kernel_takes() {
        for (given, taken, notes) in
            [(0, 0, 0), (1, 2, 1), (2, 2, 0), (1024, 1024, 0), (262_144, 262_144, 0), (u64::MAX, 262_144, 1)]
        {
            let (limits, said) = translated(&format!(r#"{{"cpu": {{"shares": {given}}}}}"#));
            assert_eq!((limits.CPU.Shares, said.len()), (taken, notes), "{given}: {said:?}");
        }
    }

    #[test]
    fn what_the_guests_cgroups_have_not_is_left_out() {
        let (limits, notes) = translated(
            r#"{"cpu": {"realtimeRuntime": 950000, "realtimePeriod": 1000000}, "blockIO": {"weight": 500},
                "memory": {"disableOOMKiller": true, "swappiness": 60, "kernel": 1048576, "kernelTCP": 1048576}}"#,
        );
        let nothing = oci::LinuxResources {
            CPU: Some(oci::LinuxCPU::default()).into(),
            Memory: Some(oci::LinuxMemory::default()).into(),
            ..Default::default()
        };
        assert_eq!((limits, notes.len()), (nothing, 7), "{notes:?}");
        // What engines always write.
        let usual =
            r#"{"cpu": {"realtimeRuntime": 0}, "memory": {"disableOOMKiller": false, "swappiness": 0}}"#;
        assert_eq!(translated(usual).1, Vec::<String>::new());
    }

    #[test]
    fn no_limit_is_all_that_the_vm_has() {
        let vm = VmSize { vcpus: 3, memory: 1 << 30 };
        let lifted = |json: &str| {
            let mut limits = translated(json).0;
            lift(&mut limits, vm);
            (limits.CPU.Quota, limits.CPU.Period, limits.Memory.Limit)
        };
        assert_eq!(lifted(r#"{"cpu": {"quota": -1}, "memory": {"limit": -1}}"#), (300_000, 100_000, 1 << 30));
        assert_eq!(lifted(r#"{"cpu": {"quota": -1, "period": 10000}}"#), (30_000, 10_000, 0));
        let stays = r#"{"cpu": {"quota": 5000, "period": 10000}, "memory": {"limit": 4096}}"#;
        assert_eq!(lifted(stays), (5000, 10_000, 4096));
        assert_eq!(lifted(r#"{"cpu": {"shares": 2}}"#), (0, 0, 0));
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
