//! The one task that owns the [`Core`] and carries out what it wants done.
//!
//! An effect that takes time is a task of its own; its outcome comes back through the inbox and is the core's next
//! input. Nothing is decided here.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agent_client::AgentError;
use agent_client::proto::oci::Process as OciProcess;
use nix::sys::signal::Signal;
use slog::{Logger, error, info, warn};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;

use super::bundle;
use super::follow::{Followed, follow};
use super::kill::kill;
use crate::api::{ContainerId, Error, KillRequest, ProcessId, Result, StdioPaths, one_line};
use crate::core::{Call, Core, Effect, Event, Input, Line, Made, Pass, Reply, Step, Ticket};
use crate::machine::{Guest, Host, Machine, name};
use crate::resident::drop_idle_code;
use crate::stdio::Stdio;

/// How long after a start the shim is idle.
const SETTLED: Duration = Duration::from_secs(1);
/// How soon after one out-of-memory event the guest is asked for the next: it decides how many there are.
const OOM_PAUSE: Duration = Duration::from_millis(20);

/// A call and where its answer goes.
pub type Asked = (Call, oneshot::Sender<Result<Reply>>);

/// What the driver tells the rest of the shim.
pub struct Outlets {
    /// Takes the events for containerd, in their order.
    pub events: Box<dyn FnMut(Event) + Send>,
    /// containerd's namespace.
    pub namespace: String,
    /// The shim's log.
    pub log: Logger,
    /// Set to true when the shim shall end.
    pub end: watch::Sender<bool>,
}

/// What a task of the driver's brings back.
enum Outcome<M: Machine> {
    Booted(Result<M>),
    Made(ContainerId, Result<(Made, M::Holdings)>),
    /// Needs nothing of the driver.
    Plain(Input),
}

/// Owner of everything that belongs to one pod.
pub struct Driver<H: Host> {
    core: Core,
    host: Arc<H>,
    outlets: Outlets,
    machine: Option<H::Machine>,
    /// Dropped or told to end a boot.
    boot: Option<oneshot::Sender<()>>,
    holdings: BTreeMap<ContainerId, <H::Machine as Machine>::Holdings>,
    streams: HashMap<ProcessId, Arc<Stdio<<H::Machine as Machine>::Guest>>>,
    callers: BTreeMap<Ticket, oneshot::Sender<Result<Reply>>>,
    next: u64,
    outcomes: mpsc::UnboundedSender<Outcome<H::Machine>>,
}

impl<H: Host> Driver<H> {
    /// Starts the task; it ends when nobody can call any more.
    pub fn start(core: Core, host: H, outlets: Outlets) -> mpsc::UnboundedSender<Asked> {
        let (calls, asked) = mpsc::unbounded_channel();
        let (outcomes, inbox) = mpsc::unbounded_channel();
        let driver = Self {
            core,
            host: Arc::new(host),
            outlets,
            machine: None,
            boot: None,
            holdings: BTreeMap::new(),
            streams: HashMap::new(),
            callers: BTreeMap::new(),
            next: 0,
            outcomes,
        };
        tokio::spawn(driver.run(asked, inbox));
        calls
    }

    async fn run(
        mut self,
        mut asked: mpsc::UnboundedReceiver<Asked>,
        mut inbox: mpsc::UnboundedReceiver<Outcome<H::Machine>>,
    ) {
        loop {
            let input = tokio::select! {
                Some(outcome) = inbox.recv() => self.take_in(outcome),
                call = asked.recv() => match call {
                    Some((call, caller)) => {
                        let ticket = Ticket(self.next);
                        self.next += 1;
                        self.callers.insert(ticket, caller);
                        Input::Call(ticket, call)
                    }
                    None => return,
                },
            };
            for effect in self.core.apply(SystemTime::now(), input) {
                self.carry_out(effect);
            }
        }
    }

    /// Keeps what an outcome brings, and tells the core of it.
    fn take_in(&mut self, outcome: Outcome<H::Machine>) -> Input {
        match outcome {
            Outcome::Plain(input) => input,
            Outcome::Booted(result) => Input::Booted(result.map(|machine| {
                let up = machine.up();
                self.watch(&machine);
                self.machine = Some(machine);
                up
            })),
            Outcome::Made(id, result) => {
                let result = result.map(|(made, holdings)| {
                    self.holdings.insert(id.clone(), holdings);
                    made
                });
                Input::Made(id, result)
            }
        }
    }

    /// Waits for a machine's end, and passes the guest's out-of-memory events on until then.
    fn watch(&self, machine: &H::Machine) {
        let (watched, outcomes) = (machine.clone(), self.outcomes.clone());
        tokio::spawn(async move {
            let _ = outcomes.send(Outcome::Plain(Input::VmEnded(watched.ended().await)));
            let _ = outcomes.send(Outcome::Plain(Input::Released(watched.released().await)));
        });
        let (guest, outcomes) = (machine.guest(), self.outcomes.clone());
        tokio::spawn(async move {
            while let Ok(name) = guest.out_of_memory().await {
                if outcomes.send(Outcome::Plain(Input::Oom(name))).is_err() {
                    return;
                }
                sleep(OOM_PAUSE).await;
            }
        });
    }

