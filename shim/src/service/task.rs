//! `containerd.task.v3.Task`, and v2, whose messages are the same.

use async_trait::async_trait;
use containerd_shim::protos::api;
use containerd_shim::protos::shim_async::Task;
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use ttrpc::Result;
use ttrpc::r#async::TtrpcContext;

use super::convert::{self, status};
use crate::api::{ContainerId, Error};
use crate::metrics;
use crate::sandbox::Handle;
use crate::wire::timestamp;

/// Version that Connect reports.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The task service of one self.sandbox.
#[derive(Debug)]
pub struct TaskService {
    sandbox: Handle,
}

impl TaskService {
    /// A service for `sandbox`.
    pub fn new(sandbox: Handle) -> Self {
        Self { sandbox }
    }
}

/// The container that `id` names.
fn container(id: String) -> Result<ContainerId> {
    ContainerId::new(id).map_err(status)
}

fn empty<T>(_: T) -> api::Empty {
    api::Empty::default()
}

#[async_trait]
impl Task for TaskService {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: api::CreateTaskRequest,
    ) -> Result<api::CreateTaskResponse> {
        let request = convert::create(request).map_err(status)?;
        let pid = self.sandbox.create(request).await.map_err(status)?;
        Ok(api::CreateTaskResponse { pid, ..Default::default() })
    }

    async fn start(&self, _: &TtrpcContext, request: api::StartRequest) -> Result<api::StartResponse> {
        let process = convert::process(request.id, request.exec_id).map_err(status)?;
        let pid = self.sandbox.start(process).await.map_err(status)?;
        Ok(api::StartResponse { pid, ..Default::default() })
    }

    async fn state(&self, _: &TtrpcContext, request: api::StateRequest) -> Result<api::StateResponse> {
        let process = convert::process(request.id, request.exec_id).map_err(status)?;
        self.sandbox.state(process).await.map(convert::state).map_err(status)
    }

    async fn pids(&self, _: &TtrpcContext, request: api::PidsRequest) -> Result<api::PidsResponse> {
        let id = container(request.id)?;
        let processes = self.sandbox.pids(id).await.map_err(status)?;
        let processes =
            processes.into_iter().map(|info| api::ProcessInfo { pid: info.pid, ..Default::default() });
        Ok(api::PidsResponse { processes: processes.collect(), ..Default::default() })
    }

    async fn kill(&self, _: &TtrpcContext, request: api::KillRequest) -> Result<api::Empty> {
        let request = convert::kill(request).map_err(status)?;
        self.sandbox.kill(request).await.map(empty).map_err(status)
    }

    async fn exec(&self, _: &TtrpcContext, request: api::ExecProcessRequest) -> Result<api::Empty> {
        let request = convert::exec(request).map_err(status)?;
        self.sandbox.exec(request).await.map(empty).map_err(status)
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: api::ResizePtyRequest) -> Result<api::Empty> {
        let size = convert::size(&request).map_err(status)?;
        let process = convert::process(request.id, request.exec_id).map_err(status)?;
        self.sandbox.resize_pty(process, size).await.map(empty).map_err(status)
    }

    async fn close_io(&self, _: &TtrpcContext, request: api::CloseIORequest) -> Result<api::Empty> {
        let process = convert::process(request.id, request.exec_id).map_err(status)?;
        if !request.stdin {
            return Ok(api::Empty::default());
        }
        self.sandbox.close_stdin(process).await.map(empty).map_err(status)
    }

    async fn pause(&self, _: &TtrpcContext, request: api::PauseRequest) -> Result<api::Empty> {
        let id = container(request.id)?;
        self.sandbox.pause(id).await.map(empty).map_err(status)
    }

    async fn resume(&self, _: &TtrpcContext, request: api::ResumeRequest) -> Result<api::Empty> {
        let id = container(request.id)?;
        self.sandbox.resume(id).await.map(empty).map_err(status)
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: api::CheckpointTaskRequest) -> Result<api::Empty> {
        Err(status(Error::Unsupported("checkpointing a container in a VM is".to_owned())))
    }

    async fn update(&self, _: &TtrpcContext, request: api::UpdateTaskRequest) -> Result<api::Empty> {
        let request = convert::update(request).map_err(status)?;
        self.sandbox.update(request).await.map(empty).map_err(status)
    }

    async fn wait(&self, _: &TtrpcContext, request: api::WaitRequest) -> Result<api::WaitResponse> {
        let process = convert::process(request.id, request.exec_id).map_err(status)?;
        let exit = self.sandbox.wait(process).await.map_err(status)?;
        Ok(api::WaitResponse {
            exit_status: exit.status,
            exited_at: timestamp(exit.at),
            ..Default::default()
        })
    }

    async fn stats(&self, _: &TtrpcContext, request: api::StatsRequest) -> Result<api::StatsResponse> {
        let id = container(request.id)?;
        let stats: Any = metrics::encode(&self.sandbox.stats(id).await.map_err(status)?).map_err(status)?;
        Ok(api::StatsResponse { stats: MessageField::some(stats), ..Default::default() })
    }

    async fn connect(&self, _: &TtrpcContext, request: api::ConnectRequest) -> Result<api::ConnectResponse> {
        let id = container(request.id)?;
        let connected = self.sandbox.connect(id).await.map_err(status)?;
        Ok(api::ConnectResponse {
            shim_pid: connected.shim_pid,
            task_pid: connected.task_pid,
            version: VERSION.to_owned(),
            ..Default::default()
        })
    }

    async fn delete(&self, _: &TtrpcContext, request: api::DeleteRequest) -> Result<api::DeleteResponse> {
        let process = convert::process(request.id, request.exec_id).map_err(status)?;
        let deleted = self.sandbox.delete(process).await.map_err(status)?;
        Ok(api::DeleteResponse {
            pid: deleted.pid,
            exit_status: deleted.exit.status,
            exited_at: timestamp(deleted.exit.at),
            ..Default::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, request: api::ShutdownRequest) -> Result<api::Empty> {
        self.sandbox.shutdown(request.now).await.map(empty).map_err(status)
    }
}
