//! A started process to its end.
//!
//! kata-agent forgets a process, and closes its streams, when it answers WaitProcess, so the output has to be read before
//! that call. But the end of the output is not the process's: a child may hold the streams. What says that the process
//! itself is gone is (kata-agent 4.1.0, `src/agent/src/rpc.rs`):
//!
//! - a read that waits when it ends is answered without data half a second later, as at the end of the stream
//!   (`do_read_stream`). A read that comes after it waits for the child;
//! - a signal that does not exist is refused for a process that is there (EINVAL), and passed over for one that is not
//!   (`do_signal_process`, ESRCH).
//!
//! So the guest is asked by such a signal whenever a read may have come too late: a while after output was last read.

use std::time::Duration;

use agent_client::AgentError;
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep, sleep_until};

use crate::api::{Exit, ProcessId};
use crate::machine::{Guest, Life, PIPE, name};
use crate::stdio::Stdio;

/// How long after output the guest is asked whether the process lives.
const FIRST_PROBE: Duration = Duration::from_millis(500);
/// And how long after an answer it is asked again.
const NEXT_PROBE: Duration = Duration::from_secs(2);
/// How often it is asked after the last output.
const PROBES: u32 = 2;
/// After its end so much is read of each stream of a process as its pipe holds, and once more; what comes then is somebody
/// else's. It may be less, when none comes for so long.
const QUIET: Duration = Duration::from_secs(1);
/// How long output may lie unread on the host before the exit is learned without it. Asking never would hide the exit of
/// a process whose output nobody reads.
const UNREAD_PATIENCE: Duration = Duration::from_secs(5);
/// The exit code for a process whose status nobody knows, as containerd uses it.
const UNKNOWN: u32 = 255;

/// How a process ended, as far as the guest says.
#[derive(Debug)]
pub struct Followed {
    /// Status and time.
    pub exit: Exit,
    /// Why nobody knows the status, where nobody does.
    pub lost: Option<AgentError>,
}

/// Waits for the end of a process, reads what it has written, and returns how it ended. `None` when the agent goes away.
pub async fn follow<G: Guest>(guest: &G, id: &ProcessId, stdio: &Stdio<G>) -> Option<Followed> {
    let gone = tokio::select! {
        () = stdio.ended() => None,
        gone = watch(guest, id, stdio) => gone,
    };
    if gone.is_some() {
        if id.exec.is_none() {
            // What a container's first process leaves dies with it; with that its output ends. The process itself is gone,
            // and its id may be another's by now: it gets no signal.
            let _ = guest.signal_all(id.container.as_str(), Signal::SIGKILL as u32).await;
        }
        drain(guest, stdio).await;
    }
    let (status, lost) = match guest.wait(name(id)).await {
        Ok(status) => {
            stdio.drained(UNREAD_PATIENCE).await;
            (exit_code(status), None)
        }
        Err(AgentError::Disconnected { .. } | AgentError::Violation { .. }) => return None,
        // The agent is there and does not know the process: its exit is lost, not its end.
        Err(error) => (UNKNOWN, Some(error)),
    };
    let exit = gone.map_or_else(|| Exit::now(status), |exit| Exit { status, ..exit });
    Some(Followed { exit, lost })
}

/// Waits until the guest says that the process is gone; returns when that was. Without an answer from the guest: until
/// the output has ended, or nobody has taken it for too long.
async fn watch<G: Guest>(guest: &G, id: &ProcessId, stdio: &Stdio<G>) -> Option<Exit> {
    let mut activity = stdio.activity();
    let mut probes = PROBES;
    let mut due = Some(Instant::now() + FIRST_PROBE);
    loop {
        let time = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            moved = activity.changed() => {
                if moved.is_err() {
                    std::future::pending::<()>().await; // the streams have ended, which somebody else sees
                }
                probes = PROBES;
                due = due.or_else(|| Some(Instant::now() + FIRST_PROBE));
            }
            () = time => {
                let now = Exit::now(UNKNOWN);
                match guest.lives(name(id)).await {
                    Life::Gone => return Some(now),
                    Life::Late => due = Some(Instant::now() + NEXT_PROBE),
                    Life::Lives => {
                        probes = probes.saturating_sub(1);
                        let pause = if stdio.is_stuck() { UNREAD_PATIENCE } else { NEXT_PROBE };
                        due = (probes > 0 || stdio.is_stuck()).then(|| Instant::now() + pause);
                    }
                    Life::Untold => {
                        stdio.drained(UNREAD_PATIENCE).await;
                        return None;
                    }
                }
            }
        }
    }
}

/// Reads on after a process is gone, within limits: who writes by now is somebody else.
async fn drain<G: Guest>(guest: &G, stdio: &Stdio<G>) {
    let enough = (PIPE / guest.read_size()) as u64 + 2;
    let rest = async {
        let before = stdio.reads();
        loop {
            let looked = stdio.reads();
            sleep(QUIET).await;
            if stdio.has_read(before, enough, looked) && !stdio.is_stuck() {
                return;
            }
        }
    };
    tokio::select! {
        () = stdio.drained(UNREAD_PATIENCE) => {}
        () = rest => {}
    }
}

/// The agent's status as an exit code: what a guest sends is cut to the range that codes have.
fn exit_code(status: i32) -> u32 {
    u32::try_from(status).unwrap_or(UNKNOWN) & 0xff
}
