//! What follows from the outcome of an effect.

use std::collections::BTreeMap;
use std::sync::Arc;

use guest_spec::member;
use nix::sys::signal::Signal;
use shared_types::cri::Engine;

use crate::api::{
    ContainerId, Error, Exit, KillRequest, NewContainer, ProcessId, Result, SandboxStarted, Status,
    TerminalSize, one_line,
};

use super::calls::{self, is_fatal, state_of};
use super::message::wrong_state;
use super::{
    After, Container, Core, Effect, Event, For, Line, Machine, Made, Making, Process, Reply, Slot, Step,
    Ticket, Up, Waiting,
};

/// How often containerd is told that one container ran out of memory: a guest may say it as often as it likes.
const MAX_OOMS: u32 = 100;
/// How often the log says that the guest told of a container that is none.
const MAX_STRANGERS: u32 = 10;

impl Core {
    pub(super) fn booted(&mut self, result: Result<Up>) {
        let Machine::Booting { waiting, cancelled } = &mut self.machine else { return };
        let (mut waiting, cancelled) = (std::mem::take(waiting), *cancelled);
        let was_given_up = || Error::VmGone("its boot was given up".to_owned());
        match result {
            Ok(up) => {
                self.machine = Machine::Up { up, stopping: false };
                for one in waiting {
                    match (one, cancelled) {
                        (one, true) => self.refuse(one, was_given_up()),
                        (Waiting::Container(id), false) => {
                            if let Some(Slot::Making(making)) = self.slots.get(&id) {
                                self.effects.push(Effect::Make(Arc::clone(&making.new)));
                            }
                        }
                        (Waiting::Sandbox(ticket), false) => {
                            let started = SandboxStarted { pid: up.pid, created_at: up.since };
                            self.answer(ticket, Ok(Reply::SandboxStarted(started)));
                            self.push(Effect::Settle);
                        }
                    }
                }
                if cancelled {
                    self.stop("it was asked to while it booted");
                }
            }
            Err(error) => {
                self.machine = Machine::Absent;
                if let Some(first) = waiting.pop_front() {
                    self.refuse(first, error);
                }
                if cancelled {
                    waiting.drain(..).for_each(|one| self.refuse(one, was_given_up()));
                    return self.gone();
                }
                // Each of the others asked for a VM of its own right; it may have what the first lacked.
                match waiting.front().and_then(|next| self.whom(next)) {
                    Some(whom) => self.boot(waiting, whom),
                    None => self.gone(),
                }
            }
        }
    }

    fn whom(&self, waiting: &Waiting) -> Option<For> {
        match waiting {
            Waiting::Container(id) => match self.slots.get(id) {
                Some(Slot::Making(making)) => Some(For::Container(Arc::clone(&making.new))),
                _ => None,
            },
            Waiting::Sandbox(_) => self.sandbox.clone().map(For::Sandbox),
        }
    }

    /// Refuses one who waited for a boot.
    pub(super) fn refuse(&mut self, waiting: Waiting, error: Error) {
        match waiting {
            Waiting::Sandbox(ticket) => self.answer(ticket, Err(error)),
            Waiting::Container(id) => {
                if let Some(Slot::Making(making)) = self.slots.remove(&id) {
                    self.answer(making.ticket, Err(error));
                }
            }
        }
    }

    pub(super) fn made(&mut self, id: &ContainerId, result: Result<Made>) {
        let Some(Slot::Making(Making { ticket, new, given_up })) = self.slots.remove(id) else { return };
        match (result, self.up()) {
            (Ok(made), Ok(up)) if given_up => {
                self.discard(id, container(&new, made, up.pid), true);
                self.answer(ticket, Err(calls::given_up()));
            }
            (Ok(made), Ok(up)) => {
                self.slots.insert(id.clone(), Slot::Made(container(&new, made, up.pid)));
                self.tell(Event::Created(new, up.pid));
                self.answer(ticket, Ok(Reply::Pid(up.pid)));
            }
            // The VM ended meanwhile: the container was there for nobody.
            (Ok(made), Err(error)) => {
                let container = container(&new, made, 0);
                self.discard(id, container, true);
                self.answer(ticket, Err(error));
            }
            (Err(error), _) => {
                let cut_off = matches!(&error, Error::Guest(cause) if cause.is_disconnected());
                let is_up = matches!(self.machine, Machine::Up { .. });
                if self.is_last(id) {
                    // The VM was there for this container only.
                    self.stop_then(After::Refuse(ticket, error), "its only container could not be created");
                } else if cut_off && is_up {
                    // The VM's end, which comes, says more.
                    self.after.push(After::Refuse(ticket, error));
                } else {
                    let error = self.explain(error);
                    self.answer(ticket, Err(error));
                }
            }
        }
    }

