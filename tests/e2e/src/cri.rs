//! containerd's CRI service: the calls kubelet makes.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    ContainerConfig, ContainerState, ContainerStats, ContainerStatsRequest, ContainerStatus,
    ContainerStatusRequest, CreateContainerRequest, ExecSyncRequest, ExecSyncResponse,
    LinuxContainerResources, ListContainerStatsRequest, PodSandboxConfig, PodSandboxStatus,
    PodSandboxStatusRequest, PortForwardRequest, RemoveContainerRequest, RemovePodSandboxRequest,
    ReopenContainerLogRequest, RunPodSandboxRequest, StartContainerRequest, StatusRequest,
    StopContainerRequest, StopPodSandboxRequest, UpdateContainerResourcesRequest,
};
use tokio::net::UnixStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::containerd::SOCKET;
use crate::or_fail::OrFail;
use crate::wait::SLOWER;

/// kubelet's own limit for most calls; longer in the outer VM.
const LIMIT: Duration = Duration::from_secs(120);

/// A connection to the CRI runtime service.
#[derive(Debug, Clone)]
pub struct Cri {
    client: RuntimeServiceClient<Channel>,
}

impl Cri {
    /// Connects to containerd's socket.
    pub async fn connect() -> Self {
        let connector = service_fn(async |_| UnixStream::connect(SOCKET).await.map(TokioIo::new));
        let channel = Endpoint::from_static("http://containerd")
            .timeout(LIMIT * *SLOWER)
            .connect_with_connector(connector)
            .await
            .or_fail("connect to containerd's CRI service");
        Self { client: RuntimeServiceClient::new(channel) }
    }

    /// Names of the runtime handlers that containerd reports.
    pub async fn handlers(&mut self) -> Vec<String> {
        let status =
            self.client.status(StatusRequest { verbose: false }).await.or_fail("Status").into_inner();
        status.runtime_handlers.into_iter().map(|handler| handler.name).collect()
    }

    /// RunPodSandbox: starts the pod's VM; gives the sandbox's id.
    ///
    /// # Errors
    ///
    /// What containerd answers: the text of the pod's event in Kubernetes.
    pub async fn run_pod(&mut self, config: &PodSandboxConfig, handler: &str) -> Result<String, Status> {
        let request =
            RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler.to_owned() };
        Ok(self.client.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    }

    /// PodSandboxStatus.
    pub async fn pod_status(&mut self, pod: &str) -> PodSandboxStatus {
        let request = PodSandboxStatusRequest { pod_sandbox_id: pod.to_owned(), verbose: false };
        let answer = self.client.pod_sandbox_status(request).await.or_fail("PodSandboxStatus");
        answer.into_inner().status.or_fail("the sandbox's status")
    }

    /// StopPodSandbox and RemovePodSandbox, as kubelet ends a pod.
    pub async fn remove_pod(&mut self, pod: &str) {
        self.stop_pod(pod).await;
        let request = RemovePodSandboxRequest { pod_sandbox_id: pod.to_owned() };
        self.client.remove_pod_sandbox(request).await.or_fail("RemovePodSandbox");
    }

    /// StopPodSandbox.
    pub async fn stop_pod(&mut self, pod: &str) {
        let request = StopPodSandboxRequest { pod_sandbox_id: pod.to_owned() };
        self.client.stop_pod_sandbox(request).await.or_fail("StopPodSandbox");
    }

