//! A running VM: one task owns it, everybody else has a handle.

use std::sync::Arc;
use std::time::Duration;

use agent_client::{Agent, AgentError};
use shared_types::one_line;
use slog::{Logger, error, info, warn};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use verity::RootHash;
use vmm_config::deadline::Ground;
use vmm_config::hotplug::Lun;
use vmm_config::qemu::VfioDevice;

use crate::claims::Claims;
use crate::disks::{DiskError, Disks, Layer};
use crate::ended::{Cause, Ended, LastWords, Signs};
use crate::gate::{Gate, NotReady};
use crate::lines::Tail;
use crate::lost;
use crate::qemu::{Exit, Qemu};
use crate::qmp::{Event, Qmp, QmpError};
use crate::secrets::{AwaitedSecrets, Expected};

/// How long the guest may take to power itself off before QEMU is told to quit.
const GUEST_PATIENCE: Duration = Duration::from_secs(10);
/// How long a VM may go on without its agent: a guest on its way down loses that first.
const AGENT_PATIENCE: Duration = Duration::from_secs(2);
/// How long QEMU may take to quit before it is killed.
const QEMU_PATIENCE: Duration = Duration::from_secs(3);

/// How long the lines of a VM that failed may take to end after it.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long the guest may take to open a layer whose disk it was given; four times that on a host that is a VM itself. It
/// reads three blocks of it.
const OPEN_PATIENCE: Duration = Duration::from_secs(60);
/// The same for an encrypted one, whose key comes over the network from a broker that may be slow or down for a while.
const KEY_PATIENCE: Duration = Duration::from_secs(240);
/// How often a layer is given to the guest that refuses it.
const TRIES: u32 = 3;
/// How long the guest may take to let go of a layer whose disk was taken away.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);

/// What the VM can be asked; the driver task carries it out.
enum Command {
    AddDisk { layer: Layer, reply: oneshot::Sender<Result<Option<Lun>, DiskError>> },
    RemoveDisk { lun: Lun, reply: oneshot::Sender<Result<Option<RootHash>, DiskError>> },
    Stop,
}

/// The VM is gone; [`Vm::ended`] says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the VM is gone")]
pub struct Gone;

/// A handle on a running VM; clones share it.
#[derive(Debug, Clone)]
pub struct Vm {
    agent: Agent,
    gate: Gate,
    qemu_pid: u32,
    open_patience: Duration,
    commands: mpsc::Sender<Command>,
    ended: watch::Receiver<Option<Arc<Ended>>>,
    released: watch::Receiver<Option<Arc<[String]>>>,
}

/// Where a VM's end is told, and after it that nothing is left.
struct Farewell {
    ended: watch::Sender<Option<Arc<Ended>>>,
    released: watch::Sender<Option<Arc<[String]>>>,
}

/// All that a running VM consists of, as the last boot stage hands it over.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) qemu: Qemu,
    pub(crate) qmp: Qmp,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) console: Tail,
    pub(crate) gate: Gate,
    pub(crate) agent: Agent,
    pub(crate) claims: Claims,
    pub(crate) disks: Disks,
    pub(crate) devices: Vec<VfioDevice>,
    pub(crate) log: Logger,
}

impl Vm {
    pub(crate) fn drive(parts: Parts, ground: Ground) -> Self {
        let (commands, receiver) = mpsc::channel(16);
        let (end, ended) = watch::channel(None);
        let (all, released) = watch::channel(None);
        let (agent, gate) = (parts.agent.clone(), parts.gate.clone());
        let open_patience = OPEN_PATIENCE * ground.slower();
        let vm = Self { agent, gate, qemu_pid: parts.qemu.pid(), open_patience, commands, ended, released };
        let farewell = Farewell { ended: end, released: all };
        tokio::spawn(Driver { parts, signs: Signs::default() }.run(receiver, farewell));
        vm
    }

    /// The agent in the guest.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// QEMU's process id.
    pub fn pid(&self) -> u32 {
        self.qemu_pid
    }

    /// Listens for what the guest will say of these sealed secrets, which a container is about to have.
    pub fn expect_secrets(&self, expected: &[Expected]) -> AwaitedSecrets {
        self.gate.expect_secrets(expected)
    }

