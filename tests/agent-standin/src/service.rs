//! The agent service: each call checked, passed on, answered.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent_client::proto::agent::{
    AddARPNeighborsRequest, AgentDetails, CloseStdinRequest, CopyFileRequest, CreateContainerRequest,
    CreateSandboxRequest, DestroySandboxRequest, Empty, ExecProcessRequest, GetDiagnosticDataRequest,
    GetDiagnosticDataResponse, GetOOMEventRequest, GuestDetailsRequest, GuestDetailsResponse, Interfaces,
    ListInterfacesRequest, ListRoutesRequest, OOMEvent, OnlineCPUMemRequest, PauseContainerRequest,
    ReadStreamRequest, ReadStreamResponse, RemoveContainerRequest, ReseedRandomDevRequest,
    ResumeContainerRequest, Routes, SetGuestDateTimeRequest, SetPolicyRequest, SignalProcessRequest,
    StartContainerRequest, StatsContainerRequest, StatsContainerResponse, TtyWinResizeRequest,
    UpdateContainerRequest, UpdateEphemeralMountsRequest, UpdateInterfaceRequest, UpdateRoutesRequest,
    VolumeStatsRequest, WaitProcessRequest, WaitProcessResponse, WriteStreamRequest, WriteStreamResponse,
};
use agent_client::proto::agent_ttrpc::AgentService;
use agent_client::proto::csi::volume_usage::Unit;
use agent_client::proto::csi::{VolumeCondition, VolumeStatsResponse, VolumeUsage};
use agent_client::proto::health::{
    CheckRequest, HealthCheckResponse, VersionCheckResponse, health_check_response,
};
use agent_client::proto::health_ttrpc::Health;
use agent_client::proto::types::Interface;
use async_trait::async_trait;
use nix::sys::signal::Signal;
use nix::sys::statvfs::statvfs;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use protobuf::Message;
use serde::Serialize;
use tokio::sync::Notify;
use ttrpc::r#async::TtrpcContext;

use crate::copy;
use crate::error::{Error, Result};
use crate::log;
use crate::network::Network;
use crate::policy::Policy;
use crate::sandbox::Sandbox;
use crate::spec;
use crate::storage::DRIVERS;
use crate::streams::{Output, READ_MAX};
use crate::sys;

/// The version in GuestDetails and Health.Version.
pub const VERSION: &str = concat!("standin-", env!("CARGO_PKG_VERSION"));

/// Both services.
pub struct Service {
    /// What the calls work on.
    pub sandbox: Sandbox,
    /// The guest's network.
    pub network: Network,
    /// What decides which calls are served.
    pub policy: Policy,
    /// Told when DestroySandbox is done.
    pub done: Arc<Notify>,
}

/// Fields that the contract does not have are a mistake of the caller's.
fn known<M: Message>(request: &M) -> Result<()> {
    match request.special_fields().unknown_fields().iter().next() {
        Some((number, _)) => Err(Error::refused(format!("{} has an unknown field {number}", M::NAME))),
        None => Ok(()),
    }
}

fn report(call: &str, error: Error) -> ttrpc::Error {
    log::line(format_args!("{call}: {error}"));
    error.into()
}

macro_rules! calls {
    ($($method:ident($request:ident) -> $response:ty = $name:literal, $policy:ident;)*) => {
        #[async_trait]
        impl AgentService for Service {
            $(async fn $method(&self, _: &TtrpcContext, request: $request) -> ttrpc::Result<$response> {
                let checked = known(&request).and_then(|()| self.$policy(&request));
                let result = match checked {
                    Ok(()) => Self::$method(self, request).await,
                    Err(error) => Err(error),
                };
                result.map_err(|error| report($name, error))
            })*
        }
    };
}

