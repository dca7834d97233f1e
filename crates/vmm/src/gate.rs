//! What the guest's PID 1 says: lines over vsock, the only words of a guest without a console.
//!
//! They are a guest's words: each is limited in size, and only those count that are about layers which the VM was given, or about
//! sealed secrets that a container of it is about to have.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use host_claims::vsock::GateListener;
use shared_types::sealed::SealedWord;
use slog::{Logger, error, warn};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use verity::RootHash;
use vmm_config::hotplug::Lun;

use crate::boot::Phase;
use crate::lines::{Tail, tail};
use crate::progress::Activity;
use crate::secrets::{AwaitedSecrets, Expected, Secrets};

/// The longest line that PID 1 writes, in bytes.
const MAX_LINE: usize = 1024;
/// How many damaged blocks of a layer are logged, each with its number.
const DAMAGES: u32 = 8;

/// The line from PID 1; clones share it.
#[derive(Debug, Clone)]
pub struct Gate {
    tail: Tail,
    heard: Arc<watch::Sender<Heard>>,
    _task: Arc<Task>,
}

/// Why a guest's PID 1 has powered off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoweredOff {
    /// It has found what must not be.
    Refused(String),
    /// The agent ended, in this way.
    AgentEnded(String),
}

impl PoweredOff {
    /// In the words of a boot that it ended in `phase`. Only an agent that ends by itself before it ever answers has a cause
    /// that can be guessed.
    pub(crate) fn in_boot(&self, phase: Phase) -> String {
        match self {
            Self::Refused(reason) => reason.clone(),
            Self::AgentEnded(how) if phase == Phase::Agent && how.starts_with("exited") => format!(
                "{self}; an agent that ends at its start often cannot read the policy in the pod's initdata: `coffer initdata \
                 build` checks it"
            ),
            Self::AgentEnded(_) => self.to_string(),
        }
    }
}

impl fmt::Display for PoweredOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(reason) => write!(f, "the guest refused to go on: {reason}"),
            Self::AgentEnded(how) => write!(f, "its agent {how}, and the VM ended for it"),
        }
    }
}

/// Ends the listening with the last handle.
#[derive(Debug)]
struct Task(Option<AbortHandle>);

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// What was heard, as far as somebody may wait for it.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// PID 1 has connected and said something.
    anything: bool,
    /// Why it powers off.
    powered_off: Option<PoweredOff>,
    layers: BTreeMap<RootHash, Layer>,
    pub(crate) secrets: Secrets,
}

/// A layer that the VM has or had.
#[derive(Debug)]
struct Layer {
    lun: Lun,
    image: PathBuf,
    standing: Standing,
    damages: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    Awaited,
    Ready,
    Refused(String),
    /// Its disk has been taken away.
    Leaving,
}

/// Why a layer is not to be had in the guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// The guest has checked it and says no.
    #[error("the guest refuses it: {0}")]
    Refused(String),
    /// The guest says nothing.
    #[error("the guest did not open it within {} s", .0.as_secs())]
    Silent(Duration),
}

/// A line that means something to us.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Ready(RootHash),
    Gone(RootHash),
    Damaged {
        root: RootHash,
        kind: &'a str,
        block: u64,
    },
    Refused {
        lun: u16,
        reason: &'a str,
    },
    Fatal(&'a str),
    /// The agent ended, and PID 1 powers off for it.
    AgentEnded(&'a str),
    Secret(SealedWord),
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        if let Some(reason) = line.strip_prefix("fatal: ") {
            return Some(Self::Fatal(reason.strip_suffix("; powering off").unwrap_or(reason)));
        }
        if let Some(rest) = line.strip_prefix("the agent ") {
            return rest.strip_suffix("; powering off").map(Self::AgentEnded);
        }
        if let Some(word) = SealedWord::parse(line) {
            return Some(Self::Secret(word));
        }
        if let Some(rest) = line.strip_prefix("disk 0:") {
            let (lun, reason) = rest.split_once(" refused: ")?;
            return Some(Self::Refused { lun: lun.parse().ok()?, reason });
        }
        let (root, what) = line.strip_prefix("layer ")?.split_at_checked(64)?;
        let root = root.parse().ok()?;
        match what {
            " ready" => Some(Self::Ready(root)),
            " gone" => Some(Self::Gone(root)),
            _ => {
                let what = what.strip_prefix(": ")?.strip_suffix(" is not what its hash says")?;
                let (kind, block) = what.split_once(" block ")?;
                let kind = ["data", "metadata"].into_iter().find(|known| *known == kind)?;
                Some(Self::Damaged { root, kind, block: block.parse().ok()? })
            }
        }
    }
}

