//! A VM's boot in typed stages:
//!
//! ```text
//! Planned --claim--> Claimed --spawn--> Spawned --qmp--> QmpReady --agent--> AgentReady --run--> Vm
//! ```
//!
//! A stage owns what was taken until then. Going on consumes it; a failure gives everything back that it owns before
//! the error is returned, so a caller has nothing to undo. A stage that is dropped (its caller was cancelled) kills
//! QEMU and closes what it holds; the record of the rest stays in the state directory for `delete`.

mod claim;
mod confidential;
mod error;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use agent_client::Agent;
use host_claims::accel;
use host_claims::net::Endpoint;
use host_claims::process::Identity;
use host_claims::vsock::{VHOST_USER_SOCKET, Vsock};
use jail::{Jail, Role, Socket, apart};
use shared_types::one_line;
use slog::{Logger, error, info};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use vmm_config::config::NodeConfig;
use vmm_config::deadline::{BootDeadlines, Ground};
use vmm_config::image::ImageManifest;
use vmm_config::qemu::OLDEST;
use vmm_config::request::PodRequest;
use vmm_config::spec::{FdRole, VmSpec};
use vmm_config::tee::HostTee;

use crate::claims::Claims;
use crate::devices::{DevicesRequest, raise_memory_lock};
use crate::disks::Disks;
use crate::ended::{LastWords, Signs};
use crate::gate::Gate;
use crate::lines::{Tail, follow};
use crate::lost;
use crate::progress::{Activity, Limits, within};
use crate::qemu::{Qemu, SpawnError};
use crate::qmp::{Event, Qmp, QmpError};
use crate::state::{Room, StateDir};
use crate::vm::{Parts, Vm};

use claim::{claim_all, endpoint, find_qemu, own_user};
pub use confidential::ConfidentialError;
pub use error::{BootError, Failure, Phase};

/// The first pause between two tries to reach the agent; it grows by half each time.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause: what it can cost at most in time to agent ready.
const LONGEST_PAUSE: Duration = Duration::from_millis(40);
/// How long one try may go unanswered before another is made beside it.
const ANOTHER_TRY: Duration = Duration::from_secs(3);
/// How long a QEMU that is already going is waited for, and its console.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Everything that decides a VM.
#[derive(Debug)]
pub struct Request {
    /// containerd's namespace.
    pub namespace: String,
    /// The sandbox's id.
    pub sandbox: String,
    /// The node's configuration.
    pub config: NodeConfig,
    /// The confidential computing that the host offers.
    pub tee: HostTee,
    /// The guest image's manifest.
    pub image: ImageManifest,
    /// Sizes and allowed annotations.
    pub pod: PodRequest,
    /// The network namespace that CNI made, where there is one.
    pub netns: Option<PathBuf>,
    /// `cgroupsPath` of the sandbox's OCI spec.
    pub cgroup: Option<String>,
    /// Whether the pod has a memory or CPU limit.
    pub limited: bool,
    /// GPUs and NVSwitches for the VM.
    pub devices: DevicesRequest,
    /// The program that builds QEMU's jail: [`jail::OWN_PROGRAM`], the shim's.
    pub jailer: PathBuf,
    /// The root of all state directories, [`crate::state::ROOT`].
    pub state_root: PathBuf,
}

/// What all stages carry along.
#[derive(Debug)]
struct Common {
    request: Request,
    log: Logger,
    activity: Activity,
    started: Instant,
    ground: Ground,
}

impl Common {
    fn reached(&self, phase: Phase) {
        let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!(self.log, "boot phase"; "phase" => phase.name(), "ms" => ms);
    }

    fn failed(&self, phase: Phase, cause: impl Into<Failure>, last_words: LastWords) -> BootError {
        let cause = cause.into();
        error!(self.log, "boot failed"; "phase" => phase.name(), "error" => one_line(&cause));
        BootError { sandbox: self.request.sandbox.clone(), phase, last_words, cause }
    }
}

