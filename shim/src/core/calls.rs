//! What engines ask for.

use std::collections::VecDeque;
use std::sync::Arc;

use agent_client::proto::oci::Process as OciProcess;
use guest_spec::member;
use nix::sys::signal::Signal;

use crate::api::{
    Connected, ContainerId, CreateSandboxRequest, Deleted, Error, Exit, KillRequest, NewContainer, ProcessId,
    ProcessInfo, ProcessState, Result, SandboxStarted, SandboxState, SandboxStatus, Status, StdioPaths,
    TerminalSize,
};

use super::message::wrong_state;
use super::{
    After, Call, Core, Effect, Event, For, Leaving, Machine, Making, Pass, Process, Reply, Shutdown, Slot,
    Step, Ticket, Waiting,
};

impl Core {
    pub(super) fn call(&mut self, ticket: Ticket, call: Call) {
        let answered = match call {
            Call::Create(new) => self.create(ticket, new),
            Call::Start(process) => self.start(ticket, &process),
            Call::State(process) => self.state(process).map(Reply::State).map(Some),
            Call::Pids(id) => self.pids(&id).map(Reply::Pids).map(Some),
            Call::Connect(id) => self.connect(&id).map(Reply::Connected).map(Some),
            Call::Kill(request) => self.kill(ticket, request),
            Call::Exec(process, paths, spec) => self.exec(process, paths, spec),
            Call::Freeze(id, step) => self.freeze(ticket, id, step),
            Call::Pass(pass) => self.pass(ticket, pass),
            Call::Wait(process) => self.wait(ticket, &process),
            Call::Delete(process) => self.delete(ticket, &process),
            Call::Shutdown { now } => Ok(self.shut_down(ticket, now)),
            Call::CreateSandbox(request) => self.create_sandbox(request),
            Call::StartSandbox(id) => self.start_sandbox(ticket, id),
            Call::StopSandbox(id) => self.check_sandbox(&id).map(|()| {
                self.stop_then(After::Done(ticket), "the sandbox is stopped");
                None
            }),
            Call::WaitSandbox(id) => self.wait_sandbox(ticket, &id),
            Call::SandboxStatus(id, verbose) => self.sandbox_status(&id, verbose).map(Some),
            Call::ShutdownSandbox(id) => self.check_sandbox(&id).map(|()| self.shut_down(ticket, true)),
        };
        match answered {
            Ok(Some(reply)) => self.answer(ticket, Ok(reply)),
            Ok(None) => {}
            Err(error) => self.answer(ticket, Err(error)),
        }
    }

    /// Takes the container's name; boots the VM where there is none.
    fn create(&mut self, ticket: Ticket, new: Arc<NewContainer>) -> Result<Option<Reply>> {
        let id = new.request.id.clone();
        if self.slots.contains_key(&id) {
            return Err(Error::Exists(ProcessId::init(id)));
        }
        let pod = self.check_pod(&new)?;
        match &mut self.machine {
            _ if self.shutdown == Shutdown::Now => {
                return Err(Error::VmGone("the shim is ending".to_owned()));
            }
            Machine::Up { stopping: false, .. } => self.effects.push(Effect::Make(Arc::clone(&new))),
            Machine::Up { stopping: true, .. } => {
                return Err(Error::VmGone("it is being stopped".to_owned()));
            }
            Machine::Booting { waiting, .. } => waiting.push_back(Waiting::Container(id.clone())),
            Machine::Absent => {
                self.boot(VecDeque::from([Waiting::Container(id.clone())]), For::Container(Arc::clone(&new)));
            }
            Machine::Ended { .. } => return Err(self.up().err().unwrap_or(Error::NoContainer(id))),
        }
        self.pod = self.pod.take().or(pod);
        self.slots.insert(id, Slot::Making(Making { ticket, new, given_up: false }));
        Ok(None)
    }

    /// Refuses a container of another pod, and returns the UID of its own. `start` has sent it to this shim by the same
    /// annotations; but who has the socket can send any.
    fn check_pod(&self, new: &NewContainer) -> Result<Option<String>> {
        let id = &new.request.id;
        let Some(member) = member(&new.spec)? else { return Ok(None) };
        let other = |what: &str, of: &str, served: &str| Error::OtherPod {
            container: id.clone(),
            of: format!("{what} {of}"),
            served: served.to_owned(),
        };
        let sandbox = member.sandbox_of(id.as_str());
        if sandbox != self.id.as_str() {
            return Err(other("sandbox", sandbox, self.id.as_str()));
        }
        match (member.uid, &self.pod) {
            (Some(uid), Some(pod)) if uid != pod => Err(other("the pod with UID", uid, pod)),
            (uid, _) => Ok(uid.map(str::to_owned)),
        }
    }