impl Heard {
    /// Takes a line in; `log` gets what an operator must know.
    fn note(&mut self, line: &str, log: &Logger) {
        self.anything = true;
        match Line::parse(line) {
            Some(Line::Ready(root)) => self.set(root, Standing::Ready),
            Some(Line::Gone(root)) if self.is_leaving(root) => drop(self.layers.remove(&root)),
            Some(Line::Refused { lun, reason }) => {
                let named = self
                    .layers
                    .iter()
                    .find(|(_, layer)| layer.lun.get() == lun && layer.standing == Standing::Awaited);
                if let Some(root) = named.map(|(root, _)| *root) {
                    self.set(root, Standing::Refused(reason.to_owned()));
                }
            }
            Some(Line::Damaged { root, kind, block }) => {
                let Some(layer) = self.layers.get_mut(&root) else { return };
                layer.damages = layer.damages.saturating_add(1);
                if layer.damages <= DAMAGES {
                    error!(log, "an image layer is damaged: the guest refuses to read a block that is not what the layer's \
                        root hash says"; "layer" => %root, "file" => %layer.image.display(), "kind" => kind, "block" => block);
                }
            }
            Some(Line::Fatal(reason)) => self.end(PoweredOff::Refused(reason.to_owned())),
            Some(Line::AgentEnded(how)) => self.end(PoweredOff::AgentEnded(how.to_owned())),
            Some(Line::Secret(word)) => self.secrets.note(word),
            Some(Line::Gone(_)) | None => {}
        }
    }

    /// The first reason is the one.
    fn end(&mut self, why: PoweredOff) {
        self.powered_off.get_or_insert(why);
    }

    fn is_leaving(&self, root: RootHash) -> bool {
        self.layers.get(&root).is_some_and(|layer| layer.standing == Standing::Leaving)
    }

    /// Of layers that are awaited only: what the guest says of others changes nothing.
    fn set(&mut self, root: RootHash, standing: Standing) {
        if let Some(layer) = self.layers.get_mut(&root)
            && layer.standing == Standing::Awaited
        {
            layer.standing = standing;
        }
    }
}

impl Gate {
    /// Hears what PID 1 of a VM that is about to start will say; nothing where there is no way to.
    pub fn hear(listener: Option<GateListener>, log: Logger, activity: Activity) -> Self {
        let (tail, feed) = tail("guest", MAX_LINE);
        let heard = Arc::new(watch::Sender::new(Heard::default()));
        let sender = Arc::clone(&heard);
        let task = listener.map(|listener| async move {
            match listener.accept().await {
                Ok(stream) => {
                    let each = |line: &str| sender.send_modify(|heard| heard.note(line, &log));
                    feed.copy(stream, &log, &activity, each).await;
                }
                Err(error) => warn!(log, "the guest's PID 1 cannot be heard"; "error" => %error),
            }
        });
        let task = task.map(|task| tokio::spawn(task).abort_handle());
        Self { tail, heard, _task: Arc::new(Task(task)) }
    }

    /// The last lines.
    pub fn lines(&self) -> Vec<String> {
        self.tail.lines()
    }

