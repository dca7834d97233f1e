//! One container: its bundle, its processes, its cgroup.

use std::collections::HashMap;
use std::fs;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libcontainer::container::Container as Library;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::Pid;
use oci_spec::runtime::{Process as ProcessSpec, Spec};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::helper::{self, Task};
use crate::inside;
use crate::log;
use crate::mounts;
use crate::reaper::{Exit, Reaper, ended};
use crate::streams::{SharedStreams, Streams};
use crate::sys;

/// Everything of kata-agent's lies below this directory.
pub const BASE: &str = "/run/kata-containers";

/// One process of a container.
#[derive(Debug, Clone)]
pub struct Process {
    /// In the guest's PID namespace.
    pub pid: Pid,
    /// Its streams.
    pub streams: SharedStreams,
    /// When and how it ended.
    pub exit: Exit,
    /// Told when somebody has learned that.
    pub forgotten: Arc<Notify>,
}

/// Where in its life a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Created,
    Started,
    Paused,
}

/// A container.
#[derive(Debug)]
pub struct Container {
    id: String,
    bundle: PathBuf,
    spec: Spec,
    cgroup: Cgroup,
    init: Pid,
    stage: Mutex<Stage>,
    /// By exec id; the init process has the container's. Gone once waited for.
    processes: Mutex<HashMap<String, Process>>,
    reaper: Reaper,
}

/// The container's directory.
pub fn bundle(id: &str) -> PathBuf {
    Path::new(BASE).join(id)
}

impl Container {
    /// Creates the container: its first process is there, but waits to be started.
    pub async fn create(id: &str, mut spec: Spec, reaper: &Reaper) -> Result<Self> {
        let bundle = bundle(id);
        bind_root(&bundle, &mut spec)?;
        inside::provide(&bundle.join("rootfs"), &spec)?;
        let cgroup = Cgroup::of(id, &mut spec);
        let groups = spec.process_mut().as_mut().map(take_groups).unwrap_or_default();
        let config = bundle.join("config.json");
        spec.save(&config).map_err(|error| Error::refused(error.to_string()))?;
        let process = spec.process().clone().ok_or_else(|| Error::refused("no process"))?;
        let task = Task::Create { bundle: bundle.clone() };
        let process = launch(id, &bundle, &task, &process, &groups, reaper).await?;
        let init = process.pid;
        Ok(Self {
            id: id.to_owned(),
            bundle,
            spec,
            cgroup,
            init,
            stage: Mutex::new(Stage::Created),
            processes: Mutex::new(HashMap::from([(id.to_owned(), process)])),
            reaper: reaper.clone(),
        })
    }

    /// The first process.
    pub fn init(&self) -> Pid {
        self.init
    }

    /// The cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Lets the first process run.
    pub fn start(&self) -> Result<()> {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if *stage != Stage::Created {
            return Err(Error::Order("the container was started before"));
        }
        let mut library = self.library()?;
        library.start().map_err(|error| self.failed(&error))?;
        *stage = Stage::Started;
        Ok(())
    }

    /// Freezes every process.
    pub fn pause(&self) -> Result<()> {
        self.freeze(Stage::Started, Stage::Paused, "pause of a container that does not run")
    }

    /// Thaws every process.
    pub fn resume(&self) -> Result<()> {
        self.freeze(Stage::Paused, Stage::Started, "resume of a container that is not paused")
    }

