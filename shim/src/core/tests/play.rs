//! A world that carries the core's effects out when it is told to, and watches that its promises are kept.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{Call, Core, Effect, End, Event, Input, Line, Reply, Step, Ticket, Up, Wake};
use super::{EPOCH, id, made};
use crate::api::{ContainerId, Error, Exit, KillRequest, ProcessId, Result};

/// An effect that is under way.
#[derive(Debug)]
pub enum Pending {
    Boot,
    Make(ContainerId),
    Start(Ticket, ProcessId),
    /// A process that runs.
    Exit(ProcessId),
    Signal(Ticket, KillRequest),
    Freeze(Ticket, ContainerId, Step),
    Pass(Ticket),
    LastWords(ContainerId, Exit),
    Remove(ContainerId),
    Stop,
    Release,
    Wake(Wake),
}

/// What containerd knows of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Added,
    Started,
    Exited,
}

/// The core and everything around it.
pub struct World {
    pub core: Core,
    pub pending: Vec<Pending>,
    /// Every answer in its order.
    pub answers: Vec<(Ticket, Result<Reply>)>,
    waiting: BTreeSet<Ticket>,
    next: u64,
    known: BTreeMap<ContainerId, BTreeMap<Option<String>, Known>>,
    cancelled: bool,
    stopping: bool,
    /// Whether the VM, and what it needs, is taken from the host.
    pub vm: bool,
    running: bool,
    /// Containers that hold something.
    pub holding: BTreeSet<ContainerId>,
    pub ended: bool,
    /// The effects of the last input, one word each; two for a line that only a VM's own end may have.
    pub said: Vec<String>,
    /// How often that line was said in all.
    pub ends_with_vm: usize,
}

impl World {
    pub fn new() -> Self {
        Self {
            core: Core::new(id("pod")),
            pending: Vec::new(),
            answers: Vec::new(),
            waiting: BTreeSet::new(),
            next: 0,
            known: BTreeMap::new(),
            cancelled: false,
            stopping: false,
            vm: false,
            running: false,
            holding: BTreeSet::new(),
            ended: false,
            said: Vec::new(),
            ends_with_vm: 0,
        }
    }

