//! Where a pod's state is decided: one value without locks, awaits or I/O.
//!
//! [`Core::apply`] takes what happened ([`Input`]) and returns what is to be done for it ([`Effect`]). The driver
//! (`sandbox::driver`) owns the one value and carries the effects out.
//!
//! ```text
//! VM         absent ─► booting ─► up ─► ended ─► released       a boot that fails leads back to absent
//! container  making ─► made ─► leaving ─► forgotten              one that is given up leads from making to leaving
//! process    created ─► running ◄─► paused ─► stopped           stopped is reached from each of the others
//! ```
//!
//! `calls` decides what engines ask for, `answers` what follows from an effect's outcome, `end` how the VM goes and who
//! waits for that; `process` has the transition table of a process.

mod answers;
mod calls;
mod end;
mod message;
mod process;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use guest_spec::Role;

use crate::api::{
    ContainerId, CreateSandboxRequest, Deleted, Error, ExecId, NewContainer, ProcessId, Result,
};

pub use message::{Call, Effect, End, Event, For, Input, Line, Made, Pass, Reply, Ticket, Up, Wake};
pub use process::Step;

use process::Process;

/// The pod that a shim serves.
#[derive(Debug)]
pub struct Core {
    /// The sandbox's name.
    id: ContainerId,
    machine: Machine,
    /// What the Sandbox API was told, where it is used; without it the VM lives as long as its containers.
    sandbox: Option<Arc<CreateSandboxRequest>>,
    slots: BTreeMap<ContainerId, Slot>,
    /// The UID of the pod whose containers these are, from the first one that told it.
    pod: Option<String>,
    /// What is done when nothing is left of the VM.
    after: Vec<After>,
    /// Who waits for the VM's end.
    watching: Vec<Ticket>,
    shutdown: Shutdown,
    /// How often the guest told of containers that are none.
    strangers: u32,
    now: SystemTime,
    effects: Vec<Effect>,
}

/// The pod's VM. There is no way back from its end: a pod has one VM.
#[derive(Debug)]
enum Machine {
    Absent,
    Booting { waiting: VecDeque<Waiting>, cancelled: bool },
    Up { up: Up, stopping: bool },
    Ended { end: End, since: SystemTime, released: bool },
}

/// Who waits for a boot.
#[derive(Debug)]
enum Waiting {
    Container(ContainerId),
    Sandbox(Ticket),
}

/// A place in the pod for a container's name.
#[derive(Debug)]
enum Slot {
    /// It is being created, after the boot where there is one.
    Making(Making),
    Made(Container),
    /// Its first process was deleted; the rest is being removed.
    Leaving(Container, Leaving),
}

#[derive(Debug)]
struct Making {
    ticket: Ticket,
    new: Arc<NewContainer>,
    /// It was deleted before it was there: nobody knows of it.
    given_up: bool,
}

#[derive(Debug)]
struct Container {
    bundle: PathBuf,
    made: Made,
    init: Process,
    execs: BTreeMap<ExecId, Process>,
    /// Whether CRI-O has it, which takes no events.
    is_crios: bool,
    /// How often containerd was told that it ran out of memory.
    ooms: u32,
}

/// Who is told of a removal.
#[derive(Debug)]
struct Leaving {
    deleted: Deleted,
    /// Empty where the shim ends and nobody asked for it.
    tickets: Vec<Ticket>,
    /// Nobody was ever told that it exists.
    unknown: bool,
}

/// What is done when nothing is left of the VM.
#[derive(Debug)]
enum After {
    Done(Ticket),
    Refuse(Ticket, Error),
    Remove(ContainerId),
    /// Forget it; it is removed.
    Forget(ContainerId),
}

/// Whether the shim shall end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shutdown {
    No,
    WithLastContainer,
    Now,
}

impl Container {
    fn process(&self, id: &ProcessId) -> Option<&Process> {
        match &id.exec {
            None => Some(&self.init),
            Some(exec) => self.execs.get(exec),
        }
    }

    fn process_mut(&mut self, id: &ProcessId) -> Option<&mut Process> {
        match &id.exec {
            None => Some(&mut self.init),
            Some(exec) => self.execs.get_mut(exec),
        }
    }

