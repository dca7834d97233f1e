//! Pods through CRI, in as few words as a test needs.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use k8s_cri::v1::{
    CdiDevice, ContainerConfig, ContainerMetadata, ContainerState, DnsConfig, ExecSyncResponse, ImageSpec,
    LinuxContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, Mount, NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata,
};
use tonic::Status;

use crate::cri::Cri;
use crate::kubelet::PodDirectory;
use crate::or_fail::OrFail;
use crate::wait::until;

const LIMIT: Duration = Duration::from_secs(30);

/// A pod to be.
#[derive(Debug)]
pub struct PodRequest {
    cri: Cri,
    config: PodSandboxConfig,
    handler: String,
}

impl PodRequest {
    /// A pod called `name` for the handler `coffer`.
    pub fn new(cri: Cri, name: &str) -> Self {
        let namespaces = NamespaceOption {
            network: NamespaceMode::Pod.into(),
            pid: NamespaceMode::Container.into(),
            ipc: NamespaceMode::Pod.into(),
            ..NamespaceOption::default()
        };
        let metadata = PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "default".to_owned(),
            attempt: 0,
        };
        let linux = LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces),
                ..LinuxSandboxSecurityContext::default()
            }),
            ..LinuxPodSandboxConfig::default()
        };
        let config = PodSandboxConfig {
            metadata: Some(metadata),
            hostname: name.to_owned(),
            log_directory: format!("/var/log/pods/default_{name}"),
            dns_config: Some(DnsConfig {
                servers: vec!["10.99.0.53".to_owned()],
                searches: vec!["e2e.test".to_owned()],
                options: vec!["ndots:5".to_owned()],
            }),
            linux: Some(linux),
            ..PodSandboxConfig::default()
        };
        Self { cri, config, handler: "coffer".to_owned() }
    }

    /// Another runtime handler.
    #[must_use]
    pub fn handler(mut self, name: &str) -> Self {
        self.handler = name.to_owned();
        self
    }

    /// An annotation of the pod.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.config.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// A sysctl of the pod.
    #[must_use]
    pub fn sysctl(mut self, name: &str, value: &str) -> Self {
        self.linux().sysctls.insert(name.to_owned(), value.to_owned());
        self
    }

    /// A pod that may have privileged containers.
    #[must_use]
    pub fn privileged(mut self) -> Self {
        self.linux().security_context.get_or_insert_default().privileged = true;
        self
    }

    /// Its containers see each other's processes.
    #[must_use]
    pub fn shared_processes(mut self) -> Self {
        let context = self.linux().security_context.get_or_insert_default();
        context.namespace_options.get_or_insert_default().pid = NamespaceMode::Pod.into();
        self
    }

    /// The pod's cgroup, which kubelet made.
    #[must_use]
    pub fn cgroup_parent(mut self, path: &str) -> Self {
        self.linux().cgroup_parent = path.to_owned();
        self
    }

    /// The sum of the containers' limits, as kubelet tells it: memory in bytes and CPUs.
    #[must_use]
    pub fn resources(mut self, memory: i64, cpus: i64) -> Self {
        self.linux().resources = Some(LinuxContainerResources {
            memory_limit_in_bytes: memory,
            cpu_period: 100_000,
            cpu_quota: cpus * 100_000,
            ..LinuxContainerResources::default()
        });
        self
    }

    /// Runs it; fails the test with containerd's text if it does not start.
    pub async fn start(self) -> Pod {
        match self.try_start().await {
            Ok(pod) => pod,
            Err(status) => panic!("RunPodSandbox: {}", status.message()),
        }
    }

    /// Runs it, or gives the text that the pod's event would have.
    ///
    /// # Errors
    ///
    /// What containerd answers.
    pub async fn try_start(mut self) -> Result<Pod, Status> {
        fs::create_dir_all(&self.config.log_directory).or_fail("make the log directory");
        let id = self.cri.run_pod(&self.config, &self.handler).await?;
        let uid = self.config.metadata.as_ref().map(|metadata| metadata.uid.clone()).unwrap_or_default();
        Ok(Pod { cri: self.cri, id, config: self.config, directory: PodDirectory::new(&uid) })
    }

    fn linux(&mut self) -> &mut LinuxPodSandboxConfig {
        self.config.linux.get_or_insert_default()
    }
}