    /// An engine asks; the answer goes under the ticket that comes back.
    pub fn call(&mut self, call: Call) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.waiting.insert(ticket);
        self.apply(Input::Call(ticket, call));
        ticket
    }

    /// The answer to a call, once there is one.
    pub fn answer(&self, ticket: Ticket) -> Option<&Result<Reply>> {
        self.answers.iter().find(|(of, _)| *of == ticket).map(|(_, result)| result)
    }

    /// Finishes everything that is under way but the processes, until nothing is.
    pub fn settle(&mut self) {
        while let Some(at) = self.pending.iter().position(|pending| !matches!(pending, Pending::Exit(_))) {
            self.finish(at, true);
        }
    }

    /// Calls, and lets all that follows happen.
    pub fn done(&mut self, call: Call) -> Ticket {
        let ticket = self.call(call);
        self.settle();
        ticket
    }

    /// QEMU dies.
    pub fn die(&mut self) {
        if self.running {
            self.pending.retain(|pending| !matches!(pending, Pending::Stop));
            self.end(false);
        }
    }

    fn end(&mut self, asked: bool) {
        self.running = false;
        self.pending.push(Pending::Release);
        self.apply(Input::VmEnded(End { why: "QEMU ended".into(), asked, at: EPOCH }));
    }

    /// Lets one effect come to its end, well or not.
    pub fn finish(&mut self, at: usize, well: bool) {
        let error = || Error::failed("do it", "it went wrong");
        let done = |well: bool| if well { Ok(()) } else { Err(error()) };
        let input = match self.pending.remove(at) {
            Pending::Boot if well => {
                (self.vm, self.running) = (true, true);
                Input::Booted(Ok(Up { pid: 7, since: EPOCH }))
            }
            Pending::Boot => Input::Booted(Err(error())),
            Pending::Make(name) if well => {
                assert!(self.holding.insert(name.clone()), "{name} holds twice");
                let made = made(&name);
                Input::Made(name, Ok(made))
            }
            Pending::Make(name) => Input::Made(name, Err(error())),
            Pending::Start(ticket, process) => Input::Started(ticket, process, done(well)),
            Pending::Exit(process) => {
                let status = if well { 0 } else { Exit::KILLED };
                Input::Exited(process, Exit { status, at: EPOCH })
            }
            Pending::Signal(ticket, request) => Input::Signalled(ticket, request, done(well)),
            Pending::Freeze(ticket, name, step) => Input::Frozen(ticket, name, step, done(well)),
            Pending::Pass(ticket) => Input::Passed(ticket, done(well).map(|()| Reply::Done)),
            Pending::LastWords(name, exit) => Input::LastWords(name, exit),
            Pending::Remove(name) => {
                self.holding.remove(&name);
                Input::Removed(name)
            }
            Pending::Stop => {
                if self.running {
                    self.end(true);
                }
                return;
            }
            Pending::Release => {
                self.vm = false;
                Input::Released(if well { Vec::new() } else { vec!["a tap".to_owned()] })
            }
            Pending::Wake(wake) => Input::Woken(wake),
        };
        self.apply(input);
    }

    pub fn apply(&mut self, input: Input) {
        self.said.clear();
        for effect in self.core.apply(EPOCH, input) {
            let word = format!("{effect:?}");
            let word = word.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned();
            self.said.push(match &effect {
                Effect::Answer(_, Ok(_)) => "ok".to_owned(),
                Effect::Answer(_, Err(error)) => format!("{:?}", error.code()).to_lowercase(),
                Effect::Tell(event) => format!("{}!", kind(event)),
                Effect::Say(Line::EndsWithVm(..)) => {
                    self.ends_with_vm += 1;
                    "Say EndsWithVm".to_owned()
                }
                _ => word,
            });
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        assert!(
            !self.ended || matches!(effect, Effect::Answer(..) | Effect::CloseStreams(_) | Effect::End),
            "after the end: {effect:?}"
        );
        match effect {
            Effect::Answer(ticket, result) => {
                assert!(self.waiting.remove(&ticket), "{ticket:?} is answered twice");
                self.answers.push((ticket, result));
            }
            Effect::Tell(event) => self.tell(&event),
            Effect::Boot(_) => {
                assert!(!self.vm, "two VMs");
                self.cancelled = false;
                self.pending.push(Pending::Boot);
            }
            Effect::CancelBoot => self.cancelled = true,
            Effect::Make(new) => self.pending.push(Pending::Make(new.request.id.clone())),
            Effect::Start(ticket, process, ..) => self.pending.push(Pending::Start(ticket, process)),
            Effect::Follow(process) => self.pending.push(Pending::Exit(process)),
            Effect::Signal(ticket, request) => self.pending.push(Pending::Signal(ticket, request)),
            Effect::Freeze(ticket, name, step) => self.pending.push(Pending::Freeze(ticket, name, step)),
            Effect::Pass(ticket, _) => self.pending.push(Pending::Pass(ticket)),
            Effect::LastWords(name, exit, _) => self.pending.push(Pending::LastWords(name, exit)),
            Effect::Remove(name) => self.pending.push(Pending::Remove(name)),
            Effect::Stop => {
                assert!(!std::mem::replace(&mut self.stopping, true), "stopped twice");
                self.pending.push(Pending::Stop);
            }
            Effect::Wake(_, wake) => self.pending.push(Pending::Wake(wake)),
            Effect::Say(_)
            | Effect::NoteOom(_)
            | Effect::KillRest(_)
            | Effect::Resize(..)
            | Effect::CloseStreams(_)
            | Effect::Settle => {}
            Effect::End => {
                assert!(!self.vm && self.holding.is_empty(), "ends while {:?} hold something", self.holding);
                self.ended = true;
            }
        }
    }

    /// What containerd relies on: create before start before exit before delete, one exit for each start.
    fn tell(&mut self, event: &Event) {
        let name = event.container().clone();
        if let Event::Created(..) = event {
            let before = self.known.insert(name, BTreeMap::from([(None, Known::Added)]));
            assert!(before.is_none(), "created twice");
            return;
        }
        let Some(processes) = self.known.get_mut(&name) else { panic!("{event:?} of no container") };
        let text = |process: &ProcessId| process.exec.as_ref().map(ToString::to_string);
        match event {
            Event::Created(..) => {}
            Event::ExecAdded(process) => drop(processes.insert(text(process), Known::Added)),
            Event::Started(process, _) => {
                let before = processes.insert(text(process), Known::Started);
                assert_eq!(before, Some(Known::Added), "{event:?}");
            }
            Event::Exited(process, ..) => {
                let before = processes.insert(text(process), Known::Exited);
                assert!(matches!(before, Some(Known::Added | Known::Started)), "{event:?} after {before:?}");
            }
            Event::Deleted(..) => {
                let left = processes.values().filter(|known| **known == Known::Started).count();
                assert_eq!(left, 0, "{event:?} before an exit");
                let is_last = self.core.slots.is_empty() && self.core.sandbox.is_none();
                assert!(!(is_last && self.vm), "the last deletion is told before all is given back");
                self.known.remove(&name);
            }
            Event::Oom(_) => {}
            Event::Paused(_) | Event::Resumed(_) => {
                assert_ne!(processes[&None], Known::Exited, "{event:?} after its exit");
            }
        }
    }

    /// Whether the boot that is under way shall end.
    pub fn boot_is_cancelled(&self) -> bool {
        self.cancelled
    }

    /// All calls have their answer, but for these.
    pub fn unanswered(&self) -> usize {
        self.waiting.len()
    }

    /// Processes that containerd was told of as started and not of their end.
    pub fn open_processes(&self) -> usize {
        self.known.values().flat_map(BTreeMap::values).filter(|known| **known == Known::Started).count()
    }
}

fn kind(event: &Event) -> &'static str {
    match event {
        Event::Created(..) => "created",
        Event::Started(..) => "started",
        Event::ExecAdded(_) => "added",
        Event::Exited(..) => "exited",
        Event::Deleted(..) => "deleted",
        Event::Oom(_) => "oom",
        Event::Paused(_) => "paused",
        Event::Resumed(_) => "resumed",
    }
}
