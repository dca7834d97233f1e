//! A host, a machine and a guest that are played. The guest treats streams and ends of processes as kata-agent 4.1.0
//! does (`src/agent/src/rpc.rs`: `do_read_stream`, `do_wait_process`, `do_signal_process`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use agent_client::proto::oci::{LinuxResources, Process as OciProcess};
use agent_client::{AgentError, Call, Code, ProcessRef};
use guest_spec::{Role, TerminationLog};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{sleep, timeout};

use crate::api::{ContainerId, Error, NewContainer, Result, TerminalSize};
use crate::core::{End, For, Made, Up};
use crate::machine::{Guest, Host, Life, Machine, Output};
use crate::metrics::ContainerStats;

/// What a boot takes, one after the other.
pub const STAGES: [&str; 5] =
    ["claim the host", "start QEMU", "reach its monitor", "reach the agent", "set up"];
/// How long one stage takes, and every answer of the guest.
const STEP: Duration = Duration::from_millis(10);

type Answer<T> = std::result::Result<T, AgentError>;

/// Something of the host that is taken for as long as this lives.
struct Claim(Arc<AtomicUsize>);

impl Claim {
    fn take(taken: &Arc<AtomicUsize>) -> Self {
        taken.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(taken))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Settings {
    fail_at: Option<usize>,
    refuse: bool,
    cries: bool,
    release: Duration,
}

/// A host that counts what is taken of it.
#[derive(Clone)]
pub struct FakeHost {
    taken: Arc<AtomicUsize>,
    settings: Arc<Mutex<Settings>>,
    stage: watch::Sender<usize>,
    machine: Arc<Mutex<Option<FakeVm>>>,
}

impl Default for FakeHost {
    fn default() -> Self {
        Self {
            taken: Arc::default(),
            settings: Arc::default(),
            stage: watch::channel(0).0,
            machine: Arc::default(),
        }
    }
}

impl FakeHost {
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    pub fn fail_at(&self, stage: Option<usize>) {
        self.settings.lock().unwrap().fail_at = stage;
    }

    pub fn refuse_containers(&self, refuse: bool) {
        self.settings.lock().unwrap().refuse = refuse;
    }

    /// The guest of the next VM tells of want of memory whenever it is asked.
    pub fn cry_for_memory(&self) {
        self.settings.lock().unwrap().cries = true;
    }

    /// How often it was.
    pub fn cries(&self) -> usize {
        self.guest().cries.load(Ordering::Relaxed)
    }

    pub fn release_takes(&self, time: Duration) {
        self.settings.lock().unwrap().release = time;
    }

    /// Waits until a boot is in this stage.
    pub async fn reached(&self, stage: usize) {
        let mut watched = self.stage.subscribe();
        watched.wait_for(|now| *now > stage).await.unwrap();
    }

    pub fn guest(&self) -> FakeGuest {
        self.machine.lock().unwrap().as_ref().unwrap().guest.clone()
    }

    /// QEMU dies, if there is one.
    pub fn die(&self) {
        if let Some(machine) = &*self.machine.lock().unwrap() {
            machine.end(false);
        }
    }
}

impl Host for FakeHost {
    type Machine = FakeVm;