calls! {
    create_sandbox(CreateSandboxRequest) -> Empty = "CreateSandbox", allows;
    update_ephemeral_mounts(UpdateEphemeralMountsRequest) -> Empty = "UpdateEphemeralMounts", allows;
    destroy_sandbox(DestroySandboxRequest) -> Empty = "DestroySandbox", allows;
    create_container(CreateContainerRequest) -> Empty = "CreateContainer", allows;
    start_container(StartContainerRequest) -> Empty = "StartContainer", allows;
    remove_container(RemoveContainerRequest) -> Empty = "RemoveContainer", allows;
    exec_process(ExecProcessRequest) -> Empty = "ExecProcess", allows;
    signal_process(SignalProcessRequest) -> Empty = "SignalProcess", allows;
    wait_process(WaitProcessRequest) -> WaitProcessResponse = "WaitProcess", allows;
    update_container(UpdateContainerRequest) -> Empty = "UpdateContainer", allows;
    stats_container(StatsContainerRequest) -> StatsContainerResponse = "StatsContainer", allows;
    pause_container(PauseContainerRequest) -> Empty = "PauseContainer", allows;
    resume_container(ResumeContainerRequest) -> Empty = "ResumeContainer", allows;
    write_stdin(WriteStreamRequest) -> WriteStreamResponse = "WriteStdin", allows;
    read_stdout(ReadStreamRequest) -> ReadStreamResponse = "ReadStdout", asks_itself;
    read_stderr(ReadStreamRequest) -> ReadStreamResponse = "ReadStderr", asks_itself;
    close_stdin(CloseStdinRequest) -> Empty = "CloseStdin", allows;
    tty_win_resize(TtyWinResizeRequest) -> Empty = "TtyWinResize", allows;
    update_interface(UpdateInterfaceRequest) -> Interface = "UpdateInterface", allows;
    update_routes(UpdateRoutesRequest) -> Routes = "UpdateRoutes", allows;
    list_interfaces(ListInterfacesRequest) -> Interfaces = "ListInterfaces", allows;
    list_routes(ListRoutesRequest) -> Routes = "ListRoutes", allows;
    add_arp_neighbors(AddARPNeighborsRequest) -> Empty = "AddARPNeighbors", allows;
    online_cpu_mem(OnlineCPUMemRequest) -> Empty = "OnlineCPUMem", allows;
    reseed_random_dev(ReseedRandomDevRequest) -> Empty = "ReseedRandomDev", allows;
    get_guest_details(GuestDetailsRequest) -> GuestDetailsResponse = "GetGuestDetails", allows;
    set_guest_date_time(SetGuestDateTimeRequest) -> Empty = "SetGuestDateTime", allows;
    copy_file(CopyFileRequest) -> Empty = "CopyFile", allows_copy;
    get_oom_event(GetOOMEventRequest) -> OOMEvent = "GetOOMEvent", allows;
    get_diagnostic_data(GetDiagnosticDataRequest) -> GetDiagnosticDataResponse = "GetDiagnosticData", allows;
    get_volume_stats(VolumeStatsRequest) -> VolumeStatsResponse = "GetVolumeStats", allows;
    set_policy(SetPolicyRequest) -> Empty = "SetPolicy", allows;
}

impl Service {
    fn allows<M: Message + Serialize>(&self, request: &M) -> Result<()> {
        self.policy.check(M::NAME, request)
    }

    fn allows_copy(&self, request: &CopyFileRequest) -> Result<()> {
        self.policy.check_copy(request)
    }

    /// The policy is asked later: whether what was read may be shown.
    #[allow(clippy::unused_self, reason = "one form for all calls")]
    fn asks_itself(&self, _: &ReadStreamRequest) -> Result<()> {
        Ok(())
    }

    async fn create_sandbox(&self, request: CreateSandboxRequest) -> Result<Empty> {
        self.sandbox.create(&request).await?;
        Ok(Empty::new())
    }

    async fn update_ephemeral_mounts(&self, request: UpdateEphemeralMountsRequest) -> Result<Empty> {
        self.sandbox.update_ephemeral(&request.storages).await?;
        Ok(Empty::new())
    }

    async fn destroy_sandbox(&self, _: DestroySandboxRequest) -> Result<Empty> {
        self.sandbox.destroy().await?;
        self.done.notify_one();
        Ok(Empty::new())
    }

    async fn create_container(&self, request: CreateContainerRequest) -> Result<Empty> {
        self.sandbox.create_container(&request).await?;
        Ok(Empty::new())
    }

    async fn start_container(&self, request: StartContainerRequest) -> Result<Empty> {
        self.sandbox.start_container(&request.container_id)?;
        Ok(Empty::new())
    }

    async fn remove_container(&self, request: RemoveContainerRequest) -> Result<Empty> {
        self.sandbox.remove_container(&request.container_id, request.timeout).await?;
        Ok(Empty::new())
    }

    async fn exec_process(&self, request: ExecProcessRequest) -> Result<Empty> {
        if request.stdin_port != 0 || request.stdout_port != 0 || request.stderr_port != 0 {
            return Err(Error::Unsupported("streams over their own vsock ports"));
        }
        let process = request.process.as_ref().ok_or_else(|| Error::refused("exec without process"))?;
        let process = spec::process(process)?;
        self.sandbox.container(&request.container_id)?.exec(&request.exec_id, process).await?;
        Ok(Empty::new())
    }

    async fn signal_process(&self, request: SignalProcessRequest) -> Result<Empty> {
        let container = self.sandbox.container(&request.container_id)?;
        let signal = i32::try_from(request.signal).map_err(|_| Error::refused("signal out of range"))?;
        if request.exec_id.is_empty() && signal == Signal::SIGKILL as i32 {
            container.kill_all();
        } else {
            container.signal(&request.exec_id, signal)?;
        }
        Ok(Empty::new())
    }

