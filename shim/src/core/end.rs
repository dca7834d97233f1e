//! How processes and the VM end, and who waits for it.
//!
//! The VM's end is told first: every process that is left has ended with it. What the VM had on the host is given back
//! meanwhile, and only when that is done is answered who waits for nothing to be left.

use std::time::Duration;

use crate::api::{ContainerId, Deleted, Error, Exit, ProcessId, Status};

use super::{
    After, Container, Core, Effect, End, Event, Leaving, Line, Machine, Reply, Shutdown, Slot, Step, Ticket,
};

/// How long the end of a first process that nobody here killed waits for a reason.
pub(super) const OOM_GRACE: Duration = Duration::from_millis(500);

impl End {
    /// The end as an exit status: 0 where it was asked for.
    pub fn exit(&self) -> Exit {
        Exit { status: if self.asked { 0 } else { Exit::KILLED }, at: self.at }
    }
}

impl Core {
    /// Notes a process's end and tells everybody. The first end is the one that counts.
    pub(super) fn exited(&mut self, id: &ProcessId, exit: Exit) {
        let Some(container) = self.container_mut(&id.container) else { return };
        let shares_pids = container.made.shares_pids;
        let Some(process) = container.process_mut(id) else { return };
        let seen = process.seen;
        let exit = seen.unwrap_or(exit);
        if process.take(Step::Exit(exit)).is_err() {
            return;
        }
        let (pid, waiting) = (process.pid, std::mem::take(&mut process.waiting));
        self.tell(Event::Exited(id.clone(), pid, exit));
        self.push(Effect::CloseStreams(id.clone()));
        self.answer_waiting(waiting, exit);
        match &self.machine {
            Machine::Ended { end, .. } if !end.asked && seen.is_none() => {
                let why = end.why.clone();
                self.say(Line::EndsWithVm(id.clone(), why));
            }
            _ => self.say(Line::Ended(id.clone(), exit.status)),
        }
        // In a namespace of its own all would have gone with it.
        if shares_pids && id.exec.is_none() && matches!(self.machine, Machine::Up { stopping: false, .. }) {
            self.push(Effect::KillRest(id.container.clone()));
        }
    }

    pub(super) fn answer_waiting(&mut self, waiting: Vec<Ticket>, exit: Exit) {
        for ticket in waiting {
            self.answer(ticket, Ok(Reply::Exit(exit)));
        }
    }

    pub(super) fn vm_ended(&mut self, end: End) {
        let Machine::Up { up, .. } = &self.machine else { return };
        let (since, at) = (up.since, end.at);
        self.machine = Machine::Ended { end: end.clone(), since, released: false };
        let processes: Vec<ProcessId> = self
            .slots
            .values()
            .flat_map(|slot| match slot {
                Slot::Made(container) | Slot::Leaving(container, _) => {
                    container.processes().map(|process| process.id.clone()).collect()
                }
                Slot::Making(..) => Vec::new(),
            })
            .collect();
        for process in processes {
            self.exited(&process, Exit { status: Exit::KILLED, at });
        }
        let watching = std::mem::take(&mut self.watching);
        self.answer_waiting(watching, end.exit());
    }

    pub(super) fn released(&mut self, failures: Vec<String>) {
        let Machine::Ended { released, .. } = &mut self.machine else { return };
        *released = true;
        if failures.is_empty() {
            self.say(Line::Released);
        }
        for failure in failures {
            self.say(Line::NotReleased(failure));
        }
        self.gone();
    }

    /// Stops the VM, where there is one; `then` follows when nothing is left of it.
    pub(super) fn stop_then(&mut self, then: After, why: &'static str) {
        self.after.push(then);
        self.stop(why);
    }