    pub(super) fn boot(&mut self, waiting: VecDeque<Waiting>, whom: For) {
        self.machine = Machine::Booting { waiting, cancelled: false };
        self.push(Effect::Boot(whom));
    }

    fn start(&mut self, ticket: Ticket, id: &ProcessId) -> Result<Option<Reply>> {
        let process = self.process(id)?;
        if process.starting || process.status.after(Step::Start).is_err() {
            return Err(wrong_state("start", id, state_of(process)));
        }
        self.up()?;
        let Some(process) = self.process_mut(id) else { return Err(Error::NoProcess(id.clone())) };
        process.starting = true;
        let (paths, spec) = (process.paths.clone(), process.spec.clone());
        self.push(Effect::Start(ticket, id.clone(), paths, spec));
        Ok(None)
    }

    fn state(&self, id: ProcessId) -> Result<ProcessState> {
        let process = self.process(&id)?;
        Ok(ProcessState {
            bundle: self.container(&id.container)?.bundle.clone(),
            pid: process.pid,
            status: process.status,
            stdio: process.paths.clone(),
            process: id,
        })
    }

    /// The host sees one process for all of them: QEMU. The first one is there until it is deleted: a containerd that
    /// was restarted takes a task without processes for one that was never made, and deletes it, exit status and all.
    fn pids(&self, id: &ContainerId) -> Result<Vec<ProcessInfo>> {
        let listed = self.container(id)?.processes().filter(|process| {
            process.id.exec.is_none() || matches!(process.status, Status::Running | Status::Paused)
        });
        Ok(listed.map(|process| ProcessInfo { pid: process.pid, exec: process.id.exec.clone() }).collect())
    }

    /// There is an answer without a container of that name as well, for the sandbox and for what is being made: a containerd that
    /// was restarted gives up a shim that has none, and deletes a container that has no process (`core/runtime/v2/shim_load.go`).
    fn connect(&self, id: &ContainerId) -> Result<Connected> {
        let is_making = matches!(self.slots.get(id), Some(Slot::Making(_)));
        let task_pid = match self.container(id) {
            Ok(container) => container.init.pid,
            Err(_) if *id == self.id => self.up().map_or(0, |up| up.pid),
            Err(_) if is_making => 0,
            Err(error) => return Err(error),
        };
        Ok(Connected { shim_pid: std::process::id(), task_pid })
    }

    /// SIGKILL or SIGTERM to the pod's sandbox container is the pod's end: its own is told, then the VM stops. SIGKILL of
    /// any other container's first process reaches all of its processes.
    fn kill(&mut self, ticket: Ticket, request: KillRequest) -> Result<Option<Reply>> {
        let id = request.process.clone();
        let container = self.container(&id.container)?;
        let is_sandbox = container.is_sandbox() && id.exec.is_none();
        let process = container.process(&id).ok_or_else(|| Error::NoProcess(id.clone()))?;
        if process.has_ended() {
            // What containerd understands as: it has ended already.
            return Err(Error::NoProcess(id));
        }
        if request.signal == 0 {
            // CRI-O asks so whether it lives (`IsContainerAlive`, `internal/oci/runtime_vm.go`).
            return Ok(Some(Reply::Done));
        }
        let unknown_to_guest = id.exec.is_some() && process.status == Status::Created && !process.starting;
        let fatal = is_fatal(request.signal);
        if is_sandbox && fatal {
            self.exited(&id, Exit { status: 128 + request.signal, at: self.now });
            self.stop_then(After::Done(ticket), "its sandbox container is killed");
            return Ok(None);
        }
        if unknown_to_guest {
            if fatal {
                self.exited(&id, Exit { status: 128 + request.signal, at: self.now });
            }
            return Ok(Some(Reply::Done));
        }
        self.up()?;
        let kills = request.signal == Signal::SIGKILL as u32;
        if let Some(process) = self.process_mut(&id) {
            process.killed |= kills;
        }
        // containerd ends every exec by a SIGKILL to "all", and means the exec: its own shims pass over the word there.
        let all = id.exec.is_none() && (request.all || kills);
        self.push(Effect::Signal(ticket, KillRequest { all, ..request }));
        Ok(None)
    }

