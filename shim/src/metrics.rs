//! A container's resource usage, from the agent's form to the one that containerd shows.

use std::collections::BTreeMap;

use agent_client::proto::agent as guest;
use containerd_shim::protos::cgroups_v2::metrics as v2;
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};

use crate::api::{Error, Result};

/// What the agent measured.
pub type ContainerStats = guest::StatsContainerResponse;

/// Name under which containerd knows the message.
const TYPE: &str = "io.containerd.cgroups.v2.Metrics";
/// Nanoseconds, the agent's unit, in a microsecond, cgroup v2's.
const USEC: u64 = 1000;
/// How many devices, huge page sizes and links are told, of each kind: a guest may name as many as fit into its answer.
const MAX_ENTRIES: usize = 256;

/// The `Any` for Stats.
///
/// # Errors
/// When the message cannot be encoded.
pub fn encode(stats: &ContainerStats) -> Result<Any> {
    let value =
        metrics(stats).write_to_bytes().map_err(|error| Error::failed("encode the metrics", error))?;
    Ok(Any { type_url: TYPE.to_owned(), value, ..Any::default() })
}

fn metrics(stats: &ContainerStats) -> v2::Metrics {
    let cgroup = stats.cgroup_stats.get_or_default();
    v2::Metrics {
        pids: MessageField::some(pids(cgroup)),
        cpu: MessageField::some(cpu(cgroup)),
        memory: MessageField::some(memory(cgroup)),
        io: MessageField::some(io(cgroup)),
        hugetlb: cgroup
            .hugetlb_stats
            .iter()
            .take(MAX_ENTRIES)
            .map(|(size, usage)| hugetlb(size, usage))
            .collect(),
        memory_events: MessageField::some(memory_events(cgroup)),
        network: stats.network_stats.iter().take(MAX_ENTRIES).map(network).collect(),
        ..v2::Metrics::default()
    }
}

fn pids(from: &guest::CgroupStats) -> v2::PidsStat {
    let pids = from.pids_stats.get_or_default();
    v2::PidsStat { current: pids.current, limit: pids.limit, ..v2::PidsStat::default() }
}

fn cpu(from: &guest::CgroupStats) -> v2::CPUStat {
    let cpu = from.cpu_stats.get_or_default();
    let (usage, throttling) = (cpu.cpu_usage.get_or_default(), cpu.throttling_data.get_or_default());
    v2::CPUStat {
        usage_usec: usage.total_usage / USEC,
        user_usec: usage.usage_in_usermode / USEC,
        system_usec: usage.usage_in_kernelmode / USEC,
        nr_periods: throttling.periods,
        nr_throttled: throttling.throttled_periods,
        throttled_usec: throttling.throttled_time / USEC,
        ..v2::CPUStat::default()
    }
}

fn memory(from: &guest::CgroupStats) -> v2::MemoryStat {
    let memory = from.memory_stats.get_or_default();
    let (usage, swap) = (memory.usage.get_or_default(), memory.swap_usage.get_or_default());
    // The keys of memory.stat.
    let stat = |key: &str| memory.stats.get(key).copied().unwrap_or(0);
    v2::MemoryStat {
        usage: usage.usage,
        usage_limit: usage.limit,
        max_usage: usage.max_usage,
        swap_usage: swap.usage,
        swap_limit: swap.limit,
        swap_max_usage: swap.max_usage,
        anon: stat("anon"),
        file: stat("file"),
        kernel_stack: stat("kernel_stack"),
        slab: stat("slab"),
        sock: stat("sock"),
        shmem: stat("shmem"),
        file_mapped: stat("file_mapped"),
        file_dirty: stat("file_dirty"),
        file_writeback: stat("file_writeback"),
        anon_thp: stat("anon_thp"),
        inactive_anon: stat("inactive_anon"),
        active_anon: stat("active_anon"),
        inactive_file: stat("inactive_file"),
        active_file: stat("active_file"),
        unevictable: stat("unevictable"),
        slab_reclaimable: stat("slab_reclaimable"),
        slab_unreclaimable: stat("slab_unreclaimable"),
        pgfault: stat("pgfault"),
        pgmajfault: stat("pgmajfault"),
        ..v2::MemoryStat::default()
    }
}

fn memory_events(from: &guest::CgroupStats) -> v2::MemoryEvents {
    let failures = from.memory_stats.get_or_default().usage.get_or_default().failcnt;
    v2::MemoryEvents { max: failures, ..v2::MemoryEvents::default() }
}

/// The agent has one line for each device and operation, cgroup v2 one for each device.
fn io(from: &guest::CgroupStats) -> v2::IOStat {
    let blkio = from.blkio_stats.get_or_default();
    let mut devices: BTreeMap<(u64, u64), v2::IOEntry> = BTreeMap::new();
    let mut add = |lines: &[guest::BlkioStatsEntry], field: fn(&mut v2::IOEntry, Operation) -> &mut u64| {
        for line in lines {
            let Some(operation) = Operation::of(&line.op) else { continue };
            let device = (line.major, line.minor);
            if devices.len() == MAX_ENTRIES && !devices.contains_key(&device) {
                continue;
            }
            let entry = devices.entry(device).or_default();
            (entry.major, entry.minor) = device;
            let sum = field(entry, operation);
            *sum = sum.saturating_add(line.value);
        }
    };
    add(&blkio.io_service_bytes_recursive, |entry, operation| match operation {
        Operation::Read => &mut entry.rbytes,
        Operation::Write => &mut entry.wbytes,
    });
    add(&blkio.io_serviced_recursive, |entry, operation| match operation {
        Operation::Read => &mut entry.rios,
        Operation::Write => &mut entry.wios,
    });
    v2::IOStat { usage: devices.into_values().collect(), ..v2::IOStat::default() }
}

