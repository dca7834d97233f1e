//! A container's cgroup: limits, numbers, freezing, killing. Version 2 only.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use agent_client::proto::agent::{
    BlkioStats, BlkioStatsEntry, CgroupStats, CpuStats, CpuUsage, MemoryData, MemoryStats, PidsStats,
    ThrottlingData,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxResources, Spec};

use crate::error::{Error, Result};

const MOUNT: &str = "/sys/fs/cgroup";

/// One cgroup directory.
#[derive(Debug, Clone)]
pub struct Cgroup {
    directory: PathBuf,
}

impl Cgroup {
    /// The container's cgroup; where the specification names none, one named after the container.
    pub fn of(id: &str, spec: &mut Spec) -> Self {
        let fallback = PathBuf::from(format!("/{id}"));
        let path = match spec.linux_mut() {
            Some(linux) => {
                let path = linux.cgroups_path().clone().unwrap_or(fallback);
                linux.set_cgroups_path(Some(path.clone()));
                path
            }
            None => fallback,
        };
        Self { directory: Path::new(MOUNT).join(path.strip_prefix("/").unwrap_or(&path)) }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Freezes or thaws every process.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        self.write("cgroup.freeze", if frozen { "1" } else { "0" })
    }

    /// Kills its processes, and none of those in cgroups below; as kata-agent 4.1.0 (`do_signal_process`, `get_pids`), frozen
    /// so that none makes another meanwhile.
    pub fn kill(&self) {
        let _ = self.freeze(true); // or it is gone
        for pid in self.file("cgroup.procs").lines().filter_map(|line| line.parse().ok()) {
            // 0 is one that this PID namespace does not have.
            if pid > 0 {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let _ = self.freeze(false);
    }

    /// Removes the cgroups below, which the library leaves; kata-agent's does that. They must be empty.
    pub fn remove_below(&self) {
        fn remove(directory: &Path) {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                let below = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    remove(&below);
                    let _ = fs::remove_dir(&below); // the library's own removal says what is left
                }
            }
        }
        remove(&self.directory);
    }

    /// Sets new limits.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        for (file, value) in limits(resources) {
            self.write(file, &value)?;
        }
        Ok(())
    }

    /// Reads the numbers; those of controllers that the kernel lacks stay zero.
    pub fn stats(&self) -> Result<CgroupStats> {
        if !self.directory.exists() {
            return Err(Error::refused("the container's cgroup is gone"));
        }
        let cpu = self.table("cpu.stat");
        let field = |table: &HashMap<String, u64>, name: &str| table.get(name).copied().unwrap_or_default();
        let nanoseconds = |name: &str| field(&cpu, name).saturating_mul(1000);
        let memory = self.table("memory.stat");
        let usage = MemoryData {
            usage: self.number("memory.current"),
            max_usage: self.number("memory.peak"),
            failcnt: field(&self.table("memory.events"), "max"),
            limit: self.limit("memory.max"),
            ..Default::default()
        };
        let swap = MemoryData {
            usage: self.number("memory.swap.current"),
            limit: self.limit("memory.swap.max"),
            ..Default::default()
        };
        Ok(CgroupStats {
            cpu_stats: Some(CpuStats {
                cpu_usage: Some(CpuUsage {
                    total_usage: nanoseconds("usage_usec"),
                    usage_in_usermode: nanoseconds("user_usec"),
                    usage_in_kernelmode: nanoseconds("system_usec"),
                    ..Default::default()
                })
                .into(),
                throttling_data: Some(ThrottlingData {
                    periods: field(&cpu, "nr_periods"),
                    throttled_periods: field(&cpu, "nr_throttled"),
                    throttled_time: nanoseconds("throttled_usec"),
                    ..Default::default()
                })
                .into(),
                ..Default::default()
            })
            .into(),
            memory_stats: Some(MemoryStats {
                cache: field(&memory, "file"),
                usage: Some(usage).into(),
                swap_usage: Some(swap).into(),
                use_hierarchy: true,
                stats: memory,
                ..Default::default()
            })
            .into(),
            pids_stats: Some(PidsStats {
                current: self.number("pids.current"),
                limit: self.file("pids.max").trim().parse().unwrap_or_default(),
                ..Default::default()
            })
            .into(),
            blkio_stats: Some(BlkioStats {
                io_service_bytes_recursive: block_entries(&self.file("io.stat")),
                ..Default::default()
            })
            .into(),
            ..Default::default()
        })
    }

    fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.directory.join(file);
        fs::write(&path, value).map_err(Error::path("write", &path))
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.directory.join(name)).unwrap_or_default()
    }

    fn number(&self, name: &str) -> u64 {
        self.file(name).trim().parse().unwrap_or_default()
    }

    /// `max` is no limit, which the contract shows as the largest number.
    fn limit(&self, name: &str) -> u64 {
        match self.file(name).trim() {
            "max" => u64::MAX,
            number => number.parse().unwrap_or_default(),
        }
    }

    fn table(&self, name: &str) -> HashMap<String, u64> {
        table(&self.file(name))
    }
}