    fn exec(&mut self, id: ProcessId, paths: StdioPaths, spec: Arc<OciProcess>) -> Result<Option<Reply>> {
        let Some(exec) = id.exec.clone() else { return Err(Error::Exists(id)) };
        let container = self.container(&id.container)?;
        if container.init.status != Status::Running {
            return Err(wrong_state("execute a process in", &container.init.id, state_of(&container.init)));
        }
        if container.execs.contains_key(&exec) {
            return Err(Error::Exists(id));
        }
        let size = TerminalSize::early(spec.Terminal, spec.ConsoleSize.Height, spec.ConsoleSize.Width);
        let process = Process { size, ..Process::new(id.clone(), paths, container.init.pid, Some(spec)) };
        if let Some(container) = self.container_mut(&id.container) {
            container.execs.insert(exec, process);
        }
        self.tell(Event::ExecAdded(id));
        Ok(Some(Reply::Done))
    }

    fn freeze(&mut self, ticket: Ticket, id: ContainerId, step: Step) -> Result<Option<Reply>> {
        let init = &self.container(&id)?.init;
        if init.status.after(step).is_err() {
            return Err(wrong_state(step.verb(), &init.id, state_of(init)));
        }
        self.up()?;
        self.push(Effect::Freeze(ticket, id, step));
        Ok(None)
    }

    fn pass(&mut self, ticket: Ticket, pass: Pass) -> Result<Option<Reply>> {
        match &pass {
            Pass::Resize(id, size) => {
                let process = self.process(id)?;
                if process.has_ended() {
                    return Err(wrong_state("resize", id, "stopped"));
                }
                let waits = id.exec.is_some() && process.status == Status::Created;
                self.up()?;
                if waits {
                    // The guest knows it with its start.
                    if let Some(process) = self.process_mut(id) {
                        process.size = Some(*size);
                    }
                    return Ok(Some(Reply::Done));
                }
            }
            // Its streams are the host's.
            Pass::CloseStdin(process) => drop(self.process(process)?),
            Pass::Update(id, _) | Pass::Stats(id) => {
                self.container(id)?;
                self.up()?;
            }
            Pass::Ping(id) => {
                self.check_sandbox(id)?;
                self.up()?;
            }
        }
        self.push(Effect::Pass(ticket, pass));
        Ok(None)
    }

    fn wait(&mut self, ticket: Ticket, id: &ProcessId) -> Result<Option<Reply>> {
        if let Some(exit) = self.process(id)?.exit() {
            return Ok(Some(Reply::Exit(exit)));
        }
        if let Some(process) = self.process_mut(id) {
            process.waiting.push(ticket);
        }
        Ok(None)
    }

    /// Forgets an ended process, or one that was never started. The pod's VM goes with its last container.
    fn delete(&mut self, ticket: Ticket, id: &ProcessId) -> Result<Option<Reply>> {
        if id.exec.is_none() {
            self.give_up(&id.container);
        }
        let process = self.process(id)?;
        let exit = match process.status {
            Status::Stopped(exit) => exit,
            Status::Created if !process.starting => Exit { status: Exit::KILLED, at: self.now },
            Status::Created | Status::Running | Status::Paused => {
                return Err(wrong_state("delete", id, state_of(process)));
            }
        };
        let deleted = Deleted { pid: process.pid, exit };
        match &id.exec {
            Some(exec) => {
                let container = self.container_mut(&id.container);
                let gone = container.and_then(|container| container.execs.remove(exec));
                self.answer_waiting(gone.map(|process| process.waiting).unwrap_or_default(), exit);
                // containerd's own shims tell of no exec's deletion.
                Ok(Some(Reply::Deleted(deleted)))
            }
            None => {
                self.leave(&id.container, deleted, Some(ticket));
                Ok(None)
            }
        }
    }

    /// Notes that the engine waits no longer for a container that is being made: it deletes that, is told that there is none, and
    /// does not ask again.
    fn give_up(&mut self, id: &ContainerId) {
        let Some(Slot::Making(making)) = self.slots.get_mut(id) else { return };
        let Machine::Booting { waiting, .. } = &mut self.machine else {
            making.given_up = true;
            return;
        };
        let is_its = |one: &Waiting| matches!(one, Waiting::Container(other) if other == id);
        let Some(at) = waiting.iter().position(is_its) else { return };
        let gone = waiting.remove(at);
        let is_for_nobody = waiting.is_empty();
        if let Some(gone) = gone {
            self.refuse(gone, given_up());
        }
        if is_for_nobody {
            self.stop("nobody waits for it any more");
        }
    }