    async fn boot(&self, _: For, cancelled: oneshot::Receiver<()>) -> Result<FakeVm> {
        let stages = async {
            let mut claims = Vec::new();
            for (number, stage) in STAGES.iter().enumerate() {
                claims.push(Claim::take(&self.taken));
                self.stage.send_replace(number + 1);
                sleep(STEP).await;
                if self.settings.lock().unwrap().fail_at == Some(number) {
                    return Err(Error::failed(*stage, "it is told to fail"));
                }
            }
            Ok(claims)
        };
        let claims = tokio::select! {
            booted = stages => booted?,
            _ = cancelled => return Err(Error::VmGone("given up".to_owned())),
        };
        let machine = FakeVm {
            guest: FakeGuest {
                cries_for_memory: self.settings.lock().unwrap().cries,
                ..FakeGuest::default()
            },
            taken: Arc::clone(&self.taken),
            settings: Arc::clone(&self.settings),
            ended: watch::channel(None).0,
            released: watch::channel(false).0,
        };
        *self.machine.lock().unwrap() = Some(machine.clone());
        let driven = machine.clone();
        tokio::spawn(async move {
            let _ = driven.ended.subscribe().wait_for(Option::is_some).await;
            let time = driven.settings.lock().unwrap().release;
            sleep(time).await;
            drop(claims);
            driven.released.send_replace(true);
        });
        Ok(machine)
    }
}

/// A VM that holds its host's claims until a while after its end.
#[derive(Clone)]
pub struct FakeVm {
    guest: FakeGuest,
    taken: Arc<AtomicUsize>,
    settings: Arc<Mutex<Settings>>,
    ended: watch::Sender<Option<End>>,
    released: watch::Sender<bool>,
}

impl FakeVm {
    fn end(&self, asked: bool) {
        self.guest.gone.send_replace(true);
        let end = End { why: "QEMU ended".into(), asked, at: SystemTime::now() };
        self.ended.send_if_modified(|now| now.is_none().then(|| *now = Some(end)).is_some());
    }
}

/// What a container holds.
pub struct FakeHoldings(#[expect(dead_code, reason = "held for its drop")] Claim);

impl Machine for FakeVm {
    type Guest = FakeGuest;
    type Holdings = FakeHoldings;

    fn up(&self) -> Up {
        Up { pid: 7, since: SystemTime::UNIX_EPOCH }
    }

    fn guest(&self) -> FakeGuest {
        self.guest.clone()
    }

    /// A kilobyte is what it has.
    fn fit(&self, _: &ContainerId, limits: &mut LinuxResources) -> Result<()> {
        match limits.Memory.Limit {
            ..=1024 => Ok(()),
            more => Err(Error::InvalidRequest {
                field: "resources",
                reason: format!("{more} are more than 1024"),
            }),
        }
    }

    async fn make(&self, new: Arc<NewContainer>) -> Result<(Made, FakeHoldings)> {
        let claim = Claim::take(&self.taken);
        self.guest.answer().await?;
        if self.settings.lock().unwrap().refuse {
            return Err(Error::failed("create it", "it is told to refuse"));
        }
        let name = new.request.id.as_str();
        self.guest.add(name, name);
        let role = if name == "pod" { Role::Sandbox } else { Role::PodContainer };
        let log = || TerminationLog { host: "/log".into(), below: None, destination: "/dev/log".to_owned() };
        let last_words = (name != "pod").then(|| Arc::new(log()));
        Ok((Made { role, shares_pids: false, last_words }, FakeHoldings(claim)))
    }

    async fn last_words(&self, _: &ContainerId, _: &TerminationLog) {
        let _ = self.guest.answer().await;
    }

    async fn remove(&self, _: ContainerId, holdings: FakeHoldings) {
        let _ = self.guest.answer().await;
        drop(holdings);
    }

    async fn stop(&self) {
        sleep(STEP).await;
        self.end(true);
    }

    async fn ended(&self) -> End {
        let mut watched = self.ended.subscribe();
        let end = watched.wait_for(Option::is_some).await.unwrap();
        end.clone().unwrap()
    }

    async fn released(&self) -> Vec<String> {
        self.released.subscribe().wait_for(|released| *released).await.unwrap();
        Vec::new()
    }
}

/// Who else holds a process's streams when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Child {
    #[default]
    None,
    Quiet,
    /// It writes all the time.
    Chatty,
}

#[derive(Default)]
struct Process {
    output: VecDeque<u8>,
    status: Option<i32>,
    child: Child,
    ended: Arc<Notify>,
    more: Arc<Notify>,
    input_ended: bool,
    /// It has put itself into a cgroup below its container's.
    below: bool,
}

/// A guest whose processes do what the test says.
#[derive(Clone)]
pub struct FakeGuest {
    processes: Arc<Mutex<BTreeMap<(String, String), Process>>>,
    gone: watch::Sender<bool>,
    /// Whether its policy refuses the signal that asks whether a process lives.
    pub is_dumb: Arc<AtomicBool>,
    /// Whether it tells of want of memory without end, and how often it did.
    cries_for_memory: bool,
    cries: Arc<AtomicUsize>,
    /// How many of these signals are answered too late.
    pub late: Arc<AtomicUsize>,
    /// Whether it starts no execs.
    pub refuses_execs: Arc<AtomicBool>,
}

impl Default for FakeGuest {
    fn default() -> Self {
        Self {
            processes: Arc::default(),
            gone: watch::channel(false).0,
            is_dumb: Arc::default(),
            cries_for_memory: false,
            cries: Arc::default(),
            late: Arc::default(),
            refuses_execs: Arc::default(),
        }
    }
}

fn refused(code: Code, message: &str) -> AgentError {
    let call = Call { rpc: "Fake", container: None };
    AgentError::Refused { call, code, message: message.to_owned() }
}

impl FakeGuest {
    /// The time an answer takes; an error once the VM is gone.
    async fn answer(&self) -> Answer<()> {
        let lost = || AgentError::Disconnected {
            call: Call { rpc: "Fake", container: None },
            reason: "gone".to_owned(),
        };
        tokio::select! {
            biased;
            () = self.until_gone() => Err(lost()),
            () = sleep(STEP) => Ok(()),
        }
    }