/// A running pod.
#[derive(Debug)]
pub struct Pod {
    /// The connection that made it.
    pub cri: Cri,
    /// The sandbox's id.
    pub id: String,
    /// Its volumes on the node.
    pub directory: PodDirectory,
    config: PodSandboxConfig,
}

impl Pod {
    /// Creates and starts a container.
    pub async fn run(
        &mut self,
        name: &str,
        image: &str,
        command: &[&str],
        mounts: Vec<Mount>,
    ) -> PodContainer {
        match self.try_run(name, image, command, mounts).await {
            Ok(container) => container,
            Err(status) => panic!("container {name}: {}", status.message()),
        }
    }

    /// Creates and starts a container, or gives the text that the pod's event would have.
    ///
    /// # Errors
    ///
    /// What containerd answers.
    pub async fn try_run(
        &mut self,
        name: &str,
        image: &str,
        command: &[&str],
        mounts: Vec<Mount>,
    ) -> Result<PodContainer, Status> {
        let config = self.container_config(name, image, command, mounts);
        self.try_run_config(&config).await
    }

    /// The same as kubelet does it for a container without requests and limits, with the image's name as the manifest
    /// has it.
    ///
    /// # Errors
    ///
    /// What containerd answers.
    pub async fn try_run_written(
        &mut self,
        name: &str,
        image: &str,
        written: &str,
        command: &[&str],
        mounts: Vec<Mount>,
    ) -> Result<PodContainer, Status> {
        let config = self.written(name, image, written, command, mounts);
        self.try_run_config(&config).await
    }

    /// The same with a CDI device.
    ///
    /// # Errors
    ///
    /// What containerd answers.
    pub async fn try_run_written_with_device(
        &mut self,
        name: &str,
        (image, written): (&str, &str),
        command: &[&str],
        mounts: Vec<Mount>,
        device: &str,
    ) -> Result<PodContainer, Status> {
        let mut config = self.written(name, image, written, command, mounts);
        config.cdi_devices = vec![CdiDevice { name: device.to_owned() }];
        self.try_run_config(&config).await
    }

    /// The same with a CDI device, as kubelet names one that a device plugin gave.
    ///
    /// # Errors
    ///
    /// What containerd answers.
    pub async fn try_run_with_device(
        &mut self,
        name: &str,
        image: &str,
        command: &[&str],
        device: &str,
    ) -> Result<PodContainer, Status> {
        let mut config = self.container_config(name, image, command, vec![]);
        config.cdi_devices = vec![CdiDevice { name: device.to_owned() }];
        self.try_run_config(&config).await
    }

    /// Creates and starts what kubelet asks for.
    ///
    /// # Errors
    ///
    /// What containerd answers.
    pub async fn try_run_config(&mut self, config: &ContainerConfig) -> Result<PodContainer, Status> {
        let log = PathBuf::from(&self.config.log_directory).join(&config.log_path);
        let id = self.cri.create(&self.id, config, &self.config).await?;
        if let Err(status) = self.cri.start(&id).await {
            self.cri.remove(&id).await;
            return Err(status);
        }
        Ok(PodContainer { cri: self.cri.clone(), id, log })
    }

    /// Has containerd make a container's specification, and nothing run of it.
    pub async fn specification(&mut self, config: &ContainerConfig) -> serde_json::Value {
        let id = self.cri.create(&self.id, config, &self.config).await.or_fail("CreateContainer");
        let specification = self.cri.specification(&id).await;
        self.cri.remove(&id).await;
        specification
    }