/// A pod's VM that is to be; nothing is taken yet.
#[derive(Debug)]
pub struct Planned {
    common: Common,
}

impl Planned {
    /// Starts a boot.
    pub fn new(request: Request, log: &Logger) -> Self {
        let ground = if accel::cpu().is_guest() { Ground::Hypervisor } else { Ground::Hardware };
        let (log, activity, started) = (log.clone(), Activity::default(), Instant::now());
        let common = Common { request, log, activity, started, ground };
        common.reached(Phase::Planned);
        Self { common }
    }

    /// Takes what the VM needs from the host.
    ///
    /// # Errors
    /// Something is not to be had, or the VM does not fit into the pod's cgroup; all is released.
    pub async fn claim(self) -> Result<Claimed, BootError> {
        let Self { common } = self;
        let request = &common.request;
        let failed = |cause: Failure| common.failed(Phase::Claimed, cause, LastWords::default());
        let dir = StateDir::create(&request.state_root, &request.namespace, &request.sandbox, &common.log)
            .await
            .map_err(|error| failed(error.into()))?;
        let mut claims =
            Claims { dir, vsock: None, network: None, cgroup: None, devices: None, scratch: None };
        match claim_all(request, &mut claims, &common.log).await {
            Ok(spec) => {
                common.reached(Phase::Claimed);
                Ok(Claimed { common, claims, spec })
            }
            Err(cause) => {
                let error = failed(cause);
                release(&common.log, claims).await;
                Err(error)
            }
        }
    }
}

/// A VM whose resources are taken.
#[derive(Debug)]
pub struct Claimed {
    common: Common,
    claims: Claims,
    spec: VmSpec,
}

impl Claimed {
    /// Starts QEMU.
    ///
    /// # Errors
    /// It cannot be executed; all is released.
    pub async fn spawn(mut self) -> Result<Spawned, BootError> {
        match self.start_qemu() {
            Ok((qemu, monitor, console, gate)) => {
                let Self { common, claims, spec } = self;
                common.reached(Phase::Spawned);
                Ok(Spawned { common, claims, spec, qemu, monitor, console, gate })
            }
            Err(cause) => {
                let error = self.common.failed(Phase::Spawned, cause, LastWords::default());
                release(&self.common.log, self.claims).await;
                Err(error)
            }
        }
    }

    fn start_qemu(&mut self) -> Result<(Qemu, UnixStream, Tail, Gate), Failure> {
        let (monitor, qemu_monitor) = socket_pair()?;
        let (console, qemu_console) = io::pipe()?;
        let mut ends = Ends {
            monitor: Some(qemu_monitor),
            console: Some(qemu_console.into()),
            claims: &mut self.claims,
        };
        if self.spec.locks_memory() {
            raise_memory_lock(self.spec.memory().size())?;
        }
        let mut fds = Vec::new();
        for (number, role) in self.spec.fds() {
            let fd = ends.take(role)?.ok_or(SpawnError::Descriptors)?;
            fds.push((fd, i32::try_from(number.number()).map_err(|_| SpawnError::Descriptors)?));
        }
        let Common { request, log, activity, .. } = &self.common;
        let console = follow(console.into(), "console", log.clone(), activity.clone());
        let listener = self.claims.vsock.as_mut().and_then(Vsock::take_gate);
        let gate = Gate::hear(listener, log.clone(), activity.clone());
        let args = self.spec.qemu_args();
        let program = &find_qemu(&request.config)?;
        let command = self.jail()?.command(&request.jailer, program)?;
        if let Some(devices) = &mut self.claims.devices {
            devices.hand_over();
        }
        let qemu = apart(|| Qemu::spawn(program, command, &args, fds, log, activity))??;
        let pid = i32::try_from(qemu.pid()).unwrap_or(i32::MAX);
        let identity = Identity::of(pid)?;
        self.claims.dir.update(|record| record.qemu = identity)?;
        Ok((qemu, monitor, console, gate))
    }