    fn freeze(&self, from: Stage, to: Stage, otherwise: &'static str) -> Result<()> {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if *stage != from {
            return Err(Error::Order(otherwise));
        }
        self.cgroup.freeze(to == Stage::Paused)?;
        *stage = to;
        Ok(())
    }

    /// Runs a further process.
    pub async fn exec(&self, exec: &str, mut process: ProcessSpec) -> Result<()> {
        if *self.stage.lock().unwrap_or_else(PoisonError::into_inner) != Stage::Started {
            return Err(Error::Order("exec in a container that does not run"));
        }
        if exec.is_empty() || self.lock().contains_key(exec) {
            return Err(Error::refused(format!("exec id {exec:?} is empty or in use")));
        }
        if process.capabilities().is_none() {
            let own = self.spec.process().as_ref().and_then(|process| process.capabilities().clone());
            process.set_capabilities(Some(own.ok_or_else(|| Error::refused("no process capabilities"))?));
        }
        let groups = take_groups(&mut process);
        let file = self.bundle.join(format!("process-{:x}.json", fxhash(exec)));
        let text = serde_json::to_vec(&process).map_err(|error| Error::refused(error.to_string()))?;
        fs::write(&file, text).map_err(Error::path("write", &file))?;
        let task = Task::Exec { process: file.clone() };
        let launched = launch(&self.id, &self.bundle, &task, &process, &groups, &self.reaper).await;
        let _ = fs::remove_file(&file);
        self.lock().insert(exec.to_owned(), launched?);
        Ok(())
    }

    /// Finds a process; an empty exec id means the first one.
    pub fn process(&self, exec: &str) -> Result<Process> {
        let key = if exec.is_empty() { &self.id } else { exec };
        self.lock()
            .get(key)
            .cloned()
            .ok_or_else(|| Error::NoProcess { container: self.id.clone(), exec: exec.to_owned() })
    }

    /// Waits until a process ends, then forgets it: its streams are closed with it.
    pub async fn wait(&self, exec: &str) -> Result<i32> {
        let process = self.process(exec)?;
        let code = ended(process.exit.clone()).await;
        let key = if exec.is_empty() { &self.id } else { exec };
        let mut processes = self.lock();
        if processes.get(key).is_some_and(|known| known.pid == process.pid) {
            processes.remove(key);
        }
        process.forgotten.notify_waiters();
        Ok(code)
    }

    /// Signals one process. The first process of a container does not see a SIGTERM it has no handler for:
    /// it is killed instead.
    pub fn signal(&self, exec: &str, signal: i32) -> Result<()> {
        let process = self.process(exec)?;
        let unseen =
            process.pid == self.init && signal == Signal::SIGTERM as i32 && !handles(process.pid, signal);
        let signal = if unseen { Signal::SIGKILL as i32 } else { signal };
        // Any number, as kata-agent: what the kernel says of one that is no signal tells whether the process is there.
        match sys::kill(process.pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(Error::system("signal a process")(errno)),
        }
    }

    /// What is in the file that is mounted where the container's last words go; as kata-agent 4.1.0, so much of it.
    pub fn last_words(&self) -> Result<String> {
        const MOST: usize = 4096;
        let annotations = self.spec.annotations().as_ref();
        let path = annotations.and_then(|all| all.get("io.kubernetes.container.terminationMessagePath"));
        let path = path.ok_or_else(|| Error::refused("no terminationMessagePath annotation"))?;
        let mut mounts = self.spec.mounts().iter().flatten();
        let source = mounts
            .find(|mount| mount.destination() == Path::new(path))
            .and_then(|mount| mount.source().clone());
        let source = source.ok_or_else(|| Error::refused(format!("nothing is mounted at {path}")))?;
        match fs::read(&source) {
            Ok(mut content) => {
                content.truncate(MOST);
                Ok(String::from_utf8_lossy(&content).into_owned())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(Error::path("read", &source)(error)),
        }
    }

    /// Kills every process in the container's cgroup.
    pub fn kill_all(&self) {
        self.cgroup.kill();
    }

    /// Ends and removes the container; its storages, and then its directory, are the caller's.
    pub async fn destroy(&self, limit: Duration) -> Result<()> {
        let known: Vec<Process> = self.lock().values().cloned().collect();
        for process in &known {
            if process.exit.borrow().is_none() {
                let _ = kill(process.pid, Signal::SIGKILL);
            }
        }
        self.kill_all();
        for exit in known.into_iter().map(|process| process.exit) {
            timeout(limit, ended(exit))
                .await
                .map_err(|_| Error::Timeout { what: format!("the end of container {}", self.id), limit })?;
        }
        self.cgroup.remove_below();
        let mut library = self.library()?;
        let deleted = spawn_blocking(move || library.delete(true).map_err(|error| error.to_string()));
        let deleted = deleted.await.unwrap_or_else(|error| Err(error.to_string()));
        deleted.map_err(|message| Error::Runtime { container: self.id.clone(), message })?;
        mounts::detach(&self.bundle.join("rootfs"))
    }

    fn library(&self) -> Result<Library> {
        Library::load(Path::new(helper::STATE).join(&self.id)).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &dyn std::error::Error) -> Error {
        Error::Runtime { container: self.id.clone(), message: error.to_string() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Process>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the container's root file system appear at `<bundle>/rootfs`, where it is not already mounted there.
fn bind_root(bundle: &Path, spec: &mut Spec) -> Result<()> {
    let root = spec.root_mut().as_mut().ok_or_else(|| Error::refused("no root"))?;
    let rootfs = bundle.join("rootfs");
    if !rootfs.exists() {
        let source = root.path().clone();
        if !source.is_dir() {
            return Err(Error::refused(format!("root {}: no such directory", source.display())));
        }
        fs::create_dir_all(&rootfs).map_err(Error::path("create directory", &rootfs))?;
        mounts::attach(&source, &rootfs, "bind", nix::mount::MsFlags::MS_BIND, "")?;
    }
    root.set_path(rootfs);
    Ok(())
}

/// Removes a container's directory, and what is mounted as its root; both may be missing.
pub fn remove_bundle(bundle: &Path) -> Result<()> {
    mounts::detach(&bundle.join("rootfs"))?;
    match fs::remove_dir_all(bundle) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::path("remove", bundle)(error)),
        _ => Ok(()),
    }
}

/// The groups beyond the first, for the helper: the library sets them only where `/proc/self/setgroups` exists.
fn take_groups(process: &mut ProcessSpec) -> Vec<u32> {
    let user = process.user_mut();
    let groups = user.additional_gids().clone().unwrap_or_default();
    user.set_additional_gids(None);
    groups
}

async fn launch(
    id: &str,
    bundle: &Path,
    task: &Task,
    process: &ProcessSpec,
    groups: &[u32],
    reaper: &Reaper,
) -> Result<Process> {
    let (pid, streams) = if process.terminal().unwrap_or(false) {
        let socket = bundle.join("console.sock");
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).map_err(Error::path("listen on", &socket))?;
        let pid = helper::run(id, task, groups, None, Some(&socket)).await?;
        let master = receive_master(&listener)?;
        let _ = fs::remove_file(&socket);
        // As kata-agent 4.1.0, whatever size its specification gives it (`openpty(None, None)`).
        sys::resize(&master, 0, 0).map_err(Error::system("resize a terminal"))?;
        (pid, Streams::terminal(master)?)
    } else {
        let (streams, ends) = Streams::pipes()?;
        (helper::run(id, task, groups, Some(ends), None).await?, streams)
    };
    Ok(Process { pid, streams: Arc::new(streams), exit: reaper.watch(pid), forgotten: Arc::default() })
}