    /// The pod's addresses.
    pub async fn addresses(&mut self) -> Vec<String> {
        let status = self.cri.pod_status(&self.id).await;
        let network = status.network.or_fail("the pod's network");
        std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip)).collect()
    }

    /// Stops and removes it with all its containers.
    pub async fn remove(mut self) {
        self.cri.remove_pod(&self.id).await;
        let _ = fs::remove_dir_all(&self.config.log_directory);
    }

    /// What kubelet asks for in every case, for an image that the manifest calls `written`.
    pub fn config_of(&self, name: &str, image: &str, written: &str) -> ContainerConfig {
        let mut config = self.container_config(name, image, &[], vec![]);
        config.image.get_or_insert_default().user_specified_image = written.to_owned();
        config
    }

    /// What kubelet asks for where the pod's manifest names the image so.
    pub fn written(
        &self,
        name: &str,
        image: &str,
        written: &str,
        command: &[&str],
        mounts: Vec<Mount>,
    ) -> ContainerConfig {
        let mut config = self.container_config(name, image, command, mounts);
        config.image.get_or_insert_default().user_specified_image = written.to_owned();
        config.linux.get_or_insert_default().resources = Some(LinuxContainerResources {
            cpu_shares: 2,
            oom_score_adj: 1000,
            ..LinuxContainerResources::default()
        });
        config
    }

    /// What kubelet asks for in every case.
    pub fn container_config(
        &self,
        name: &str,
        image: &str,
        command: &[&str],
        mounts: Vec<Mount>,
    ) -> ContainerConfig {
        let namespaces = self.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() }),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            mounts,
            labels: HashMap::from([("io.kubernetes.container.name".to_owned(), name.to_owned())]),
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainerConfig {
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: namespaces.and_then(|context| context.namespace_options.clone()),
                    masked_paths: MASKED.map(str::to_owned).to_vec(),
                    readonly_paths: READONLY.map(str::to_owned).to_vec(),
                    ..LinuxContainerSecurityContext::default()
                }),
                ..LinuxContainerConfig::default()
            }),
            ..ContainerConfig::default()
        }
    }
}

/// What kubelet masks in containers that are not privileged (Kubernetes, `pkg/securitycontext/util.go`).
const MASKED: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
/// What kubelet makes read-only in containers that are not privileged (the same).
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A container of a pod.
#[derive(Debug)]
pub struct PodContainer {
    cri: Cri,
    /// The container's id.
    pub id: String,
    log: PathBuf,
}

impl PodContainer {
    /// Runs a command in it; fails the test unless its exit code is 0. Gives its standard output.
    pub async fn exec(&self, command: &[&str]) -> String {
        let answer = self.cri.clone().exec(&self.id, command).await;
        let stderr = String::from_utf8_lossy(&answer.stderr);
        assert_eq!(answer.exit_code, 0, "{command:?} failed: {stderr}");
        String::from_utf8_lossy(&answer.stdout).into_owned()
    }

    /// Runs a command in it; gives all that came of it.
    pub async fn exec_answer(&self, command: &[&str]) -> ExecSyncResponse {
        self.cri.clone().exec(&self.id, command).await
    }

    /// Runs a command in it; gives its exit code.
    pub async fn exec_code(&self, command: &[&str]) -> i32 {
        self.cri.clone().exec(&self.id, command).await.exit_code
    }

    /// Waits until its log has a line with `text` on `stream` (`stdout` or `stderr`).
    pub async fn logged(&self, stream: &str, text: &str) -> String {
        let what = format!("{text:?} on {stream} in {}", self.log.display());
        until(what, LIMIT, async || {
            let log = fs::read_to_string(&self.log).ok()?;
            log.lines().find(|line| line.contains(stream) && line.contains(text)).map(str::to_owned)
        })
        .await
    }

    /// Renames its log, as kubelet does before it asks the engine for a new one.
    pub fn rotate_log(&self) {
        fs::rename(&self.log, self.log.with_extension("log.1")).or_fail("rename a log");
    }

    /// What it has written so far, as the engine logs it.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).or_fail("read a container's log")
    }

    /// Waits until it has exited; gives its exit code.
    pub async fn exited(&self) -> i32 {
        until(format!("the end of container {}", self.id), LIMIT, async || {
            let status = self.cri.clone().status(&self.id).await;
            (status.state() == ContainerState::ContainerExited).then_some(status.exit_code)
        })
        .await
    }
}
