//! `containerd.runtime.sandbox.v1.Sandbox`: a sandbox without a pause container.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use containerd_shim::protos::sandbox_api as wire;
use containerd_shim::protos::sandbox_async::Sandbox;
use containerd_shim::protos::types::platform::Platform;
use protobuf::MessageField;
use ttrpc::Result;
use ttrpc::r#async::TtrpcContext;

use super::convert::{self, status};
use super::pod_config::pod_facts;
use crate::api::Error;
use crate::api::{ContainerId, CreateSandboxRequest, SandboxState};
use crate::metrics;
use crate::sandbox::Handle;
use crate::wire::timestamp;

/// The sandbox service of one sandbox.
#[derive(Debug)]
pub struct SandboxService {
    sandbox: Handle,
}

impl SandboxService {
    /// A service for `sandbox`.
    pub fn new(sandbox: Handle) -> Self {
        Self { sandbox }
    }
}

/// The id that a request gave for the sandbox.
fn named(id: String) -> Result<ContainerId> {
    ContainerId::new(id).map_err(status)
}

fn create(from: wire::CreateSandboxRequest) -> crate::api::Result<CreateSandboxRequest> {
    let netns = from.netns_path;
    let facts = from.options.as_ref().map(pod_facts).transpose();
    let facts =
        facts.map_err(|error| Error::InvalidRequest { field: "options", reason: error.to_string() })?;
    Ok(CreateSandboxRequest {
        id: ContainerId::new(from.sandbox_id)?,
        bundle: convert::path("bundle_path", from.bundle_path)?,
        netns: if netns.is_empty() { None } else { Some(convert::path("netns_path", netns)?) },
        annotations: from.annotations.into_iter().collect(),
        facts: facts.unwrap_or_default(),
    })
}

#[async_trait]
impl Sandbox for SandboxService {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: wire::CreateSandboxRequest,
    ) -> Result<wire::CreateSandboxResponse> {
        let request = create(request).map_err(status)?;
        self.sandbox.create_sandbox(request).await.map_err(status)?;
        Ok(wire::CreateSandboxResponse::default())
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: wire::StartSandboxRequest,
    ) -> Result<wire::StartSandboxResponse> {
        let id = named(request.sandbox_id)?;
        let started = self.sandbox.start_sandbox(id).await.map_err(status)?;
        Ok(wire::StartSandboxResponse {
            pid: started.pid,
            created_at: timestamp(started.created_at),
            ..Default::default()
        })
    }

    async fn platform(
        &self,
        _: &TtrpcContext,
        request: wire::PlatformRequest,
    ) -> Result<wire::PlatformResponse> {
        named(request.sandbox_id)?;
        let platform =
            Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), ..Default::default() };
        Ok(wire::PlatformResponse { platform: MessageField::some(platform), ..Default::default() })
    }

    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        request: wire::StopSandboxRequest,
    ) -> Result<wire::StopSandboxResponse> {
        let grace = Duration::from_secs(request.timeout_secs.into());
        let id = named(request.sandbox_id)?;
        self.sandbox.stop_sandbox(id, grace).await.map_err(status)?;
        Ok(wire::StopSandboxResponse::default())
    }

    async fn wait_sandbox(
        &self,
        _: &TtrpcContext,
        request: wire::WaitSandboxRequest,
    ) -> Result<wire::WaitSandboxResponse> {
        let id = named(request.sandbox_id)?;
        let exit = self.sandbox.wait_sandbox(id).await.map_err(status)?;
        Ok(wire::WaitSandboxResponse {
            exit_status: exit.status,
            exited_at: timestamp(exit.at),
            ..Default::default()
        })
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: wire::SandboxStatusRequest,
    ) -> Result<wire::SandboxStatusResponse> {
        let id = named(request.sandbox_id)?;
        let name = id.to_string();
        let now = self.sandbox.sandbox_status(id, request.verbose).await.map_err(status)?;
        let state = match now.state {
            SandboxState::Ready => "SANDBOX_READY",
            SandboxState::NotReady => "SANDBOX_NOTREADY",
        };
        Ok(wire::SandboxStatusResponse {
            sandbox_id: name,
            pid: now.pid,
            state: state.to_owned(),
            info: now.info.into_iter().collect(),
            created_at: now.created_at.map_or_else(MessageField::none, timestamp),
            exited_at: now.exited_at.map_or_else(MessageField::none, timestamp),
            ..Default::default()
        })
    }

    async fn ping_sandbox(&self, _: &TtrpcContext, request: wire::PingRequest) -> Result<wire::PingResponse> {
        let id = named(request.sandbox_id)?;
        self.sandbox.ping(id).await.map_err(status)?;
        Ok(wire::PingResponse::default())
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        request: wire::ShutdownSandboxRequest,
    ) -> Result<wire::ShutdownSandboxResponse> {
        let id = named(request.sandbox_id)?;
        self.sandbox.shutdown_sandbox(id).await.map_err(status)?;
        Ok(wire::ShutdownSandboxResponse::default())
    }

    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        request: wire::SandboxMetricsRequest,
    ) -> Result<wire::SandboxMetricsResponse> {
        let id = named(request.sandbox_id)?;
        let name = id.to_string();
        let stats = self.sandbox.sandbox_metrics(id).await.map_err(status)?;
        let mut response = wire::SandboxMetricsResponse::default();
        let metric = response.metrics.mut_or_insert_default();
        metric.id = name;
        metric.timestamp = timestamp(SystemTime::now());
        metric.data = MessageField::some(metrics::encode(&stats).map_err(status)?);
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> wire::CreateSandboxRequest {
        wire::CreateSandboxRequest {
            sandbox_id: "pod".into(),
            bundle_path: "/b".into(),
            ..Default::default()
        }
    }

    #[test]
    fn host_networking_has_no_namespace() {
        assert_eq!(create(request()).unwrap().netns, None);
        let with = wire::CreateSandboxRequest { netns_path: "/var/run/netns/x".into(), ..request() };
        assert_eq!(create(with).unwrap().netns.unwrap().to_str(), Some("/var/run/netns/x"));
    }

    #[test]
    fn hostile_requests_are_refused() {
        assert!(create(wire::CreateSandboxRequest { sandbox_id: "a/b".into(), ..request() }).is_err());
        assert!(create(wire::CreateSandboxRequest { netns_path: "x".into(), ..request() }).is_err());
        assert!(create(wire::CreateSandboxRequest { bundle_path: String::new(), ..request() }).is_err());
    }
}