/// Takes the terminal's master side, which was sent before the helper answered.
fn receive_master(listener: &UnixListener) -> Result<OwnedFd> {
    let (stream, _) = listener.accept().map_err(Error::system("accept the console"))?;
    let mut byte = [0; 64];
    let mut space = cmsg_space!(RawFd);
    let mut slices = [IoSliceMut::new(&mut byte)];
    let message =
        recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)
            .map_err(Error::system("receive the console"))?;
    let parts = message.cmsgs().map_err(Error::system("receive the console"))?;
    for part in parts {
        if let ControlMessageOwned::ScmRights(fds) = part
            && let Some(fd) = fds.first()
        {
            return Ok(sys::inherited(*fd));
        }
    }
    Err(Error::refused("the console came without a terminal"))
}

/// Whether the process blocks, ignores or catches the signal.
fn handles(pid: Pid, signal: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| ["SigBlk", "SigIgn", "SigCgt"].contains(name))
        .filter_map(|(_, mask)| u64::from_str_radix(mask.trim(), 16).ok())
        .any(|mask| mask & (1 << (signal - 1)) != 0)
}

/// Short name out of an exec id of any length or content.
fn fxhash(text: &str) -> u64 {
    text.bytes().fold(0, |hash: u64, byte| {
        (hash.rotate_left(5) ^ u64::from(byte)).wrapping_mul(0x517c_c1b7_2722_0a95)
    })
}

/// Writes a line about a container that could not be removed wholly.
pub fn left_behind(id: &str, error: &Error) {
    log::line(format_args!("container {id} left something behind: {error}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_exec_ids_differ() {
        assert_ne!(fxhash("exec-1"), fxhash("exec-2"));
    }

    #[test]
    fn this_process_does_not_handle_sigusr2_but_may_be_asked() {
        assert!(!handles(Pid::this(), Signal::SIGUSR2 as i32));
        assert!(!handles(Pid::from_raw(i32::MAX), Signal::SIGTERM as i32));
    }

    #[test]
    fn a_missing_root_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let mut spec = Spec::default();
        spec.root_mut().as_mut().unwrap().set_path(base.path().join("none"));
        assert!(matches!(bind_root(&base.path().join("bundle"), &mut spec), Err(Error::Refused(_))));
    }
}