    async fn until_gone(&self) {
        let _ = self.gone.subscribe().wait_for(|gone| *gone).await;
    }

    fn add(&self, container: &str, exec: &str) {
        let name = (container.to_owned(), exec.to_owned());
        self.processes.lock().unwrap().insert(name, Process::default());
    }

    fn with<T>(&self, name: (&str, &str), act: impl FnOnce(&mut Process) -> T) -> Answer<T> {
        let mut processes = self.processes.lock().unwrap();
        let process = processes.get_mut(&(name.0.to_owned(), name.1.to_owned()));
        process.map(act).ok_or_else(|| refused(Code::NOT_FOUND, "no such process"))
    }

    pub fn print(&self, name: (&str, &str), data: &[u8]) {
        let _ = self.with(name, |process| {
            process.output.extend(data);
            process.more.notify_waiters();
        });
    }

    /// A process leaves its streams to a child when it ends.
    pub fn leaves(&self, name: (&str, &str), child: Child) {
        let _ = self.with(name, |process| process.child = child);
    }

    /// A process puts itself into a cgroup below its container's.
    pub fn goes_below(&self, name: (&str, &str)) {
        let _ = self.with(name, |process| process.below = true);
    }

    /// Whether nobody writes to its input any more.
    pub fn input_ended(&self, name: (&str, &str)) -> bool {
        self.with(name, |process| process.input_ended).unwrap()
    }

    pub fn end(&self, name: (&str, &str), status: i32) {
        let _ = self.with(name, |process| {
            process.status.get_or_insert(status);
            process.ended.notify_waiters();
        });
    }

    /// What is in the container's own cgroup; or in its PID namespace, which goes with its first process.
    fn kill_all(&self, container: &str, namespace: bool) {
        let mut processes = self.processes.lock().unwrap();
        let all = processes.iter_mut().filter(|((name, _), _)| name == container);
        for (_, process) in all.filter(|(_, process)| namespace || !process.below) {
            process.child = Child::None;
            process.status.get_or_insert(137);
            process.ended.notify_waiters();
            process.more.notify_waiters();
        }
    }

    /// What a read finds at once: data, the end, or nothing yet.
    fn look(&self, name: (&str, &str), output: Output, length: usize) -> Answer<Option<Vec<u8>>> {
        self.with(name, |process| {
            if output == Output::Stdout {
                if process.child == Child::Chatty {
                    process.output.extend(b"noise\n");
                }
                let length = length.min(process.output.len());
                if length > 0 {
                    return Some(process.output.drain(..length).collect());
                }
            }
            (process.status.is_some() && process.child == Child::None).then(Vec::new)
        })
    }
}

impl Guest for FakeGuest {
    async fn start(&self, _: &str) -> Answer<()> {
        self.answer().await
    }

    async fn exec(&self, process: ProcessRef<'_>, _: OciProcess) -> Answer<()> {
        self.answer().await?;
        if self.refuses_execs.load(Ordering::Relaxed) {
            return Err(refused(Code::INTERNAL, "no such program"));
        }
        self.add(process.container, process.exec);
        Ok(())
    }

