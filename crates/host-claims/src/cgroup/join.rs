//! The sandbox's own cgroup: made beside the container's, holds QEMU and the shim, removed with the sandbox.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::{CgroupPath, Error, Hierarchies, Hierarchy};

/// How long processes that were killed may take to leave.
const PATIENCE: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(10);

/// Whether anybody counts on the cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limits {
    /// The pod has a limit: without a cgroup the VM must not start.
    Asked,
    /// None: a host without cgroupfs, or with a read-only one, will do (a laptop, a test in a container).
    None,
}

/// What is needed to remove the cgroup without the shim that made it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupRecord {
    /// The sandbox's directory in every hierarchy, then ancestors that did not exist before, innermost first.
    pub directories: Vec<PathBuf>,
}

impl CgroupRecord {
    /// Removes the cgroup; repeats do no harm. Processes in it must have been ended before, stragglers get
    /// a few seconds to leave.
    ///
    /// # Errors
    /// [`Error::Busy`] names processes that stay, [`Error::File`] anything else.
    pub async fn release(&self) -> Result<(), Error> {
        for path in &self.directories {
            let ours = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("coffer_"));
            if ours {
                remove_patiently(path).await?;
            } else {
                // Made on the way, and by now perhaps used by others, who keep it busy.
                let _ = std::fs::remove_dir(path);
            }
        }
        Ok(())
    }
}

/// A cgroup that could be made.
#[derive(Debug)]
pub struct CgroupPlan {
    hierarchies: Hierarchies,
    root: PathBuf,
    path: CgroupPath,
    limits: Limits,
    record: CgroupRecord,
}

impl CgroupPlan {
    /// Plans the cgroup of `sandbox` beside the container's `path`, in every hierarchy below `root`
    /// (`/sys/fs/cgroup`).
    #[must_use]
    pub fn new(root: &Path, path: &CgroupPath, sandbox: &str, limits: Limits) -> Self {
        let hierarchies = Hierarchies::find(root);
        let path = path.sandbox(sandbox);
        let mut directories = Vec::new();
        for hierarchy in hierarchies.all() {
            let leaf = hierarchy.root.join(path.as_path());
            let missing = leaf.ancestors().skip(1).take_while(|dir| !dir.exists()).map(Path::to_owned);
            let missing: Vec<PathBuf> = missing.collect();
            directories.push(leaf);
            directories.extend(missing);
        }
        Self { hierarchies, root: root.to_owned(), path, limits, record: CgroupRecord { directories } }
    }

    /// What to write down before [`Self::claim`].
    #[must_use]
    pub fn record(&self) -> CgroupRecord {
        self.record.clone()
    }

    /// Makes the cgroup. Where nobody asked for limits a missing or read-only cgroupfs is tolerated: the
    /// result then holds no processes, see [`SandboxCgroup::is_real`].
    ///
    /// # Errors
    /// [`Error::Absent`], [`Error::File`]; what was made until then is removed.
    pub fn claim(self) -> Result<SandboxCgroup, Error> {
        let mut claimed = SandboxCgroup { hierarchies: Vec::new(), record: self.record, homes: Vec::new() };
        if self.hierarchies == Hierarchies::Absent {
            return match self.limits {
                Limits::None => Ok(claimed),
                Limits::Asked => Err(Error::Absent { root: self.root }),
            };
        }
        for hierarchy in self.hierarchies.all() {
            let leaf = hierarchy.root.join(self.path.as_path());
            match make(hierarchy, self.path.as_path()) {
                Ok(()) => claimed.hierarchies.push((hierarchy.clone(), leaf)),
                Err(e) if self.limits == Limits::None && unusable(&e) => {}
                Err(e) => return Err(Error::file("make cgroup", leaf)(e)),
            }
        }
        Ok(claimed)
    }
}