    /// Gives the guest one more user of each layer, and waits until it has opened all of them; returns their LUNs. A layer
    /// that the VM has already keeps its LUN.
    ///
    /// # Errors
    /// QEMU or the guest refuses one, or the VM is gone; none is left then.
    pub async fn add_layers(&self, layers: &[Layer]) -> Result<Vec<Lun>, DiskError> {
        let mut luns = Vec::with_capacity(layers.len());
        match self.add_all(layers, &mut luns).await {
            Ok(()) => Ok(luns),
            Err(error) => {
                let _ = self.remove_layers(luns).await;
                Err(error)
            }
        }
    }

    /// One after the other: each new LUN tells all others that there is one (unit attention), and a guest's kernel that is
    /// told so while it looks at a disk may find it empty.
    async fn add_all(&self, layers: &[Layer], luns: &mut Vec<Lun>) -> Result<(), DiskError> {
        for layer in layers {
            let mut tries = 1;
            while let Err(error) = self.add_one(layer, luns).await {
                // The same happens when another container's disk goes meanwhile.
                // A key that was refused is not asked for again.
                let is_refused = matches!(&error, DiskError::Layer { source: NotReady::Refused(_), .. });
                let again = is_refused && !layer.encrypted;
                if !again || tries == TRIES {
                    return Err(error);
                }
                tries += 1;
                let _ = self.remove_layers(luns.pop().into_iter().collect()).await;
            }
        }
        Ok(())
    }

    async fn add_one(&self, layer: &Layer, luns: &mut Vec<Lun>) -> Result<(), DiskError> {
        let Layer { image, root, encrypted, .. } = layer;
        let patience = if *encrypted { KEY_PATIENCE } else { self.open_patience };
        loop {
            let layer = layer.clone();
            if let Some(lun) = self.ask(|reply| Command::AddDisk { layer, reply }).await? {
                luns.push(lun);
                break;
            }
            // It comes again only after the guest has seen it go; one that never goes is forgotten here.
            self.gate.gone(*root, CLOSE_PATIENCE).await;
        }
        let ready = tokio::select! {
            ready = self.gate.ready(*root, patience) => ready,
            _ = self.ended() => return Err(Gone.into()),
        };
        ready.map_err(|source| DiskError::Layer { image: image.clone(), root: *root, source })
    }

    /// Takes one user from each of these disks, and a disk with its last one. The agent must have let them go.
    ///
    /// Returns the layers that the guest still held a while later; they are of no use to it any more.
    ///
    /// # Errors
    /// QEMU refuses, or the VM is gone; the others are removed all the same.
    pub async fn remove_layers(&self, luns: Vec<Lun>) -> Result<Vec<RootHash>, DiskError> {
        let (mut leaving, mut failure) = (Vec::new(), None);
        for lun in luns {
            match self.ask(|reply| Command::RemoveDisk { lun, reply }).await {
                Ok(root) => leaving.extend(root),
                Err(error) => failure = Some(error),
            }
        }
        if let Some(failure) = failure {
            return Err(failure);
        }
        let mut held = Vec::new();
        for root in leaving {
            tokio::select! {
                gone = self.gate.gone(root, CLOSE_PATIENCE) => if !gone { held.push(root) },
                _ = self.ended() => return Err(Gone.into()),
            }
        }
        Ok(held)
    }

    /// Has the VM stopped; [`Self::ended`] says when it is. Stopping it twice, or when it is gone, is fine.
    pub async fn stop(&self) {
        let _ = self.commands.send(Command::Stop).await;
    }

    /// Waits for the end of QEMU. What the VM had on the host is given back after it.
    pub async fn ended(&self) -> Arc<Ended> {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(ended)) => Arc::clone(ended),
            // The driver sends before it ends; only a runtime that is being torn down gets here.
            _ => Arc::new(Ended {
                cause: Cause::Stopped,
                exit: Exit::Unknown("the shim is ending".to_owned()),
                last_words: LastWords::default(),
            }),
        }
    }

    /// Waits until all that the VM had on the host is given back; returns what could not be, one line each.
    pub async fn released(&self) -> Arc<[String]> {
        let mut released = self.released.clone();
        match released.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(failures)) => Arc::clone(failures),
            _ => Arc::default(),
        }
    }

    /// The end, where it has come.
    pub fn has_ended(&self) -> Option<Arc<Ended>> {
        self.ended.borrow().clone()
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, DiskError>>) -> Command,
    ) -> Result<T, DiskError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)?
    }
}

/// The one task that owns a running VM.
struct Driver {
    parts: Parts,
    signs: Signs,
}