    /// Stops the VM, or its boot.
    pub(super) fn stop(&mut self, why: &'static str) {
        match &mut self.machine {
            Machine::Absent | Machine::Ended { released: true, .. } => self.gone(),
            // Both are on their way.
            Machine::Ended { released: false, .. }
            | Machine::Booting { cancelled: true, .. }
            | Machine::Up { stopping: true, .. } => {}
            Machine::Booting { cancelled, .. } => {
                *cancelled = true;
                self.push(Effect::CancelBoot);
            }
            Machine::Up { stopping, .. } => {
                *stopping = true;
                self.say(Line::Stopping(why));
                self.push(Effect::Stop);
            }
        }
    }

    /// Nothing is left of the VM, or there is none.
    pub(super) fn gone(&mut self) {
        for then in std::mem::take(&mut self.after) {
            match then {
                After::Done(ticket) => self.answer(ticket, Ok(Reply::Done)),
                After::Refuse(ticket, error) => {
                    let error = self.explain(error);
                    self.answer(ticket, Err(error));
                }
                After::Remove(id) => self.push(Effect::Remove(id)),
                After::Forget(id) => self.removed(&id),
            }
        }
        for ticket in std::mem::take(&mut self.watching) {
            self.answer(ticket, Err(Error::VmGone("it did not start".to_owned())));
        }
        self.end_if_done();
    }

    /// Ends the shim: with `now` at once, else as soon as it has no container left. containerd asks once for a pod, with
    /// the deletion of its sandbox container, and that may come before the others' when they all died.
    pub(super) fn shut_down(&mut self, ticket: Ticket, now: bool) -> Option<Reply> {
        let alone = self.sandbox.is_none();
        if now || (alone && self.slots.is_empty()) {
            self.shutdown = Shutdown::Now;
            self.stop_then(After::Done(ticket), "the shim is told to end");
            return None;
        }
        if alone && self.shutdown == Shutdown::No {
            self.shutdown = Shutdown::WithLastContainer;
        }
        Some(Reply::Done)
    }

    /// Whether nothing of a VM is there.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self.machine, Machine::Absent | Machine::Ended { released: true, .. })
    }

    /// Ends the shim when it shall and nothing is left: containers that nobody deleted are removed before.
    pub(super) fn end_if_done(&mut self) {
        if self.shutdown == Shutdown::WithLastContainer && self.sandbox.is_none() && self.slots.is_empty() {
            self.shutdown = Shutdown::Now;
        }
        if self.shutdown != Shutdown::Now || !self.is_gone() {
            return;
        }
        let left: Vec<ContainerId> = self.slots.keys().cloned().collect();
        for id in left {
            match self.slots.remove(&id) {
                Some(Slot::Made(container)) => self.discard(&id, container, false),
                Some(other) => drop(self.slots.insert(id, other)),
                None => {}
            }
        }
        if self.slots.is_empty() {
            self.push(Effect::End);
        }
    }

    /// Removes a container that nobody asks about any more.
    pub(super) fn discard(&mut self, id: &ContainerId, container: Container, unknown: bool) {
        let exit = container.init.exit().unwrap_or(Exit { status: Exit::KILLED, at: self.now });
        let deleted = Deleted { pid: container.init.pid, exit };
        self.put_away(id, container, Leaving { deleted, tickets: Vec::new(), unknown });
        self.push(Effect::Remove(id.clone()));
    }

    /// Makes a container one that leaves. Whatever of it still runs ends with that.
    pub(super) fn put_away(&mut self, id: &ContainerId, mut container: Container, leaving: Leaving) {
        let running: Vec<ProcessId> = container
            .processes()
            .filter(|process| matches!(process.status, Status::Running | Status::Paused))
            .map(|process| process.id.clone())
            .collect();
        let mut waiting = Vec::new();
        for process in container.execs.values_mut().chain([&mut container.init]) {
            if process.status == Status::Created {
                // Nobody was told that it started, so nobody is told that it ended.
                process.status = Status::Stopped(leaving.deleted.exit);
                waiting.append(&mut process.waiting);
            }
        }
        let exit = leaving.deleted.exit;
        self.slots.insert(id.clone(), Slot::Leaving(container, leaving));
        for process in running {
            self.exited(&process, Exit { status: Exit::KILLED, at: self.now });
        }
        self.answer_waiting(waiting, exit);
    }
}