fn unusable(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

fn make(hierarchy: &Hierarchy, path: &Path) -> io::Result<()> {
    let mut dir = hierarchy.root.clone();
    for part in path.components() {
        let parent = dir.clone();
        dir.push(part);
        match std::fs::create_dir(&dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        // A new v1 cpuset has no CPUs and refuses processes until it has some.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if hierarchy.has("cpuset") && std::fs::read_to_string(dir.join(file))?.trim().is_empty() {
                std::fs::write(dir.join(file), std::fs::read(parent.join(file))?)?;
            }
        }
    }
    Ok(())
}

/// The sandbox's cgroup, in all hierarchies.
#[derive(Debug)]
#[must_use = "dropping it removes the cgroup"]
pub struct SandboxCgroup {
    hierarchies: Vec<(Hierarchy, PathBuf)>,
    record: CgroupRecord,
    /// Where this very process was before it joined: it must leave again before the cgroup can go.
    homes: Vec<PathBuf>,
}

impl SandboxCgroup {
    /// Its directories, one per hierarchy.
    pub fn directories(&self) -> impl Iterator<Item = &Path> {
        self.hierarchies.iter().map(|(_, path)| path.as_path())
    }

    /// Puts a process, with all its threads, into the cgroup.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn join(&mut self, pid: i32) -> Result<(), Error> {
        let own = nix::unistd::getpid().as_raw() == pid;
        let homes = if own { homes(&self.hierarchies)? } else { Vec::new() };
        for (_, path) in &self.hierarchies {
            let procs = path.join("cgroup.procs");
            std::fs::write(&procs, pid.to_string()).map_err(Error::file("put a process into", procs))?;
        }
        if own && self.homes.is_empty() {
            self.homes = homes;
        }
        Ok(())
    }

    /// Takes this process out again and removes the cgroup.
    ///
    /// # Errors
    /// As [`CgroupRecord::release`].
    pub async fn release(mut self) -> Result<(), Error> {
        self.leave();
        let record = std::mem::take(&mut self.record);
        record.release().await
    }

    /// A home that is gone by now leaves us in place; the removal will say so.
    fn leave(&mut self) {
        for procs in self.homes.drain(..) {
            let _ = std::fs::write(procs, nix::unistd::getpid().to_string());
        }
    }
}

impl Drop for SandboxCgroup {
    fn drop(&mut self) {
        self.leave();
        for path in &self.record.directories {
            let _ = std::fs::remove_dir(path);
        }
    }
}

/// The `cgroup.procs` files that this process is listed in, in the order of `hierarchies`.
fn homes(hierarchies: &[(Hierarchy, PathBuf)]) -> Result<Vec<PathBuf>, Error> {
    let own = Path::new("/proc/self/cgroup");
    let text = std::fs::read_to_string(own).map_err(Error::file("read", own))?;
    Ok(hierarchies.iter().filter_map(|(hierarchy, _)| home(&text, hierarchy)).collect())
}

/// A line reads `4:memory:/path`; v2's has no controllers, a named hierarchy's says `name=systemd`.
fn home(own: &str, hierarchy: &Hierarchy) -> Option<PathBuf> {
    own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        let path = fields.next()?;
        let same = match controllers {
            "" => hierarchy.controllers.is_empty(),
            names => names.split(',').any(|name| hierarchy.has(name.trim_start_matches("name="))),
        };
        // A path that leads out of our cgroup namespace cannot be written; the root can.
        let inside = if path.contains("..") { "" } else { path.trim_start_matches('/') };
        same.then(|| hierarchy.root.join(inside).join("cgroup.procs"))
    })
}

async fn remove_patiently(path: &Path) -> Result<(), Error> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match std::fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.raw_os_error() == Some(Errno::EBUSY as i32) => {
                if tokio::time::Instant::now() >= deadline {
                    return Err(Error::Busy { path: path.to_owned(), pids: pids(path) });
                }
            }
            Err(e) => return Err(Error::file("remove cgroup", path)(e)),
        }
        tokio::time::sleep(STEP).await;
    }
}