impl Driver {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>, farewell: Farewell) {
        let agent = self.parts.agent.clone();
        let stderr = self.parts.qemu.stderr().clone();
        let exit = loop {
            tokio::select! {
                exit = self.parts.qemu.wait() => break exit,
                Some(event) = self.parts.events.recv() => self.signs.note(&event),
                () = agent.lost() => break self.without_agent().await,
                () = lost::told(&stderr), if !self.parts.devices.is_empty() => {
                    break self.without_device(&stderr).await;
                }
                command = commands.recv() => match command {
                    Some(Command::AddDisk { layer, reply }) => {
                        let Parts { qmp, disks, gate, .. } = &mut self.parts;
                        let _ = reply.send(disks.add(qmp, gate, &layer).await);
                    }
                    Some(Command::RemoveDisk { lun, reply }) => {
                        let Parts { qmp, disks, gate, events, .. } = &mut self.parts;
                        let removed = disks.remove(qmp, gate, lun, events, |event| self.signs.note(event));
                        let _ = reply.send(removed.await);
                    }
                    // No handle is left: nobody could stop it any more.
                    Some(Command::Stop) | None => break self.stop().await,
                },
            }
        };
        while let Ok(event) = self.parts.events.try_recv() {
            self.signs.note(&event);
        }
        // What is said on a way down that was asked for explains nothing, and vhost-device-vsock, which outlives QEMU, leaves
        // PID 1's line open.
        if self.signs.cause != Some(Cause::Stopped) {
            self.parts.console.ended(LAST_WORDS).await;
            self.parts.gate.ended(LAST_WORDS).await;
        }
        let ended = Ended {
            cause: self.signs.cause.unwrap_or(Cause::QemuDied),
            exit,
            last_words: LastWords {
                stderr: self.parts.qemu.stderr().lines(),
                console: self.parts.console.lines(),
                guest: self.parts.gate.lines(),
                powered_off: self.parts.gate.powered_off(),
                panic: self.signs.panic,
            },
        };
        let log = self.parts.log;
        match ended.cause {
            Cause::Stopped => info!(log, "VM stopped"; "exit" => %ended.exit),
            _ => error!(log, "VM failed"; "error" => %ended),
        }
        // Told before anything is given back: a GPU's reset takes longer than anybody should take a dead pod for a living one.
        farewell.ended.send_replace(Some(Arc::new(ended)));
        drop(commands);
        farewell.released.send_replace(Some(self.parts.claims.release().await.into()));
    }

    /// Ends the VM in three tries, each harder than the one before.
    async fn stop(&mut self) -> Exit {
        self.signs.cause = Some(Cause::Stopped);
        let agent = self.parts.agent.clone();
        let asked = async {
            match agent.destroy_sandbox().await {
                // The agent's answer may be lost with the VM; QEMU's exit is what counts.
                Ok(()) | Err(AgentError::Disconnected { .. }) => Ok(self.parts.qemu.wait().await),
                // Then it does not power off either.
                Err(error) => Err(error),
            }
        };
        match timeout(GUEST_PATIENCE, asked).await {
            Ok(Ok(exit)) => return exit,
            Ok(Err(error)) => {
                warn!(self.parts.log, "guest does not end the sandbox"; "error" => one_line(&error))
            }
            Err(_) => warn!(self.parts.log, "guest did not power off"),
        }
        self.quit().await
    }

    /// Nobody can ask the guest for anything any more: unless it ends by itself, it is ended.
    async fn without_agent(&mut self) -> Exit {
        if let Ok(exit) = timeout(AGENT_PATIENCE, self.parts.qemu.wait()).await {
            return exit;
        }
        self.signs.cause = Some(Cause::AgentLost);
        self.quit().await
    }

    /// A VM without a device that it had is of no use, and what still runs in it may compute nonsense.
    async fn without_device(&mut self, stderr: &Tail) -> Exit {
        if let Some((address, loss)) = lost::find(&stderr.lines(), &self.parts.devices) {
            error!(self.parts.log, "GPU is lost"; "gpu" => %address, "reason" => %loss);
            self.signs.cause = Some(Cause::DeviceLost(address, loss));
        }
        self.quit().await
    }

    async fn quit(&mut self) -> Exit {
        let qmp = self.parts.qmp.clone();
        let quit = async {
            let _: Result<_, QmpError> = qmp.execute("quit", serde_json::Value::Null).await;
            self.parts.qemu.wait().await
        };
        if let Ok(exit) = timeout(QEMU_PATIENCE, quit).await {
            return exit;
        }
        warn!(self.parts.log, "QEMU did not quit; it is killed");
        self.parts.qemu.kill().await
    }
}