/// Lines of `<name> <number>`.
pub fn table(text: &str) -> HashMap<String, u64> {
    let pair = |line: &str| {
        let (name, number) = line.split_once(' ')?;
        Some((name.to_owned(), number.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

/// Lines of `<major>:<minor> <key>=<number>...` (io.stat).
fn block_entries(text: &str) -> Vec<BlkioStatsEntry> {
    let mut entries = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else { continue };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let op = match key {
                "rbytes" => "read",
                "wbytes" => "write",
                other => other,
            };
            let value = value.parse().unwrap_or_default();
            entries.push(BlkioStatsEntry { major, minor, op: op.to_owned(), value, ..Default::default() });
        }
    }
    entries
}

/// The files to write for new limits.
fn limits(resources: &LinuxResources) -> Vec<(&'static str, String)> {
    let mut files = Vec::new();
    if let Some(memory) = resources.memory() {
        let numbers = [("memory.max", memory.limit()), ("memory.low", memory.reservation())];
        files.extend(numbers.into_iter().filter_map(|(file, number)| Some((file, number?.to_string()))));
    }
    if let Some(cpu) = resources.cpu() {
        if let Some(shares) = cpu.shares() {
            // The scale of cgroup v1 (2..262144) onto that of v2 (1..10000), as runtimes do it.
            let weight = 1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142;
            files.push(("cpu.weight", weight.to_string()));
        }
        if let Some(quota) = cpu.quota() {
            files.push(("cpu.max", format!("{quota} {}", cpu.period().unwrap_or(100_000))));
        }
        if let Some(cpus) = cpu.cpus() {
            files.push(("cpuset.cpus", cpus.clone()));
        }
        if let Some(mems) = cpu.mems() {
            files.push(("cpuset.mems", mems.clone()));
        }
    }
    if let Some(pids) = resources.pids() {
        files.push(("pids.max", pids.limit().to_string()));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cgroup(files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroup) {
        let base = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(base.path().join(name), text).unwrap();
        }
        let cgroup = Cgroup { directory: base.path().to_owned() };
        (base, cgroup)
    }

    #[test]
    fn reads_numbers_in_the_contracts_units() {
        let (_base, cgroup) = cgroup(&[
            ("cpu.stat", "usage_usec 12\nuser_usec 7\nsystem_usec 5\nnr_periods 3\n"),
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("memory.stat", "anon 10\nfile 20\n"),
            ("pids.max", "max\n"),
            ("io.stat", "8:16 rbytes=1 wbytes=2 rios=3\nbroken\n"),
        ]);
        let stats = cgroup.stats().unwrap();
        assert_eq!(stats.cpu_stats.cpu_usage.total_usage, 12_000);
        assert_eq!(stats.memory_stats.usage.usage, 4096);
        assert_eq!(stats.memory_stats.usage.limit, u64::MAX);
        assert_eq!(stats.memory_stats.cache, 20);
        assert_eq!(stats.pids_stats.limit, 0);
        let entries = &stats.blkio_stats.io_service_bytes_recursive;
        let got: Vec<_> = entries.iter().map(|e| (e.major, e.minor, e.op.as_str(), e.value)).collect();
        assert_eq!(got, [(8, 16, "read", 1), (8, 16, "write", 2), (8, 16, "rios", 3)]);
    }

    #[test]
    fn a_cgroup_that_is_gone_has_no_numbers() {
        let (base, cgroup) = cgroup(&[]);
        drop(base);
        assert!(cgroup.stats().is_err());
        cgroup.kill();
    }

    #[test]
    fn limits_become_files() {
        let resources = serde_json::json!({
            "memory": {"limit": 1024}, "cpu": {"shares": 1024, "quota": 5000}, "pids": {"limit": 9}
        });
        let resources: LinuxResources = serde_json::from_value(resources).unwrap();
        let got = limits(&resources);
        let want =
            [("memory.max", "1024"), ("cpu.weight", "39"), ("cpu.max", "5000 100000"), ("pids.max", "9")];
        assert_eq!(got, want.map(|(file, value)| (file, value.to_owned())));
    }

    #[test]
    fn an_unnamed_cgroup_is_the_containers() {
        let mut spec = Spec::default();
        spec.linux_mut().as_mut().unwrap().set_cgroups_path(None);
        assert_eq!(Cgroup::of("abc", &mut spec).directory(), Path::new("/sys/fs/cgroup/abc"));
    }
}