    /// Runs `work`; its outcome is an input.
    fn later(&self, work: impl Future<Output = Outcome<H::Machine>> + Send + 'static) {
        let outcomes = self.outcomes.clone();
        tokio::spawn(async move {
            let _ = outcomes.send(work.await);
        });
    }

    /// An outcome that is there at once.
    fn now(&self, input: Input) {
        let _ = self.outcomes.send(Outcome::Plain(input));
    }

    /// Asks the guest, where there is one.
    fn ask<T, F>(
        &self,
        question: impl FnOnce(Guests<H>) -> F,
        input: impl FnOnce(Result<T>) -> Input + Send + 'static,
    ) where
        F: Future<Output = std::result::Result<T, AgentError>> + Send + 'static,
    {
        match &self.machine {
            None => self.now(input(Err(Error::VmGone("it was never started".to_owned())))),
            Some(machine) => {
                let answer = question(machine.guest());
                self.later(async move { Outcome::Plain(input(answer.await.map_err(Error::from))) });
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Answer(ticket, result) => {
                if let Some(caller) = self.callers.remove(&ticket) {
                    let _ = caller.send(result); // or it has hung up
                }
            }
            Effect::Tell(event) => (self.outlets.events)(event),
            Effect::Say(line) => say(&self.outlets.log, line),
            Effect::Boot(whom) => {
                let (cancel, cancelled) = oneshot::channel();
                self.boot = Some(cancel);
                let host = Arc::clone(&self.host);
                self.later(async move { Outcome::Booted(host.boot(whom, cancelled).await) });
            }
            Effect::CancelBoot => drop(self.boot.take()),
            Effect::Make(new) => {
                let Some(machine) = self.machine.clone() else { return };
                self.later(async move {
                    let id = new.request.id.clone();
                    Outcome::Made(id, machine.make(new).await)
                });
            }
            Effect::Start(ticket, process, paths, spec) => self.start_process(ticket, process, &paths, spec),
            Effect::Follow(process) => self.follow(process),
            Effect::Signal(ticket, request) => {
                let told = request.clone();
                self.ask(
                    |guest| async move {
                        let KillRequest { process, signal, all } = &request;
                        match all {
                            true if *signal == Signal::SIGKILL as u32 => {
                                kill(&guest, &process.container).await
                            }
                            true => guest.signal_all(process.container.as_str(), *signal).await,
                            false => guest.signal(name(process), *signal).await,
                        }
                    },
                    move |result| Input::Signalled(ticket, told, result),
                );
            }
            Effect::Resize(id, size) => {
                let Some(machine) = &self.machine else { return };
                let guest = machine.guest();
                tokio::spawn(async move {
                    // The process may have ended by now.
                    let _ = guest.resize(name(&id), size).await;
                });
            }
            Effect::KillRest(id) => {
                let Some(machine) = &self.machine else { return };
                let guest = machine.guest();
                tokio::spawn(async move {
                    // One that is not carried out is made up for by the container's removal.
                    let _ = guest.signal_all(id.as_str(), Signal::SIGKILL as u32).await;
                });
            }
            Effect::NoteOom(bundle) => {
                if let Err(error) = bundle::note_oom(&bundle) {
                    warn!(self.outlets.log, "CRI-O does not learn that memory ran out";
                        "bundle" => bundle.display().to_string(), "error" => one_line(&error));
                }
            }
            Effect::Freeze(ticket, id, step) => {
                let told = id.clone();
                self.ask(
                    |guest| async move { guest.freeze(id.as_str(), step == Step::Pause).await },
                    move |result| Input::Frozen(ticket, told, step, result),
                );
            }
            Effect::Pass(ticket, pass) => self.pass(ticket, pass),
            Effect::CloseStreams(process) => drop(self.streams.remove(&process)),
            Effect::LastWords(id, exit, to) => match self.machine.clone() {
                Some(machine) => self.later(async move {
                    machine.last_words(&id, &to).await;
                    Outcome::Plain(Input::LastWords(id, exit))
                }),
                None => self.now(Input::LastWords(id, exit)),
            },
            Effect::Remove(id) => match (self.machine.clone(), self.holdings.remove(&id)) {
                (Some(machine), Some(holdings)) => self.later(async move {
                    machine.remove(id.clone(), holdings).await;
                    Outcome::Plain(Input::Removed(id))
                }),
                _ => self.now(Input::Removed(id)),
            },
            Effect::Stop => {
                let Some(machine) = self.machine.clone() else { return };
                tokio::spawn(async move { machine.stop().await });
            }
            Effect::Wake(after, wake) => self.later(async move {
                sleep(after).await;
                Outcome::Plain(Input::Woken(wake))
            }),
            Effect::Settle => {
                tokio::spawn(async {
                    sleep(SETTLED).await;
                    drop_idle_code();
                });
            }
            Effect::End => drop(self.outlets.end.send_replace(true)),
        }
    }

    /// Opens the engine's ends of the streams, has the process started, and sets the streams in motion.
    fn start_process(
        &mut self,
        ticket: Ticket,
        id: ProcessId,
        paths: &StdioPaths,
        spec: Option<Arc<OciProcess>>,
    ) {
        let Some(machine) = &self.machine else { return };
        let opened =
            Stdio::open(paths, name(&id), &self.outlets.namespace, machine.guest(), &self.outlets.log);
        let stdio = match opened {
            Ok(stdio) => Arc::new(stdio),
            Err(error) => {
                let error = Error::failed(format!("open the streams of {id}"), error);
                return self.now(Input::Started(ticket, id, Err(error)));
            }
        };
        self.streams.insert(id.clone(), Arc::clone(&stdio));
        let Some(machine) = &self.machine else { return };
        let (guest, process) = (machine.guest(), id.clone());
        self.later(async move {
            let started = async {
                let unready = |error| Error::failed(format!("hand the output of {process} on"), error);
                stdio.ready().await.map_err(unready)?;
                match spec {
                    None => guest.start(process.container.as_str()).await?,
                    Some(spec) => guest.exec(name(&process), (*spec).clone()).await?,
                }
                stdio.pump();
                Ok::<_, Error>(())
            };
            let result = started.await;
            Outcome::Plain(Input::Started(ticket, id, result))
        });
    }

    fn follow(&self, id: ProcessId) {
        let (Some(machine), Some(stdio)) = (&self.machine, self.streams.get(&id)) else { return };
        let (guest, stdio) = (machine.guest(), Arc::clone(stdio));
        let outcomes = self.outcomes.clone();
        tokio::spawn(async move {
            // Without an exit the agent is gone: then the VM's end is the process's.
            let Some(Followed { exit, lost }) = follow(&guest, &id, &stdio).await else { return };
            if let Some(error) = lost {
                let _ = outcomes.send(Outcome::Plain(Input::ExitLost(id.clone(), one_line(&error))));
            }
            let _ = outcomes.send(Outcome::Plain(Input::Exited(id, exit)));
        });
    }

    fn pass(&self, ticket: Ticket, pass: Pass) {
        let done = move |result: Result<()>| Input::Passed(ticket, result.map(|()| Reply::Done));
        match pass {
            Pass::CloseStdin(process) => {
                if let Some(stdio) = self.streams.get(&process) {
                    stdio.close_stdin();
                }
                self.now(done(Ok(())));
            }
            Pass::Resize(process, size) => {
                self.ask(|guest| async move { guest.resize(name(&process), size).await }, done);
            }
            Pass::Update(id, mut limits) => {
                let fitted = self.machine.as_ref().map(|machine| machine.fit(&id, &mut limits));
                if let Some(Err(error)) = fitted {
                    return self.now(done(Err(error)));
                }
                self.ask(|guest| async move { guest.update(id.as_str(), *limits).await }, done);
            }
            Pass::Ping(_) => self.ask(|guest| async move { guest.check().await }, done),
            Pass::Stats(id) => self.ask(
                |guest| async move { guest.stats(id.as_str()).await },
                move |result| Input::Passed(ticket, result.map(|stats| Reply::Stats(Box::new(stats)))),
            ),
        }
    }
}

type Guests<H> = <<H as Host>::Machine as Machine>::Guest;

fn say(log: &Logger, line: Line) {
    match line {
        Line::Started(process) => info!(log, "process started"; "process" => %process),
        Line::Ended(process, status) => {
            info!(log, "process ended"; "process" => %process, "status" => status)
        }
        Line::ExitLost(process, error) => {
            warn!(log, "exit status is lost"; "process" => %process, "error" => error);
        }
        Line::EndsWithVm(process, why) => {
            warn!(log, "process ends with its VM"; "process" => %process, "reason" => %why);
        }
        Line::Oom(id, false) => warn!(log, "container ran out of memory"; "container" => %id),
        Line::Oom(id, true) => {
            warn!(log, "container ran out of memory; this is said no more of it"; "container" => %id);
        }
        Line::UnknownOom(name) => {
            warn!(log, "guest tells of a container that is none of this pod's"; "container" => name);
        }
        Line::Stopping(why) => info!(log, "stopping the VM"; "reason" => why),
        Line::NotKilled(id, error) => {
            warn!(log, "guest does not kill its only container, stopping the VM"; "container" => %id, "error" => error);
        }
        Line::NotReleased(failure) => {
            error!(log, "could not release a claim on the host"; "error" => failure);
        }
        Line::Released => info!(log, "all that the VM had on the host is given back"),
    }
}
