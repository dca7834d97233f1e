//! The agent's calls, typed, each with its deadline.

use std::time::Duration;

use protobuf::{Message, MessageField};

use crate::client::{Agent, context_for};
use crate::error::{AgentError, Call};
use crate::framing::MAX_ANSWER;
use crate::proto::health::health_check_response::ServingStatus;
use crate::proto::health::{CheckRequest, VersionCheckResponse};
use crate::proto::oci::{LinuxResources, Process};
use crate::proto::types::{ARPNeighbor, Interface, Route};
use crate::proto::{agent as msg, csi};

/// Health check right after connect.
const CHECK: Option<Duration> = Some(Duration::from_secs(5));
/// Calls that only look something up or poke a process.
const QUICK: Option<Duration> = Some(Duration::from_secs(15));
/// Calls that mount, configure the network or start a process.
const SETUP: Option<Duration> = Some(Duration::from_secs(60));
/// CreateContainer: mounts all layers, and waits up to 100 s for a GPU's CDI file.
const CREATE: Option<Duration> = Some(Duration::from_secs(180));
/// CreateContainer with an image that the guest pulls first: as long as kata-agent waits for the image (4.1.0,
/// `src/agent/src/config.rs`), and [`CREATE`] for the rest.
const PULL: Option<Duration> = Some(Duration::from_secs(1200 + 180));
/// Calls that end when the workload wants them to.
const ENDLESS: Option<Duration> = None;

/// The driver of a storage that is an image which the guest pulls (kata-agent 4.1.0, `src/agent/src/storage/image_pull_handler.rs`);
/// engines call such a volume so, too.
pub const GUEST_PULL: &str = "image_guest_pull";

/// Most that is read of a stream in one call, in bytes: twice what a pipe holds, and half of what an answer may have.
pub const MAX_STREAM_CHUNK: usize = MAX_ANSWER / 2;

/// A process in the guest: a container's first one, or one that was added by exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessRef<'a> {
    /// The container's id.
    pub container: &'a str,
    /// The exec id; for the first process it is the container's id again.
    pub exec: &'a str,
}

impl<'a> ProcessRef<'a> {
    /// The container's first process.
    pub fn init(container: &'a str) -> Self {
        Self { container, exec: container }
    }

    /// A process that was started by `exec_process`.
    pub fn exec(container: &'a str, exec: &'a str) -> Self {
        Self { container, exec }
    }
}

macro_rules! call {
    ($agent:ident.$client:ident.$method:ident, $name:literal, $container:expr, $deadline:expr, $request:expr) => {{
        let request = $request;
        let call = Call { rpc: $name, container: $container.map(str::to_string) };
        let rpc = $agent.shared.$client.$method(context_for($deadline), &request);
        $agent.run(call, request.compute_size(), $deadline, rpc).await
    }};
}