    /// Where QEMU runs: it finds what its description says that it opens, and nothing else.
    fn jail(&self) -> Result<Jail, Failure> {
        let request = &self.common.request;
        let opens = self.spec.opens();
        let mut nodes = opens.nodes;
        nodes.extend(request.devices.host.group_nodes(&opens.groups)?);
        let as_named = |path: PathBuf| Socket { source: path.clone(), target: path };
        let mut sockets: Vec<Socket> = opens.sockets.into_iter().map(as_named).collect();
        if let Some(Vsock::User(vsock)) = &self.claims.vsock {
            sockets.push(Socket { source: vsock.vhost_user_socket(), target: VHOST_USER_SOCKET.into() });
        }
        let user = own_user(&request.config, Role::Qemu);
        let jail = Jail::new(user, self.claims.dir.room(Room::Qemu));
        Ok(Jail { read: opens.files, nodes, sockets, vsock: opens.vsock, ..jail })
    }
}

/// The descriptors that QEMU gets, each once.
struct Ends<'a> {
    monitor: Option<OwnedFd>,
    console: Option<OwnedFd>,
    claims: &'a mut Claims,
}

impl Ends<'_> {
    /// `None` where the description asks for what was not claimed, or twice.
    fn take(&mut self, role: FdRole) -> Result<Option<OwnedFd>, Failure> {
        let queue_of = |fds: &[OwnedFd], queue: usize| fds.get(queue)?.try_clone().ok();
        let endpoint = |nic: usize| self.claims.endpoints().get(nic);
        Ok(match role {
            FdRole::Qmp => self.monitor.take(),
            FdRole::Console => self.console.take(),
            FdRole::Vsock => {
                self.claims.vsock.as_ref().and_then(|vsock| vsock.fd()?.try_clone_to_owned().ok())
            }
            FdRole::Tap { nic, queue } => endpoint(nic).and_then(|nic| queue_of(&nic.tap, queue)),
            FdRole::VhostNet { nic, queue } => endpoint(nic).and_then(|nic| queue_of(&nic.vhost, queue)),
            FdRole::Scratch => self.claims.scratch.take(),
            FdRole::Iommu => self.claims.devices.as_ref().map(|devices| devices.iommu()).transpose()?,
            FdRole::Vfio { address } => match &self.claims.devices {
                Some(devices) => devices.node(address)?,
                None => None,
            },
        })
    }
}

/// Our end, and the one for QEMU.
fn socket_pair() -> Result<(UnixStream, OwnedFd), Failure> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}

/// A VM whose QEMU runs.
#[derive(Debug)]
pub struct Spawned {
    common: Common,
    claims: Claims,
    spec: VmSpec,
    qemu: Qemu,
    monitor: UnixStream,
    console: Tail,
    gate: Gate,
}

impl Spawned {
    /// Waits for QEMU's monitor.
    ///
    /// # Errors
    /// QEMU ends, is silent, or is too old; all is released.
    pub async fn qmp(self) -> Result<QmpReady, BootError> {
        let Self { common, claims, spec, mut qemu, monitor, console, gate } = self;
        let descriptors = monitor.as_fd().try_clone_to_owned();
        let (reader, writer) = monitor.into_split();
        let connecting = async {
            let descriptors = StdUnixStream::from(descriptors?);
            let (qmp, events) =
                Qmp::connect(reader, writer, Some(descriptors), common.activity.clone()).await?;
            let found = qmp.version();
            if found.major < OLDEST {
                let program = PathBuf::from(common.request.config.qemu.as_str());
                return Err(Failure::QemuTooOld { program, found });
            }
            Ok((qmp, events))
        };
        match watched(&spec, &common, &mut qemu, &gate, connecting).await {
            Ok((qmp, events)) => {
                common.reached(Phase::Qmp);
                Ok(QmpReady { common, claims, spec, qemu, console, gate, qmp, events })
            }
            Err(cause) => {
                let heard = Heard { console, gate, events: None };
                Err(unwind(&common, Phase::Qmp, cause, qemu, heard, claims).await)
            }
        }
    }
}