    /// An agent that went away in the middle of a call says less than the VM's end does.
    pub(super) fn explain(&self, error: Error) -> Error {
        match &self.machine {
            Machine::Ended { end, .. } if !end.asked => {
                Error::CutOff { what: one_line(&error), why: end.why.to_string() }
            }
            _ => error,
        }
    }

    pub(super) fn started(&mut self, ticket: Ticket, id: &ProcessId, result: Result<()>) {
        let (pid, size) = match self.take_start(id, result) {
            Ok(started) => started,
            Err(error) => {
                // They were opened before the guest was asked, and nobody is told of an end.
                self.push(Effect::CloseStreams(id.clone()));
                let error = self.explain(error);
                return self.answer(ticket, Err(error));
            }
        };
        self.tell(Event::Started(id.clone(), pid));
        self.say(Line::Started(id.clone()));
        self.push(Effect::Follow(id.clone()));
        if let Some(size) = size {
            self.push(Effect::Resize(id.clone(), size));
        }
        if id.exec.is_none() {
            self.push(Effect::Settle);
        }
        self.answer(ticket, Ok(Reply::Pid(pid)));
    }

    /// Makes a process one that runs; returns its process id, and the size that its terminal is to have.
    fn take_start(&mut self, id: &ProcessId, result: Result<()>) -> Result<(u32, Option<TerminalSize>)> {
        let process = self.process_mut(id).ok_or_else(|| Error::NoProcess(id.clone()))?;
        process.starting = false;
        result?;
        // A VM that ended meanwhile has ended the process too.
        process.take(Step::Start).map_err(|_| wrong_state("start", id, state_of(process)))?;
        process.spec = None;
        Ok((process.pid, process.size.take()))
    }

    pub(super) fn signalled(&mut self, ticket: Ticket, request: &KillRequest, result: Result<()>) {
        let id = &request.process;
        let waits =
            self.process(id).is_ok_and(|process| process.status == Status::Created && !process.starting);
        match result {
            Ok(()) => {
                // The guest tells of no end before a start.
                if waits && is_fatal(request.signal) {
                    self.exited(id, Exit { status: 128 + request.signal, at: self.now });
                }
                self.answer(ticket, Ok(Reply::Done));
            }
            // An agent that does not carry out a SIGKILL is no reason for the container to live on.
            Err(error)
                if request.signal == Signal::SIGKILL as u32
                    && self.container(&id.container).is_ok()
                    && self.is_last(&id.container)
                    && self.up().is_ok() =>
            {
                self.say(Line::NotKilled(id.container.clone(), one_line(&error)));
                self.stop_then(After::Done(ticket), "its only container cannot be killed");
            }
            Err(error) => {
                let error = self.explain(error);
                self.answer(ticket, Err(error));
            }
        }
    }

    pub(super) fn frozen(&mut self, ticket: Ticket, id: &ContainerId, step: Step, result: Result<()>) {
        let taken = match (result, self.container_mut(id)) {
            (Err(error), _) => Err(error),
            (Ok(()), None) => Err(Error::NoContainer(id.clone())),
            (Ok(()), Some(container)) => {
                let init = &mut container.init;
                let taken =
                    init.take(step).map_err(|_| wrong_state(step.verb(), &init.id, init.status.name()));
                if taken.is_ok() {
                    // An exec that has ended, or is not started, stays as it is.
                    for exec in container.execs.values_mut() {
                        let _ = exec.take(step);
                    }
                }
                taken
            }
        };
        if taken.is_ok() {
            self.tell(match step {
                Step::Pause => Event::Paused(id.clone()),
                _ => Event::Resumed(id.clone()),
            });
        }
        let result = taken.map(|()| Reply::Done).map_err(|error| self.explain(error));
        self.answer(ticket, result);
    }