    /// Waits for the first word: the guest's kernel and its drivers have started then.
    pub async fn speaks(&self) {
        // The sender is ours, and lives.
        let _ = self.heard.subscribe().wait_for(|heard| heard.anything).await;
    }

    /// Waits until PID 1 says that it powers off ([`Self::powered_off`] has why).
    pub async fn powers_off(&self) {
        // The sender is ours, and lives.
        let _ = self.heard.subscribe().wait_for(|heard| heard.powered_off.is_some()).await;
    }

    /// Why PID 1 powered off, where it said so.
    pub fn powered_off(&self) -> Option<PoweredOff> {
        self.heard.borrow().powered_off.clone()
    }

    /// Waits until the last line has been heard, at most `patience`; not at all where nobody has spoken.
    pub async fn ended(&self, patience: Duration) {
        if self.heard.borrow().anything {
            self.tail.ended(patience).await;
        }
    }

    /// Notes that a container is about to have these sealed secrets.
    pub(crate) fn expect_secrets(&self, expected: &[Expected]) -> AwaitedSecrets {
        AwaitedSecrets::new(Arc::clone(&self.heard), expected)
    }

    /// Notes that a layer is about to be given to the VM.
    pub(crate) fn expect(&self, root: RootHash, lun: Lun, image: &Path) {
        let layer = Layer { lun, image: image.to_owned(), standing: Standing::Awaited, damages: 0 };
        self.heard.send_modify(|heard| drop(heard.layers.insert(root, layer)));
    }

    /// Notes that a layer was not given after all, or has left with the guest's consent or without.
    pub(crate) fn forget(&self, root: RootHash) {
        self.heard.send_modify(|heard| drop(heard.layers.remove(&root)));
    }

    /// Notes that a layer's disk is about to be taken away. One that the guest has not opened has nothing to leave.
    pub(crate) fn leaving(&self, root: RootHash) {
        self.heard.send_modify(|heard| match heard.layers.get_mut(&root) {
            Some(layer) if layer.standing == Standing::Ready => layer.standing = Standing::Leaving,
            Some(layer) if layer.standing == Standing::Leaving => {}
            Some(_) | None => drop(heard.layers.remove(&root)),
        });
    }

    /// Whether the guest has not let go of the layer yet, whose disk was taken away.
    pub(crate) fn is_leaving(&self, root: RootHash) -> bool {
        self.heard.borrow().is_leaving(root)
    }

    /// Waits until the guest has opened a layer that it was given.
    pub(crate) async fn ready(&self, root: RootHash, patience: Duration) -> Result<(), NotReady> {
        let mut heard = self.heard.subscribe();
        let standing = |heard: &Heard| heard.layers.get(&root).map(|layer| layer.standing.clone());
        let decided = heard.wait_for(|heard| standing(heard) != Some(Standing::Awaited));
        match timeout(patience, decided).await {
            Ok(Ok(heard)) => match standing(&heard) {
                Some(Standing::Ready) => Ok(()),
                Some(Standing::Refused(reason)) => Err(NotReady::Refused(reason)),
                Some(Standing::Awaited | Standing::Leaving) | None => Err(NotReady::Silent(patience)),
            },
            Ok(Err(_)) | Err(_) => Err(NotReady::Silent(patience)),
        }
    }

    /// Waits until the guest has let go of a layer whose disk was taken away; `false` where it did not in time. It is
    /// forgotten in any case.
    pub(crate) async fn gone(&self, root: RootHash, patience: Duration) -> bool {
        let mut heard = self.heard.subscribe();
        let leaving =
            |heard: &Heard| heard.layers.get(&root).is_some_and(|layer| layer.standing == Standing::Leaving);
        let gone = timeout(patience, heard.wait_for(|heard| !leaving(heard))).await.is_ok();
        if !gone {
            self.heard.send_if_modified(|heard| {
                let left = leaving(heard);
                if left {
                    heard.layers.remove(&root);
                }
                left
            });
        }
        gone
    }
}

#[cfg(test)]
mod tests;