    async fn signal(&self, process: ProcessRef<'_>, signal: u32) -> Answer<()> {
        self.answer().await?;
        let name = (process.container, process.exec);
        self.with(name, |_| ())?;
        if signal == 9 && process.container == process.exec {
            self.kill_all(process.container, true);
        } else if signal == 9 || signal == 15 {
            self.end(name, 128 + i32::try_from(signal).unwrap());
        }
        Ok(())
    }

    async fn signal_all(&self, container: &str, _: u32) -> Answer<()> {
        self.answer().await?;
        self.kill_all(container, false);
        Ok(())
    }

    async fn lives(&self, process: ProcessRef<'_>) -> Life {
        if self.answer().await.is_err() || self.is_dumb.load(Ordering::Relaxed) {
            return Life::Untold;
        }
        if self.late.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |late| late.checked_sub(1)).is_ok() {
            sleep(Duration::from_secs(15)).await;
            return Life::Late;
        }
        match self.with((process.container, process.exec), |process| process.status.is_none()) {
            Ok(true) => Life::Lives,
            Ok(false) => Life::Gone,
            Err(_) => Life::Untold,
        }
    }

    async fn wait(&self, process: ProcessRef<'_>) -> Answer<i32> {
        let name = (process.container, process.exec);
        loop {
            let ended = self.with(name, |process| Arc::clone(&process.ended))?;
            let ended = ended.notified();
            if let Some(status) = self.with(name, |process| process.status)? {
                self.answer().await?;
                let forgotten =
                    self.processes.lock().unwrap().remove(&(name.0.to_owned(), name.1.to_owned()));
                if let Some(process) = forgotten {
                    process.ended.notify_waiters();
                }
                return Ok(status);
            }
            tokio::select! {
                () = ended => {}
                () = self.until_gone() => self.answer().await?,
            }
        }
    }

    async fn resize(&self, _: ProcessRef<'_>, _: TerminalSize) -> Answer<()> {
        self.answer().await
    }

    async fn freeze(&self, _: &str, _: bool) -> Answer<()> {
        self.answer().await
    }

    async fn update(&self, _: &str, _: LinuxResources) -> Answer<()> {
        self.answer().await
    }

    async fn stats(&self, _: &str) -> Answer<ContainerStats> {
        self.answer().await.map(|()| ContainerStats::default())
    }

    async fn check(&self) -> Answer<()> {
        self.answer().await
    }

    async fn out_of_memory(&self) -> Answer<String> {
        if self.cries_for_memory && !*self.gone.borrow() {
            self.cries.fetch_add(1, Ordering::Relaxed);
            return Ok("none of ours".to_owned());
        }
        self.until_gone().await;
        Err(refused(Code::INTERNAL, "gone"))
    }

    fn read_size(&self) -> usize {
        16 << 10
    }

    /// A read that waits when the process ends is answered half a second later; one that comes after the end waits for
    /// whoever holds the stream.
    async fn read(&self, process: ProcessRef<'_>, output: Output, length: usize) -> Answer<Vec<u8>> {
        let name = (process.container, process.exec);
        self.answer().await?;
        let (ended, more) =
            self.with(name, |process| (Arc::clone(&process.ended), Arc::clone(&process.more)))?;
        let ended = ended.notified();
        let read = async {
            loop {
                let more = more.notified();
                if let Some(data) = self.look(name, output, length)? {
                    return Ok(data);
                }
                tokio::select! {
                    () = more => {}
                    () = self.until_gone() => self.answer().await?,
                }
            }
        };
        tokio::pin!(read);
        tokio::select! {
            biased;
            data = &mut read => data,
            () = ended => timeout(Duration::from_millis(500), read).await.unwrap_or_else(|_| Ok(Vec::new())),
        }
    }

    async fn write(&self, _: ProcessRef<'_>, _: Vec<u8>) -> Answer<()> {
        self.answer().await
    }

    async fn close_stdin(&self, process: ProcessRef<'_>) -> Answer<()> {
        self.answer().await?;
        self.with((process.container, process.exec), |process| process.input_ended = true)
    }
}