/// Expands to methods that take the request message, and to methods whose message holds only a container id.
macro_rules! methods {
    ($($(#[$doc:meta])* $method:ident, $name:literal, $deadline:expr, $request:ident -> $answer:ty;)*) => {$(
        $(#[$doc])*
        pub async fn $method(&self, request: msg::$request) -> Result<$answer, AgentError> {
            call!(self.service.$method, $name, None::<&str>, $deadline, request)
        }
    )*};
    ($($(#[$doc:meta])* $method:ident, $name:literal, $deadline:expr, $request:ident(container) -> $answer:ty;)*) => {$(
        $(#[$doc])*
        pub async fn $method(&self, container: &str) -> Result<$answer, AgentError> {
            let request = msg::$request { container_id: container.to_string(), ..Default::default() };
            call!(self.service.$method, $name, Some(container), $deadline, request)
        }
    )*};
}

/// The agent itself and the sandbox.
impl Agent {
    /// Asks for the agent's health; fails with [`AgentError::NotServing`] until it serves.
    pub async fn check(&self) -> Result<(), AgentError> {
        let answer = call!(self.health.check, "Check", None::<&str>, CHECK, CheckRequest::default())?;
        match answer.status.enum_value() {
            Ok(ServingStatus::SERVING) => Ok(()),
            _ => Err(AgentError::NotServing),
        }
    }

    /// Versions of the agent and of its contract.
    pub async fn version(&self) -> Result<VersionCheckResponse, AgentError> {
        call!(self.health.version, "Version", None::<&str>, QUICK, CheckRequest::default())
    }

    methods! {
        /// Creates the pod's sandbox; comes before any container.
        create_sandbox, "CreateSandbox", SETUP, CreateSandboxRequest -> msg::Empty;
        /// Memory block size, hotplug support, agent version and handlers.
        get_guest_details, "GetGuestDetails", QUICK, GuestDetailsRequest -> msg::GuestDetailsResponse;
        /// Waits for CPUs and memory to come online.
        online_cpu_mem, "OnlineCPUMem", SETUP, OnlineCPUMemRequest -> msg::Empty;
        /// Writes one chunk of a file, a directory or a symlink below the shared directory.
        copy_file, "CopyFile", SETUP, CopyFileRequest -> msg::Empty;
        /// Remounts ephemeral storages, with a new size for example.
        update_ephemeral_mounts, "UpdateEphemeralMounts", SETUP, UpdateEphemeralMountsRequest -> msg::Empty;
        /// Sets the guest's clock.
        set_guest_date_time, "SetGuestDateTime", QUICK, SetGuestDateTimeRequest -> msg::Empty;
        /// Swap on a file.
        add_swap_path, "AddSwapPath", SETUP, AddSwapPathRequest -> msg::Empty;
        /// Fill state of a volume.
        get_volume_stats, "GetVolumeStats", QUICK, VolumeStatsRequest -> csi::VolumeStatsResponse;
        /// Grows a volume's file system.
        resize_volume, "ResizeVolume", SETUP, ResizeVolumeRequest -> msg::Empty;
        /// A piece of diagnosis, such as a container's termination log.
        get_diagnostic_data, "GetDiagnosticData", QUICK, GetDiagnosticDataRequest -> msg::GetDiagnosticDataResponse;
    }

    /// Ends the sandbox; the agent stops serving soon after.
    pub async fn destroy_sandbox(&self) -> Result<(), AgentError> {
        call!(
            self.service.destroy_sandbox,
            "DestroySandbox",
            None::<&str>,
            SETUP,
            msg::DestroySandboxRequest::default()
        )
        .map(drop)
    }

    /// Replaces the guest's policy.
    pub async fn set_policy(&self, policy: String) -> Result<(), AgentError> {
        let request = msg::SetPolicyRequest { policy, ..Default::default() };
        call!(self.service.set_policy, "SetPolicy", None::<&str>, SETUP, request).map(drop)
    }

    /// Mixes `data` into the guest's entropy pool.
    pub async fn reseed_random_dev(&self, data: Vec<u8>) -> Result<(), AgentError> {
        let request = msg::ReseedRandomDevRequest { data, ..Default::default() };
        call!(self.service.reseed_random_dev, "ReseedRandomDev", None::<&str>, QUICK, request).map(drop)
    }

    /// Waits, without a deadline, until the kernel kills a process of a container for want of memory;
    /// returns the container's id as the guest names it.
    pub async fn get_oom_event(&self) -> Result<String, AgentError> {
        call!(
            self.service.get_oom_event,
            "GetOOMEvent",
            None::<&str>,
            ENDLESS,
            msg::GetOOMEventRequest::default()
        )
        .map(|answer| answer.container_id)
    }
}

/// The guest's network.
impl Agent {
    /// Configures the interface that has this one's MAC address; returns it as it is then.
    pub async fn update_interface(&self, interface: Interface) -> Result<Interface, AgentError> {
        let request =
            msg::UpdateInterfaceRequest { interface: MessageField::some(interface), ..Default::default() };
        call!(self.service.update_interface, "UpdateInterface", None::<&str>, SETUP, request)
    }

    /// Replaces the guest's routes; returns what is set then.
    pub async fn update_routes(&self, routes: Vec<Route>) -> Result<Vec<Route>, AgentError> {
        let routes = MessageField::some(msg::Routes { Routes: routes, ..Default::default() });
        let request = msg::UpdateRoutesRequest { routes, ..Default::default() };
        call!(self.service.update_routes, "UpdateRoutes", None::<&str>, SETUP, request)
            .map(|answer| answer.Routes)
    }

    /// Adds permanent neighbour entries.
    pub async fn add_arp_neighbors(&self, neighbors: Vec<ARPNeighbor>) -> Result<(), AgentError> {
        let neighbors =
            MessageField::some(msg::ARPNeighbors { ARPNeighbors: neighbors, ..Default::default() });
        let request = msg::AddARPNeighborsRequest { neighbors, ..Default::default() };
        call!(self.service.add_arp_neighbors, "AddARPNeighbors", None::<&str>, SETUP, request).map(drop)
    }

    /// The guest's interfaces.
    pub async fn list_interfaces(&self) -> Result<Vec<Interface>, AgentError> {
        call!(
            self.service.list_interfaces,
            "ListInterfaces",
            None::<&str>,
            QUICK,
            msg::ListInterfacesRequest::default()
        )
        .map(|answer| answer.Interfaces)
    }

    /// The guest's routes.
    pub async fn list_routes(&self) -> Result<Vec<Route>, AgentError> {
        call!(self.service.list_routes, "ListRoutes", None::<&str>, QUICK, msg::ListRoutesRequest::default())
            .map(|answer| answer.Routes)
    }
}

/// Containers and their processes.
impl Agent {
    /// Mounts a container's storages and creates it; its first process waits for `start_container`.
    pub async fn create_container(&self, request: msg::CreateContainerRequest) -> Result<(), AgentError> {
        let container = request.container_id.clone();
        let is_pulled = request.storages.iter().any(|storage| storage.driver == GUEST_PULL);
        let patience = if is_pulled { PULL } else { CREATE };
        call!(self.service.create_container, "CreateContainer", Some(container.as_str()), patience, request)
            .map(drop)
    }

    methods! {
        /// Lets a created container's first process run.
        start_container, "StartContainer", SETUP, StartContainerRequest(container) -> msg::Empty;
        /// Resource use of a container.
        stats_container, "StatsContainer", QUICK, StatsContainerRequest(container) -> msg::StatsContainerResponse;
        /// Freezes a container.
        pause_container, "PauseContainer", QUICK, PauseContainerRequest(container) -> msg::Empty;
        /// Thaws a container.
        resume_container, "ResumeContainer", QUICK, ResumeContainerRequest(container) -> msg::Empty;
    }

    /// Removes a container with what it mounted; the guest itself gives up after `timeout`
    /// (whole seconds; zero is "no limit" to the agent).
    pub async fn remove_container(&self, container: &str, timeout: Duration) -> Result<(), AgentError> {
        let request = msg::RemoveContainerRequest {
            container_id: container.to_string(),
            timeout: u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX),
            ..Default::default()
        };
        let deadline = SETUP.map(|least| least.max(timeout + Duration::from_secs(5)));
        call!(self.service.remove_container, "RemoveContainer", Some(container), deadline, request).map(drop)
    }

    /// Sets a running container's resource limits.
    pub async fn update_container(
        &self,
        container: &str,
        resources: LinuxResources,
    ) -> Result<(), AgentError> {
        let request = msg::UpdateContainerRequest {
            container_id: container.to_string(),
            resources: MessageField::some(resources),
            ..Default::default()
        };
        call!(self.service.update_container, "UpdateContainer", Some(container), SETUP, request).map(drop)
    }

    /// Starts another process in a container.
    pub async fn exec_process(
        &self,
        container: &str,
        exec: &str,
        process: Process,
    ) -> Result<(), AgentError> {
        let request = msg::ExecProcessRequest {
            container_id: container.to_string(),
            exec_id: exec.to_string(),
            process: MessageField::some(process),
            ..Default::default()
        };
        call!(self.service.exec_process, "ExecProcess", Some(container), SETUP, request).map(drop)
    }

    /// Sends a signal to one process.
    pub async fn signal_process(&self, process: ProcessRef<'_>, signal: u32) -> Result<(), AgentError> {
        self.signal(process.container, process.exec, signal).await
    }

    /// Sends a signal to a container; `SIGKILL` reaches each of its processes.
    pub async fn signal_all(&self, container: &str, signal: u32) -> Result<(), AgentError> {
        self.signal(container, "", signal).await
    }

    async fn signal(&self, container: &str, exec: &str, signal: u32) -> Result<(), AgentError> {
        let request = msg::SignalProcessRequest {
            container_id: container.to_string(),
            exec_id: exec.to_string(),
            signal,
            ..Default::default()
        };
        call!(self.service.signal_process, "SignalProcess", Some(container), QUICK, request).map(drop)
    }

    /// Waits, without a deadline, for a process to end; returns its exit status.
    ///
    /// With the answer the agent forgets the process and closes its streams: read them to their end first.
    pub async fn wait_process(&self, process: ProcessRef<'_>) -> Result<i32, AgentError> {
        let request = msg::WaitProcessRequest {
            container_id: process.container.to_string(),
            exec_id: process.exec.to_string(),
            ..Default::default()
        };
        call!(self.service.wait_process, "WaitProcess", Some(process.container), ENDLESS, request)
            .map(|answer| answer.status)
    }
}

/// A process' streams.
impl Agent {
    /// Writes to a process' stdin; waits, without a deadline, until the process' pipe has taken all of it.
    /// Empty data closes stdin.
    pub async fn write_stdin(&self, process: ProcessRef<'_>, data: Vec<u8>) -> Result<(), AgentError> {
        let request = msg::WriteStreamRequest {
            container_id: process.container.to_string(),
            exec_id: process.exec.to_string(),
            data,
            ..Default::default()
        };
        call!(self.service.write_stdin, "WriteStdin", Some(process.container), ENDLESS, request).map(drop)
    }

    /// Closes a process' stdin.
    pub async fn close_stdin(&self, process: ProcessRef<'_>) -> Result<(), AgentError> {
        let request = msg::CloseStdinRequest {
            container_id: process.container.to_string(),
            exec_id: process.exec.to_string(),
            ..Default::default()
        };
        call!(self.service.close_stdin, "CloseStdin", Some(process.container), QUICK, request).map(drop)
    }

    /// Reads up to `len` bytes ([`MAX_STREAM_CHUNK`] at most) of stdout, or of the terminal;
    /// waits without a deadline. Empty data is the end.
    pub async fn read_stdout(&self, process: ProcessRef<'_>, len: usize) -> Result<Vec<u8>, AgentError> {
        let request = read_request(process, len);
        call!(self.service.read_stdout, "ReadStdout", Some(process.container), ENDLESS, request)
            .map(|answer| answer.data)
    }

    /// Like [`Agent::read_stdout`], for stderr. A process with a terminal has none.
    pub async fn read_stderr(&self, process: ProcessRef<'_>, len: usize) -> Result<Vec<u8>, AgentError> {
        let request = read_request(process, len);
        call!(self.service.read_stderr, "ReadStderr", Some(process.container), ENDLESS, request)
            .map(|answer| answer.data)
    }

    /// Sets the size of a process' terminal, in characters.
    pub async fn tty_win_resize(
        &self,
        process: ProcessRef<'_>,
        rows: u32,
        columns: u32,
    ) -> Result<(), AgentError> {
        let request = msg::TtyWinResizeRequest {
            container_id: process.container.to_string(),
            exec_id: process.exec.to_string(),
            row: rows,
            column: columns,
            ..Default::default()
        };
        call!(self.service.tty_win_resize, "TtyWinResize", Some(process.container), QUICK, request).map(drop)
    }
}

fn read_request(process: ProcessRef<'_>, len: usize) -> msg::ReadStreamRequest {
    msg::ReadStreamRequest {
        container_id: process.container.to_string(),
        exec_id: process.exec.to_string(),
        len: u32::try_from(len.min(MAX_STREAM_CHUNK)).unwrap_or(u32::MAX),
        ..Default::default()
    }
}