    /// CreateContainer; gives the container's id.
    ///
    /// # Errors
    ///
    /// What containerd answers: the text of the pod's event in Kubernetes.
    pub async fn create(
        &mut self,
        pod: &str,
        config: &ContainerConfig,
        pod_config: &PodSandboxConfig,
    ) -> Result<String, Status> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config.clone()),
            sandbox_config: Some(pod_config.clone()),
        };
        Ok(self.client.create_container(request).await?.into_inner().container_id)
    }

    /// StartContainer.
    ///
    /// # Errors
    ///
    /// What containerd answers.
    pub async fn start(&mut self, container: &str) -> Result<(), Status> {
        self.client.start_container(StartContainerRequest { container_id: container.to_owned() }).await?;
        Ok(())
    }

    /// ExecSync with a limit of 30 seconds.
    pub async fn exec(&mut self, container: &str, command: &[&str]) -> ExecSyncResponse {
        self.try_exec(container, command).await.or_fail("ExecSync")
    }

    /// The same.
    ///
    /// # Errors
    ///
    /// What containerd answers.
    pub async fn try_exec(&mut self, container: &str, command: &[&str]) -> Result<ExecSyncResponse, Status> {
        let cmd = command.iter().map(|word| (*word).to_owned()).collect();
        let request = ExecSyncRequest { container_id: container.to_owned(), cmd, timeout: 30 };
        Ok(self.client.exec_sync(request).await?.into_inner())
    }

    /// ReopenContainerLog, after kubelet has renamed the file.
    pub async fn reopen_log(&mut self, container: &str) {
        let request = ReopenContainerLogRequest { container_id: container.to_owned() };
        self.client.reopen_container_log(request).await.or_fail("ReopenContainerLog");
    }

    /// PortForward; gives the address of the streaming server.
    pub async fn port_forward(&mut self, pod: &str, port: u16) -> String {
        let request = PortForwardRequest { pod_sandbox_id: pod.to_owned(), port: vec![port.into()] };
        self.client.port_forward(request).await.or_fail("PortForward").into_inner().url
    }

    /// ContainerStats.
    pub async fn stats(&mut self, container: &str) -> ContainerStats {
        let request = ContainerStatsRequest { container_id: container.to_owned() };
        let answer = self.client.container_stats(request).await.or_fail("ContainerStats");
        answer.into_inner().stats.or_fail("the container's stats")
    }

    /// ListContainerStats of everything.
    pub async fn all_stats(&mut self) -> Vec<ContainerStats> {
        let answer = self.client.list_container_stats(ListContainerStatsRequest { filter: None }).await;
        answer.or_fail("ListContainerStats").into_inner().stats
    }

    /// ContainerStatus.
    pub async fn status(&mut self, container: &str) -> ContainerStatus {
        let request = ContainerStatusRequest { container_id: container.to_owned(), verbose: false };
        let answer = self.client.container_status(request).await.or_fail("ContainerStatus");
        answer.into_inner().status.or_fail("the container's status")
    }

    /// The OCI specification that containerd made for a container.
    pub async fn specification(&mut self, container: &str) -> serde_json::Value {
        let request = ContainerStatusRequest { container_id: container.to_owned(), verbose: true };
        let answer = self.client.container_status(request).await.or_fail("ContainerStatus").into_inner();
        let info = answer.info.get("info").or_fail("what containerd says of a container");
        let info: serde_json::Value =
            serde_json::from_str(info).or_fail("what containerd says of a container");
        info["runtimeSpec"].clone()
    }

    /// State out of [`status`](Self::status).
    pub async fn state(&mut self, container: &str) -> ContainerState {
        self.status(container).await.state()
    }

    /// UpdateContainerResources.
    pub async fn update(&mut self, container: &str, linux: LinuxContainerResources) {
        self.try_update(container, linux).await.or_fail("UpdateContainerResources");
    }

    /// UpdateContainerResources, or the text that kubelet gets.
    ///
    /// # Errors
    ///
    /// What containerd answers.
    pub async fn try_update(
        &mut self,
        container: &str,
        linux: LinuxContainerResources,
    ) -> Result<(), Status> {
        let request = UpdateContainerResourcesRequest {
            container_id: container.to_owned(),
            linux: Some(linux),
            ..UpdateContainerResourcesRequest::default()
        };
        self.client.update_container_resources(request).await.map(drop)
    }

    /// StopContainer with `seconds` between SIGTERM and SIGKILL.
    pub async fn stop(&mut self, container: &str, seconds: i64) {
        let request = StopContainerRequest { container_id: container.to_owned(), timeout: seconds };
        self.client.stop_container(request).await.or_fail("StopContainer");
    }

    /// RemoveContainer.
    pub async fn remove(&mut self, container: &str) {
        let request = RemoveContainerRequest { container_id: container.to_owned() };
        self.client.remove_container(request).await.or_fail("RemoveContainer");
    }
}