    /// Begins a container's removal, or joins the one that is under way.
    fn leave(&mut self, id: &ContainerId, deleted: Deleted, ticket: Option<Ticket>) {
        match self.slots.remove(id) {
            Some(Slot::Made(container)) => {
                self.put_away(
                    id,
                    container,
                    Leaving { deleted, tickets: Vec::from_iter(ticket), unknown: false },
                );
                let (id, is_last) = (id.clone(), self.is_last(id));
                match &self.machine {
                    Machine::Up { stopping: false, .. } if is_last => {
                        self.stop_then(After::Remove(id), "its last container is deleted");
                    }
                    // With nothing left of the VM this container is removed, and only then is its deletion answered.
                    Machine::Ended { released: false, .. } if is_last => self.after.push(After::Remove(id)),
                    Machine::Up { stopping: true, .. } => self.after.push(After::Remove(id)),
                    Machine::Absent
                    | Machine::Booting { .. }
                    | Machine::Up { .. }
                    | Machine::Ended { .. } => {
                        self.push(Effect::Remove(id));
                    }
                }
            }
            Some(Slot::Leaving(container, mut leaving)) => {
                leaving.tickets.extend(ticket);
                self.slots.insert(id.clone(), Slot::Leaving(container, leaving));
            }
            other => {
                if let Some(slot) = other {
                    self.slots.insert(id.clone(), slot);
                }
            }
        }
    }

    fn check_sandbox(&self, id: &ContainerId) -> Result<()> {
        if *id == self.id {
            return Ok(());
        }
        Err(Error::NoSandbox { id: id.clone(), served: self.id.clone() })
    }

    fn create_sandbox(&mut self, request: Arc<CreateSandboxRequest>) -> Result<Option<Reply>> {
        self.check_sandbox(&request.id)?;
        if self.sandbox.is_some() {
            return Err(Error::Exists(ProcessId::init(request.id.clone())));
        }
        self.sandbox = Some(request);
        Ok(Some(Reply::Done))
    }

    fn start_sandbox(&mut self, ticket: Ticket, id: ContainerId) -> Result<Option<Reply>> {
        self.check_sandbox(&id)?;
        let request = self.sandbox.clone().ok_or_else(|| Error::NoContainer(id))?;
        match &mut self.machine {
            Machine::Absent if self.shutdown != Shutdown::Now => {
                self.boot(VecDeque::from([Waiting::Sandbox(ticket)]), For::Sandbox(request));
                Ok(None)
            }
            Machine::Booting { waiting, .. } => {
                waiting.push_back(Waiting::Sandbox(ticket));
                Ok(None)
            }
            Machine::Absent | Machine::Up { .. } | Machine::Ended { .. } => {
                let up = self.up()?;
                Ok(Some(Reply::SandboxStarted(SandboxStarted { pid: up.pid, created_at: up.since })))
            }
        }
    }

    fn wait_sandbox(&mut self, ticket: Ticket, id: &ContainerId) -> Result<Option<Reply>> {
        self.check_sandbox(id)?;
        match &self.machine {
            Machine::Absent => Err(Error::VmGone("it was never started".to_owned())),
            Machine::Ended { end, .. } => Ok(Some(Reply::Exit(end.exit()))),
            Machine::Booting { .. } | Machine::Up { .. } => {
                self.watching.push(ticket);
                Ok(None)
            }
        }
    }

    fn sandbox_status(&self, id: &ContainerId, verbose: bool) -> Result<Reply> {
        self.check_sandbox(id)?;
        let (pid, state, created_at, end) = match &self.machine {
            Machine::Absent | Machine::Booting { .. } => (0, SandboxState::NotReady, None, None),
            Machine::Up { up, .. } => (up.pid, SandboxState::Ready, Some(up.since), None),
            Machine::Ended { end, since, .. } => (0, SandboxState::NotReady, Some(*since), Some(end)),
        };
        let facts = end.filter(|_| verbose).map(|end| ("ended".to_owned(), end.why.to_string()));
        let exited_at = end.map(|end| end.at);
        let info = facts.into_iter().collect();
        Ok(Reply::SandboxStatus(SandboxStatus { pid, state, info, created_at, exited_at }))
    }
}

/// What the one who asked for a container hears, if he still listens.
pub(super) fn given_up() -> Error {
    Error::failed("create the container", "it was deleted while it was being created")
}

/// Whether a signal is sent to end a process for good.
pub(super) fn is_fatal(signal: u32) -> bool {
    [Signal::SIGKILL as u32, Signal::SIGTERM as u32].contains(&signal)
}

/// The word for error messages.
pub(super) fn state_of(process: &Process) -> &'static str {
    if process.starting && process.status == Status::Created {
        "being started"
    } else {
        process.status.name()
    }
}