fn pids(path: &Path) -> Vec<i32> {
    let procs = std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    procs.lines().filter_map(|line| line.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::layout::fixture;
    use super::*;

    fn pod() -> CgroupPath {
        CgroupPath::parse("/kubepods/pod1/ctr").unwrap()
    }

    #[test]
    fn a_record_lists_what_is_missing_and_no_more() {
        let root = fixture::unified();
        std::fs::create_dir(root.path().join("kubepods")).unwrap();
        let plan = CgroupPlan::new(root.path(), &pod(), "s1", Limits::Asked);
        let expected = ["kubepods/pod1/coffer_s1", "kubepods/pod1"].map(|path| root.path().join(path));
        assert_eq!(plan.record().directories, expected);
    }

    #[tokio::test]
    async fn it_is_made_everywhere_and_removed_twice() {
        let root = fixture::hybrid();
        let plan = CgroupPlan::new(root.path(), &pod(), "s1", Limits::Asked);
        let record = plan.record();
        let cgroup = plan.claim().unwrap();
        assert_eq!(cgroup.directories().filter(|dir| dir.is_dir()).count(), 4);
        cgroup.release().await.unwrap();
        assert!(!root.path().join("memory/kubepods").exists());
        record.release().await.unwrap();
    }

    #[test]
    fn dropping_it_removes_it() {
        let root = fixture::unified();
        drop(CgroupPlan::new(root.path(), &pod(), "s1", Limits::None).claim().unwrap());
        assert!(!root.path().join("kubepods").exists());
    }

    #[test]
    fn a_host_without_cgroups_is_refused_only_when_limits_were_asked_for() {
        let root = tempfile::tempdir().unwrap();
        let plan = |limits| CgroupPlan::new(root.path(), &pod(), "s1", limits);
        assert!(matches!(plan(Limits::Asked).claim(), Err(Error::Absent { .. })));
        assert_eq!(plan(Limits::None).claim().unwrap().directories().count(), 0);
    }

    #[test]
    fn a_new_cpuset_takes_over_its_parents_cpus() {
        let root = tempfile::tempdir().unwrap();
        let files = [
            ("cpuset/cgroup.procs", ""),
            ("cpuset/cpuset.cpus", "0-1\n"),
            ("cpuset/cpuset.mems", "0\n"),
            ("cpuset/coffer_s1/cpuset.cpus", "\n"),
            ("cpuset/coffer_s1/cpuset.mems", "1\n"),
        ];
        fixture::write(root.path(), &files);
        let path = CgroupPath::parse("/ctr").unwrap();
        let _cgroup = CgroupPlan::new(root.path(), &path, "s1", Limits::Asked).claim().unwrap();
        let read = |file| std::fs::read_to_string(root.path().join("cpuset/coffer_s1").join(file)).unwrap();
        assert_eq!(read("cpuset.cpus"), "0-1\n");
        assert_eq!(read("cpuset.mems"), "1\n");
    }

    #[test]
    fn home_is_found_per_hierarchy() {
        let own = "9:name=systemd:/a\n4:memory:/b/c\n2:cpu,cpuacct:/../x\n0::/u\n";
        let hierarchy = |root: &str, names: &[&str]| Hierarchy {
            root: root.into(),
            controllers: names.iter().map(|&name| name.to_owned()).collect(),
        };
        let home = |h: Hierarchy| home(own, &h).map(|path| path.to_str().unwrap().to_owned());
        assert_eq!(home(hierarchy("/m", &["memory"])).unwrap(), "/m/b/c/cgroup.procs");
        assert_eq!(home(hierarchy("/s", &["systemd"])).unwrap(), "/s/a/cgroup.procs");
        assert_eq!(home(hierarchy("/c", &["cpu", "cpuacct"])).unwrap(), "/c/cgroup.procs");
        assert_eq!(home(hierarchy("/u", &[])).unwrap(), "/u/u/cgroup.procs");
        assert_eq!(home(hierarchy("/p", &["pids"])), None);
    }
}