    async fn wait_process(&self, request: WaitProcessRequest) -> Result<WaitProcessResponse> {
        let status = self.sandbox.container(&request.container_id)?.wait(&request.exec_id).await?;
        Ok(WaitProcessResponse { status, ..Default::default() })
    }

    async fn update_container(&self, request: UpdateContainerRequest) -> Result<Empty> {
        let container = self.sandbox.container(&request.container_id)?;
        if let Some(resources) = request.resources.as_ref() {
            container.cgroup().update(&spec::resources(resources)?)?;
        }
        Ok(Empty::new())
    }

    async fn stats_container(&self, request: StatsContainerRequest) -> Result<StatsContainerResponse> {
        let stats = self.sandbox.container(&request.container_id)?.cgroup().stats()?;
        Ok(StatsContainerResponse { cgroup_stats: Some(stats).into(), ..Default::default() })
    }

    async fn pause_container(&self, request: PauseContainerRequest) -> Result<Empty> {
        self.sandbox.container(&request.container_id)?.pause()?;
        Ok(Empty::new())
    }

    async fn resume_container(&self, request: ResumeContainerRequest) -> Result<Empty> {
        self.sandbox.container(&request.container_id)?.resume()?;
        Ok(Empty::new())
    }

    async fn write_stdin(&self, request: WriteStreamRequest) -> Result<WriteStreamResponse> {
        let process = self.sandbox.container(&request.container_id)?.process(&request.exec_id)?;
        if request.data.is_empty() {
            process.streams.close_stdin().await;
        } else {
            process.streams.write(&request.data).await?;
        }
        let len = u32::try_from(request.data.len()).map_err(|_| Error::refused("write too long"))?;
        Ok(WriteStreamResponse { len, ..Default::default() })
    }

    async fn read_stdout(&self, request: ReadStreamRequest) -> Result<ReadStreamResponse> {
        self.read(&request, Output::Stdout).await
    }

    async fn read_stderr(&self, request: ReadStreamRequest) -> Result<ReadStreamResponse> {
        self.read(&request, Output::Stderr).await
    }

    async fn read(&self, request: &ReadStreamRequest, output: Output) -> Result<ReadStreamResponse> {
        if request.len == 0 || request.len > READ_MAX {
            return Err(Error::refused(format!("read of {} bytes: must be 1 to {READ_MAX}", request.len)));
        }
        let process = self.sandbox.container(&request.container_id)?.process(&request.exec_id)?;
        let mut data = process.streams.read(output, request.len, &process.exit, &process.forgotten).await?;
        // As kata-agent: the caller sees an end that may not see the output.
        if self.policy.check(ReadStreamRequest::NAME, request).is_err() {
            data.clear();
        }
        Ok(ReadStreamResponse { data, ..Default::default() })
    }

    async fn close_stdin(&self, request: CloseStdinRequest) -> Result<Empty> {
        let process = self.sandbox.container(&request.container_id)?.process(&request.exec_id)?;
        process.streams.close_stdin().await;
        Ok(Empty::new())
    }

    async fn tty_win_resize(&self, request: TtyWinResizeRequest) -> Result<Empty> {
        let process = self.sandbox.container(&request.container_id)?.process(&request.exec_id)?;
        let cells =
            |number: u32| u16::try_from(number).map_err(|_| Error::refused("terminal size out of range"));
        process.streams.resize(cells(request.row)?, cells(request.column)?)?;
        Ok(Empty::new())
    }

    async fn update_interface(&self, request: UpdateInterfaceRequest) -> Result<Interface> {
        let interface = request.interface.into_option();
        let interface = interface.ok_or_else(|| Error::refused("no interface"))?;
        if !interface.devicePath.is_empty() {
            return Err(Error::Unsupported("interfaces by device path"));
        }
        self.network.update_interface(&interface).await?;
        Ok(interface)
    }

    async fn update_routes(&self, request: UpdateRoutesRequest) -> Result<Routes> {
        let routes = request.routes.into_option().ok_or_else(|| Error::refused("no routes"))?;
        self.network.update_routes(&routes.Routes).await?;
        self.list_routes(ListRoutesRequest::new()).await
    }

    async fn list_interfaces(&self, _: ListInterfacesRequest) -> Result<Interfaces> {
        Ok(Interfaces { Interfaces: self.network.interfaces().await?, ..Default::default() })
    }

    async fn list_routes(&self, _: ListRoutesRequest) -> Result<Routes> {
        Ok(Routes { Routes: self.network.routes().await?, ..Default::default() })
    }