enum Operation {
    Read,
    Write,
}

impl Operation {
    /// By the names of cgroup v1 (`Read`) and v2 (`rbytes`, `rios`).
    fn of(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "read" | "rbytes" | "rios" => Some(Self::Read),
            "write" | "wbytes" | "wios" => Some(Self::Write),
            _ => None,
        }
    }
}

fn hugetlb(size: &str, from: &guest::HugetlbStats) -> v2::HugeTlbStat {
    v2::HugeTlbStat {
        pagesize: agent_client::sanitize(size),
        current: from.usage,
        max: from.max_usage,
        failcnt: from.failcnt,
        ..v2::HugeTlbStat::default()
    }
}

fn network(from: &guest::NetworkStats) -> v2::NetworkStat {
    v2::NetworkStat {
        name: agent_client::sanitize(&from.name),
        rx_bytes: from.rx_bytes,
        rx_packets: from.rx_packets,
        rx_errors: from.rx_errors,
        rx_dropped: from.rx_dropped,
        tx_bytes: from.tx_bytes,
        tx_packets: from.tx_packets,
        tx_errors: from.tx_errors,
        tx_dropped: from.tx_dropped,
        ..v2::NetworkStat::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(op: &str, value: u64) -> guest::BlkioStatsEntry {
        guest::BlkioStatsEntry { major: 8, minor: 1, op: op.into(), value, ..Default::default() }
    }

    #[test]
    fn the_parts_that_cri_reads_are_filled() {
        let mut stats = ContainerStats::new();
        let cgroup = stats.cgroup_stats.mut_or_insert_default();
        cgroup.cpu_stats.mut_or_insert_default().cpu_usage.mut_or_insert_default().total_usage = 5_000_999;
        let memory = cgroup.memory_stats.mut_or_insert_default();
        memory.usage.mut_or_insert_default().usage = 4096;
        memory.stats.insert("inactive_file".into(), 96);
        memory.stats.insert("anon".into(), 7);
        cgroup.pids_stats.mut_or_insert_default().current = 3;
        let any = encode(&stats).unwrap();
        let read = v2::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!((any.type_url.as_str(), read.cpu.usage_usec, read.pids.current), (TYPE, 5000, 3));
        assert_eq!((read.memory.usage, read.memory.inactive_file, read.memory.anon), (4096, 96, 7));
    }

    #[test]
    fn operations_of_a_device_become_one_line() {
        let mut stats = ContainerStats::new();
        let blkio = stats.cgroup_stats.mut_or_insert_default().blkio_stats.mut_or_insert_default();
        blkio.io_service_bytes_recursive = vec![entry("Read", 10), entry("wbytes", 20), entry("Sync", 99)];
        blkio.io_serviced_recursive = vec![entry("rios", 1), entry("Write", 2)];
        let usage = metrics(&stats).io.usage.clone();
        assert_eq!(usage.len(), 1);
        assert_eq!((usage[0].major, usage[0].rbytes, usage[0].wbytes), (8, 10, 20));
        assert_eq!((usage[0].rios, usage[0].wios), (1, 2));
    }

    #[test]
    fn what_a_hostile_guest_measures_stays_small() {
        let mut stats = ContainerStats::new();
        for number in 0..10_000 {
            let name = format!("eth{number}\n{}", "x".repeat(1000));
            stats.network_stats.push(guest::NetworkStats { name, rx_bytes: u64::MAX, ..Default::default() });
        }
        let cgroup = stats.cgroup_stats.mut_or_insert_default();
        for number in 0..10_000 {
            cgroup.hugetlb_stats.insert(format!("{number}\u{1b}"), guest::HugetlbStats::default());
        }
        let blkio = cgroup.blkio_stats.mut_or_insert_default();
        for minor in 0..10_000 {
            let line = guest::BlkioStatsEntry { minor, ..entry("Read", u64::MAX) };
            blkio.io_service_bytes_recursive.extend([line.clone(), line]);
        }
        let any = encode(&stats).unwrap();
        assert!(any.value.len() < 1 << 20, "{} bytes", any.value.len());
        let read = v2::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!([read.network.len(), read.hugetlb.len(), read.io.usage.len()], [MAX_ENTRIES; 3]);
        assert!(read.io.usage.iter().all(|device| device.rbytes == u64::MAX));
        assert!(read.network.iter().all(|link| !link.name.contains(char::is_control)));
    }

    #[test]
    fn nothing_measured_is_zero_and_not_absent() {
        let read = metrics(&ContainerStats::new());
        assert!(read.cpu.is_some() && read.memory.is_some() && read.pids.is_some());
    }
}