/// A VM whose monitor answers.
#[derive(Debug)]
pub struct QmpReady {
    common: Common,
    claims: Claims,
    spec: VmSpec,
    qemu: Qemu,
    console: Tail,
    gate: Gate,
    qmp: Qmp,
    events: mpsc::Receiver<Event>,
}

impl QmpReady {
    /// Waits for the agent.
    ///
    /// # Errors
    /// The guest does not come up, or what answers is not an agent; all is released.
    pub async fn agent(self) -> Result<AgentReady, BootError> {
        let Self { common, claims, spec, mut qemu, console, gate, qmp, events } = self;
        let endpoint = endpoint(&claims);
        let mut last = None;
        let connecting = async {
            match &endpoint {
                Some(endpoint) => {
                    // vhost-device-vsock 0.3.0 serves nobody any more after a try that comes while QEMU sets its queues
                    // up: its worker ends with the error that the unfinished queue gives (`process_rx_queue`). PID 1's
                    // first word came through them.
                    if matches!(endpoint, agent_client::Endpoint::Hybrid { .. }) {
                        gate.speaks().await;
                    }
                    let agent = reach(endpoint, &mut last).await?;
                    // The guest runs, so its firmware has given every bus its number.
                    qmp.check_places(spec.passthrough()).await?;
                    Ok(agent)
                }
                None => Err(Failure::Host("the VM was claimed without a vsock device".to_owned())),
            }
        };
        let connected = watched(&spec, &common, &mut qemu, &gate, connecting).await;
        match connected {
            Ok(agent) => {
                common.reached(Phase::Agent);
                Ok(AgentReady { common, claims, spec, qemu, console, gate, qmp, events, agent })
            }
            Err(mut cause) => {
                if let Failure::Stalled { last: said, .. } = &mut cause {
                    *said = last;
                }
                let heard = Heard { console, gate, events: Some(events) };
                Err(unwind(&common, Phase::Agent, cause, qemu, heard, claims).await)
            }
        }
    }
}

/// Tries until the agent answers; what cannot get better ends the trying.
///
/// An attempt that gets no answer is not given up (see [`agent_client::connect`]) but may be lost, for example where the guest's
/// driver had not finished its start: it stays, and another one is made beside it.
async fn reach(endpoint: &agent_client::Endpoint, last: &mut Option<String>) -> Result<Agent, Failure> {
    let (results, mut outcomes) = mpsc::unbounded_channel();
    let mut pause = FIRST_PAUSE;
    loop {
        let (endpoint, results) = (endpoint.clone(), results.clone());
        tokio::spawn(async move { results.send(agent_client::connect(&endpoint).await) });
        match timeout(ANOTHER_TRY, outcomes.recv()).await {
            Ok(Some(Ok(agent))) => return Ok(agent),
            Ok(Some(Err(error))) if error.is_retryable() => {
                *last = Some(one_line(&error));
                sleep(pause).await;
                pause = (pause * 3 / 2).min(LONGEST_PAUSE);
            }
            Ok(Some(Err(error))) => return Err(error.into()),
            Ok(None) | Err(_) => {}
        }
    }
}

/// A VM whose agent answers.
#[derive(Debug)]
pub struct AgentReady {
    common: Common,
    claims: Claims,
    spec: VmSpec,
    qemu: Qemu,
    console: Tail,
    gate: Gate,
    qmp: Qmp,
    events: mpsc::Receiver<Event>,
    agent: Agent,
}