    /// Execs first: they end before the process that their container stands and falls with.
    fn processes(&self) -> impl Iterator<Item = &Process> {
        self.execs.values().chain([&self.init])
    }

    fn is_sandbox(&self) -> bool {
        self.made.role == Role::Sandbox
    }
}

impl Core {
    /// A pod without anything.
    pub fn new(id: ContainerId) -> Self {
        Self {
            id,
            machine: Machine::Absent,
            sandbox: None,
            slots: BTreeMap::new(),
            pod: None,
            after: Vec::new(),
            watching: Vec::new(),
            shutdown: Shutdown::No,
            strangers: 0,
            now: SystemTime::UNIX_EPOCH,
            effects: Vec::new(),
        }
    }

    /// What is to be done, in this order, now that `input` happened.
    pub fn apply(&mut self, now: SystemTime, input: Input) -> Vec<Effect> {
        self.now = now;
        match input {
            Input::Call(ticket, call) => self.call(ticket, call),
            Input::Booted(result) => self.booted(result),
            Input::Made(id, result) => self.made(&id, result),
            Input::Started(ticket, process, result) => self.started(ticket, &process, result),
            Input::Signalled(ticket, request, result) => self.signalled(ticket, &request, result),
            Input::Frozen(ticket, id, step, result) => self.frozen(ticket, &id, step, result),
            Input::Passed(ticket, result) => {
                let result = result.map_err(|error| self.explain(error));
                self.answer(ticket, result);
            }
            Input::LastWords(container, exit) => self.exited(&ProcessId::init(container), exit),
            Input::Removed(id) => self.removed(&id),
            Input::Exited(process, exit) => self.exit_seen(process, exit),
            Input::ExitLost(process, error) => self.exit_lost(process, error),
            Input::VmEnded(end) => self.vm_ended(end),
            Input::Released(failures) => self.released(failures),
            Input::Oom(name) => self.oom(name),
            Input::Woken(Wake::Exit(process, exit)) => self.ended(&process, exit),
        }
        std::mem::take(&mut self.effects)
    }

    fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    fn tell(&mut self, event: Event) {
        self.push(Effect::Tell(event));
    }

    fn say(&mut self, line: Line) {
        self.push(Effect::Say(line));
    }

    fn answer(&mut self, ticket: Ticket, result: Result<Reply>) {
        self.push(Effect::Answer(ticket, result));
    }

    /// The running VM.
    fn up(&self) -> Result<Up> {
        match &self.machine {
            Machine::Up { up, .. } => Ok(*up),
            Machine::Ended { end, .. } => Err(Error::VmGone(end.why.to_string())),
            Machine::Absent | Machine::Booting { .. } => {
                Err(Error::VmGone("it was never started".to_owned()))
            }
        }
    }

    /// A container that exists.
    fn container(&self, id: &ContainerId) -> Result<&Container> {
        match self.slots.get(id) {
            Some(Slot::Made(container) | Slot::Leaving(container, Leaving { unknown: false, .. })) => {
                Ok(container)
            }
            Some(_) | None => Err(Error::NoContainer(id.clone())),
        }
    }

    fn container_mut(&mut self, id: &ContainerId) -> Option<&mut Container> {
        match self.slots.get_mut(id) {
            Some(Slot::Made(container) | Slot::Leaving(container, Leaving { unknown: false, .. })) => {
                Some(container)
            }
            Some(_) | None => None,
        }
    }

    /// A process that exists.
    fn process(&self, id: &ProcessId) -> Result<&Process> {
        self.container(&id.container)?.process(id).ok_or_else(|| Error::NoProcess(id.clone()))
    }

    fn process_mut(&mut self, id: &ProcessId) -> Option<&mut Process> {
        self.container_mut(&id.container)?.process_mut(id)
    }

    /// Whether the VM goes with this container: no other is there to stay.
    fn is_last(&self, id: &ContainerId) -> bool {
        let others = self.slots.iter().filter(|(other, _)| *other != id);
        self.sandbox.is_none() && others.into_iter().all(|(_, slot)| matches!(slot, Slot::Leaving(..)))
    }
}