    pub(super) fn removed(&mut self, id: &ContainerId) {
        // One that became the last meanwhile is answered when nothing is left, as every last one is.
        if self.sandbox.is_none() && self.slots.len() == 1 && !self.is_gone() {
            return self.stop_then(After::Forget(id.clone()), "its last container is deleted");
        }
        let Some(Slot::Leaving(_, leaving)) = self.slots.remove(id) else { return };
        if !leaving.tickets.is_empty() {
            self.tell(Event::Deleted(id.clone(), leaving.deleted));
        }
        for ticket in leaving.tickets {
            self.answer(ticket, Ok(Reply::Deleted(leaving.deleted)));
        }
        self.end_if_done();
    }

    /// A process that the guest saw end. One that nobody here killed gets a moment, in which the guest may say that its
    /// memory ran out: the agent learns of the two in either order, containerd expects the reason first.
    pub(super) fn exit_seen(&mut self, id: ProcessId, exit: Exit) {
        let Some(process) = self.process_mut(&id) else { return };
        process.seen = Some(exit);
        if id.exec.is_none() && exit.status == Exit::KILLED && !process.killed {
            return self.push(Effect::Wake(super::end::OOM_GRACE, super::Wake::Exit(id, exit)));
        }
        self.ended(&id, exit);
    }

    /// Says that a process's exit status is lost, unless its end is known already: the sandbox container's is, when it ends
    /// with its sandbox.
    pub(super) fn exit_lost(&mut self, id: ProcessId, error: String) {
        if self.process(&id).is_ok_and(|process| process.exit().is_none()) {
            self.say(Line::ExitLost(id, error));
        }
    }

    /// Tells of a process's end. For a container's first process the termination message is fetched before, because whoever
    /// learns of the end reads the message next. It is not fetched where the VM's end has told of the process's already.
    pub(super) fn ended(&mut self, id: &ProcessId, exit: Exit) {
        let Ok(container) = self.container(&id.container) else { return };
        let is_wanted = id.exec.is_none() && container.init.exit().is_none();
        match container.made.last_words.clone().filter(|_| is_wanted) {
            Some(log) => self.push(Effect::LastWords(id.container.clone(), exit, log)),
            None => self.exited(id, exit),
        }
    }

    pub(super) fn oom(&mut self, name: String) {
        // What the guest names must be one of ours.
        let id = ContainerId::new(name.as_str()).ok().filter(|id| self.container(id).is_ok());
        let Some((id, container)) = id.and_then(|id| Some((id.clone(), self.container_mut(&id)?))) else {
            self.strangers = self.strangers.saturating_add(1);
            if self.strangers <= MAX_STRANGERS {
                self.say(Line::UnknownOom(agent_client::sanitize(&name)));
            }
            return;
        };
        // One that comes after the end is told all the same: CRI makes it the end's reason.
        if container.ooms >= MAX_OOMS {
            return;
        }
        container.ooms += 1;
        let last = container.ooms == MAX_OOMS;
        let note = (container.is_crios && container.ooms == 1).then(|| container.bundle.clone());
        if let Some(bundle) = note {
            self.push(Effect::NoteOom(bundle));
        }
        self.say(Line::Oom(id.clone(), last));
        self.tell(Event::Oom(id));
    }
}

fn container(new: &NewContainer, made: Made, pid: u32) -> Container {
    let NewContainer { request, spec } = new;
    let size = spec.process().as_ref().and_then(|process| {
        let size = process.console_size()?;
        let [height, width] = [size.height(), size.width()].map(|cells| u32::try_from(cells).unwrap_or(0));
        TerminalSize::early(process.terminal().unwrap_or(false), height, width)
    });
    let init = Process {
        size,
        ..Process::new(ProcessId::init(request.id.clone()), request.stdio.clone(), pid, None)
    };
    let member = member(spec).ok().flatten();
    let is_crios = member.is_some_and(|member| member.engine == Engine::Crio);
    Container { bundle: request.bundle.clone(), made, init, execs: BTreeMap::new(), is_crios, ooms: 0 }
}