impl AgentReady {
    /// Sets the sandbox up in the guest with `set_up`, then hands the VM to a task of its own.
    ///
    /// # Errors
    /// `set_up` fails, or QEMU ends meanwhile; all is released.
    pub async fn run<E>(
        self,
        set_up: impl AsyncFnOnce(&Agent, &[Endpoint], &VmSpec) -> Result<(), E>,
    ) -> Result<Vm, BootError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let Self { common, claims, spec, mut qemu, console, gate, qmp, events, agent } = self;
        let setting_up = async {
            let done = set_up(&agent, claims.endpoints(), &spec).await;
            done.map_err(|error| Failure::Guest(error.into()))
        };
        if let Err(cause) = watched(&spec, &common, &mut qemu, &gate, setting_up).await {
            let heard = Heard { console, gate, events: Some(events) };
            return Err(unwind(&common, Phase::Running, cause, qemu, heard, claims).await);
        }
        common.reached(Phase::Running);
        let log = common.log.clone();
        let (disks, devices) = (Disks::default(), spec.passthrough().to_vec());
        Ok(Vm::drive(
            Parts { qemu, qmp, events, console, gate, agent, claims, disks, devices, log },
            common.ground,
        ))
    }
}

/// Runs a phase's work within the boot's limits, as long as QEMU and the host's devices live and the guest goes on.
async fn watched<T>(
    spec: &VmSpec,
    common: &Common,
    qemu: &mut Qemu,
    gate: &Gate,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let deadlines = BootDeadlines::of(spec, common.ground);
    let limits = Limits { stall: deadlines.stall, total: deadlines.total };
    let (stderr, sysfs) = (qemu.stderr().clone(), &common.request.devices.host.sysfs);
    tokio::select! {
        biased;
        // `unwind` says why.
        () = gate.powers_off() => Err(Failure::Refused(String::new())),
        exit = qemu.wait() => Err(Failure::Died(exit)),
        (address, loss) = lost::in_boot(&stderr, spec.passthrough(), sysfs), if !spec.passthrough().is_empty() => {
            Err(Failure::DeviceLost(address, loss))
        }
        done = within(limits, &common.activity, work) => match done {
            Ok(done) => done,
            Err(stall) => Err(Failure::Stalled { stall, acceptance: spec.acceptance(), last: None }),
        },
    }
}

/// What a boot hears of QEMU and the guest.
struct Heard {
    console: Tail,
    gate: Gate,
    events: Option<mpsc::Receiver<Event>>,
}

/// Gives back what a failed stage owns; the error tells what QEMU and the guest said before.
async fn unwind(
    common: &Common,
    phase: Phase,
    cause: Failure,
    mut qemu: Qemu,
    heard: Heard,
    claims: Claims,
) -> BootError {
    let Heard { console, gate, events } = heard;
    // QEMU that is going on its own account gets a moment to say why and with which status.
    let cause = match (cause, timeout(LAST_WORDS, qemu.wait()).await) {
        (Failure::Qmp(QmpError::Closed | QmpError::Io(_)), Ok(exit)) => Failure::Died(exit),
        (cause, _) => cause,
    };
    qemu.kill().await;
    console.ended(LAST_WORDS).await;
    gate.ended(LAST_WORDS).await;
    // A guest that refuses is the cause of all that came with its end.
    let cause = match gate.powered_off() {
        Some(why) => Failure::Refused(why.in_boot(phase)),
        None => cause,
    };
    let mut signs = Signs::default();
    if let Some(mut events) = events {
        while let Ok(event) = events.try_recv() {
            signs.note(&event);
        }
    }
    let last_words = LastWords {
        stderr: qemu.stderr().lines(),
        console: console.lines(),
        guest: gate.lines(),
        powered_off: None,
        panic: signs.panic,
    };
    let error = common.failed(phase, cause, last_words);
    release(&common.log, claims).await;
    error
}

async fn release(log: &Logger, claims: Claims) {
    for failure in claims.release().await {
        error!(log, "could not release a claim on the host"; "error" => failure);
    }
}
