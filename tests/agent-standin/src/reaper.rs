//! Collects every child that ends: container processes become our children when their helper ends.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::error::{Error, Result};

/// Exit codes of processes that nobody asked for yet; orphans fill it too, so it is bounded.
const UNCLAIMED: usize = 256;

/// Becomes `Some` when the process has ended: its exit code, or 128 plus the signal that ended it.
pub type Exit = watch::Receiver<Option<i32>>;

#[derive(Debug, Default)]
struct Table {
    watched: HashMap<Pid, watch::Sender<Option<i32>>>,
    unclaimed: VecDeque<(Pid, i32)>,
}

/// Handle on the one task that waits for children.
#[derive(Debug, Clone, Default)]
pub struct Reaper {
    table: Arc<Mutex<Table>>,
}

impl Reaper {
    /// Makes this process the reaper of all its descendants and starts waiting for them.
    pub fn start() -> Result<Self> {
        prctl::set_child_subreaper(true).map_err(Error::system("become child subreaper"))?;
        let mut ended = signal(SignalKind::child()).map_err(Error::system("watch SIGCHLD"))?;
        let reaper = Self::default();
        let task = reaper.clone();
        tokio::spawn(async move {
            while ended.recv().await.is_some() {
                task.collect();
            }
        });
        Ok(reaper)
    }

    /// Watches a child, or a descendant about to become one.
    pub fn watch(&self, pid: Pid) -> Exit {
        let mut table = self.lock();
        let known = table.unclaimed.iter().position(|(other, _)| *other == pid);
        let code = known.and_then(|index| table.unclaimed.remove(index)).map(|(_, code)| code);
        let (sender, receiver) = watch::channel(code);
        if code.is_none() {
            table.watched.insert(pid, sender);
        }
        receiver
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collect(&self) {
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) | Err(_) => continue,
            };
            let mut table = self.lock();
            if let Some(sender) = table.watched.remove(&pid) {
                sender.send_replace(Some(code));
            } else {
                if table.unclaimed.len() == UNCLAIMED {
                    table.unclaimed.pop_front();
                }
                table.unclaimed.push_back((pid, code));
            }
        }
    }
}

/// Waits for the end that `exit` watches.
pub async fn ended(mut exit: Exit) -> i32 {
    let code = exit.wait_for(Option::is_some).await.ok().and_then(|code| *code);
    match code {
        Some(code) => code,
        // The reaper ends only with the program.
        None => std::future::pending().await,
    }
}