    async fn add_arp_neighbors(&self, request: AddARPNeighborsRequest) -> Result<Empty> {
        let neighbours = request.neighbors.into_option().ok_or_else(|| Error::refused("no neighbours"))?;
        self.network.add_neighbours(&neighbours.ARPNeighbors).await?;
        Ok(Empty::new())
    }

    async fn online_cpu_mem(&self, request: OnlineCPUMemRequest) -> Result<Empty> {
        if !request.cpu_only {
            return Err(Error::Unsupported("memory hotplug"));
        }
        Ok(Empty::new())
    }

    async fn reseed_random_dev(&self, request: ReseedRandomDevRequest) -> Result<Empty> {
        let path = Path::new("/dev/random");
        let mut random = OpenOptions::new().write(true).open(path).map_err(Error::path("open", path))?;
        random.write_all(&request.data).map_err(Error::path("write", path))?;
        sys::reseed(&random).map_err(Error::path("reseed", path))?;
        Ok(Empty::new())
    }

    async fn get_guest_details(&self, _: GuestDetailsRequest) -> Result<GuestDetailsResponse> {
        let details = AgentDetails {
            version: VERSION.into(),
            init_daemon: std::process::id() == 1,
            storage_handlers: DRIVERS.map(String::from).into(),
            ..Default::default()
        };
        Ok(GuestDetailsResponse { agent_details: Some(details).into(), ..Default::default() })
    }

    async fn set_guest_date_time(&self, request: SetGuestDateTimeRequest) -> Result<Empty> {
        let refused = || Error::refused("time out of range");
        let seconds = u64::try_from(request.Sec).map_err(|_| refused())?;
        let microseconds =
            u64::try_from(request.Usec).ok().filter(|usec| *usec < 1_000_000).ok_or_else(refused)?;
        let time = Duration::from_secs(seconds) + Duration::from_micros(microseconds);
        clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(time))
            .map_err(Error::system("set the clock"))?;
        Ok(Empty::new())
    }

    async fn copy_file(&self, request: CopyFileRequest) -> Result<Empty> {
        copy::copy(&request, Path::new(copy::SHARED))?;
        Ok(Empty::new())
    }

    async fn get_oom_event(&self, _: GetOOMEventRequest) -> Result<OOMEvent> {
        Ok(OOMEvent { container_id: self.sandbox.next_oom().await?, ..Default::default() })
    }

    async fn get_diagnostic_data(
        &self,
        request: GetDiagnosticDataRequest,
    ) -> Result<GetDiagnosticDataResponse> {
        if request.log_type != "termination_log" {
            return Err(Error::refused(format!("unsupported diagnostic log_type: {}", request.log_type)));
        }
        let data = self.sandbox.container(&request.container_id)?.last_words()?;
        Ok(GetDiagnosticDataResponse { data, ..Default::default() })
    }

    /// The numbers of the file system that the path is in, whatever it is a path of.
    async fn get_volume_stats(&self, request: VolumeStatsRequest) -> Result<VolumeStatsResponse> {
        let path = Path::new(&request.volume_guest_path);
        fs::File::open(path).map_err(Error::path("open", path))?;
        let stat = statvfs(path).map_err(Error::errno("ask the file system of", path))?;
        let usage = |unit: Unit, total: u64, available: u64| VolumeUsage {
            unit: unit.into(),
            total,
            available,
            used: total.saturating_sub(available),
            ..Default::default()
        };
        let block = stat.block_size();
        Ok(VolumeStatsResponse {
            usage: vec![
                usage(Unit::BYTES, stat.blocks() * block, stat.blocks_free() * block),
                usage(Unit::INODES, stat.files(), stat.files_free()),
            ],
            volume_condition: Some(VolumeCondition { message: "OK".into(), ..Default::default() }).into(),
            ..Default::default()
        })
    }

    async fn set_policy(&self, _: SetPolicyRequest) -> Result<Empty> {
        Err(Error::Unsupported("policies"))
    }
}

/// The health service.
#[derive(Debug, Clone, Copy)]
pub struct HealthService;

#[async_trait]
impl Health for HealthService {
    async fn check(&self, _: &TtrpcContext, _: CheckRequest) -> ttrpc::Result<HealthCheckResponse> {
        let status = health_check_response::ServingStatus::SERVING.into();
        Ok(HealthCheckResponse { status, ..Default::default() })
    }

    async fn version(&self, _: &TtrpcContext, _: CheckRequest) -> ttrpc::Result<VersionCheckResponse> {
        Ok(VersionCheckResponse {
            grpc_version: "0.0.1".into(),
            agent_version: VERSION.into(),
            ..Default::default()
        })
    }
}
