//! From what containerd said of a pod to a running VM with the sandbox set up in it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::time::SystemTime;

use agent_client::AgentError;
use agent_client::proto::agent::CreateContainerRequest;
use guest_spec::VmSize;
use jail::{OWN_PROGRAM, Role};
use model_volumes::{DOCUMENT, Volumes};
use oci_spec::runtime::Spec;
use readiness::{Offer, Root};
use shared_types::kernel_keys::NO_COMPONENTS;
use slog::{info, warn};
use vmm::boot::{Planned, Request};
use vmm_config::config::{FILE, NodeConfig};
use vmm_config::image::ImageManifest;
use vmm_config::request::{OciLimits, PodRequest};

use super::own::{PodFiles, own_container};
use super::pinned::Pinned;
use super::pod_vm::{Context, DataHub, PodVm};
use super::volumes::Volumes as Copies;
use super::{bundle, gpus, guest};
use crate::api::{CreateSandboxRequest, Error, PodFacts, Result, RuntimeOptions, one_line};

/// Largest configuration file or manifest that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The policy's name in a pod's initdata.
const POLICY: &str = "policy.rego";

/// Everything that decides a pod's VM.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// Where the node's configuration is.
    pub options: RuntimeOptions,
    /// Annotations of the sandbox, none of them trusted.
    pub annotations: BTreeMap<String, String>,
    /// Limits of the container that is the whole pod; CRI's annotations come before them.
    pub limits: OciLimits,
    /// The network namespace that CNI made.
    pub netns: Option<PathBuf>,
    /// The cgroup that the engine wants the sandbox in.
    pub cgroup: Option<String>,
    /// The pod's host name.
    pub hostname: String,
    /// Size in bytes of the containers' shared `/dev/shm`.
    pub shm_size: u64,
    /// Device nodes of the host that the engine gives the container that is the whole pod.
    pub devices: Vec<PathBuf>,
    /// The image that the first container wants pulled in the guest.
    pub pulled: Option<String>,
    /// What the pod has that an engine would have made.
    pub own: Option<Own>,
}

/// What is made for a pod for which the engine makes nothing.
#[derive(Debug, Clone)]
pub struct Own {
    /// The pod's own container.
    pub container: CreateContainerRequest,
    /// Files of each of its containers.
    pub files: PodFiles,
}

impl Launch {
    /// The pod whose first container has this spec.
    pub fn of_container(spec: &Spec, options: RuntimeOptions) -> Self {
        let annotations = spec.annotations().iter().flatten();
        Self {
            options,
            annotations: annotations.map(|(name, value)| (name.clone(), value.clone())).collect(),
            limits: bundle::limits(spec),
            netns: bundle::netns(spec),
            cgroup: bundle::cgroup(spec),
            hostname: spec.hostname().clone().unwrap_or_default(),
            shm_size: bundle::shm_size(spec),
            devices: bundle::devices(spec),
            pulled: None,
            own: None,
        }
    }

    /// The pod that the Sandbox API was told of.
    ///
    /// # Errors
    /// The pod wants what a VM cannot have, or its files cannot be written.
    pub fn of_sandbox(
        request: &CreateSandboxRequest,
        namespace: &str,
        options: RuntimeOptions,
    ) -> Result<Self> {
        let PodFacts { hostname, cgroup_parent, .. } = &request.facts;
        let container = own_container(&request.id, namespace, &request.facts)?;
        Ok(Self {
            options,
            // What the engine says itself counts, whatever annotations came with it.
            annotations: request
                .annotations
                .clone()
                .into_iter()
                .chain(request.facts.of_a_pause_container())
                .collect(),
            limits: OciLimits::default(),
            netns: request.netns.clone(),
            cgroup: cgroup_below(cgroup_parent, request.id.as_str()),
            hostname: hostname.clone(),
            shm_size: 64 << 20,
            devices: Vec::new(),
            pulled: None,
            own: Some(Own { container, files: PodFiles::write(request)? }),
        })
    }
}

/// The `cgroupsPath` that containerd's CRI plugin would write into the spec of a pause container.
fn cgroup_below(parent: &str, id: &str) -> Option<String> {
    match Path::new(parent).file_name()?.to_str()? {
        slice if slice.ends_with(".slice") => Some(format!("{slice}:cri-containerd:{id}")),
        _ => Some(format!("{parent}/{id}")),
    }
}

/// Boots the VM and sets the sandbox up in it.
///
/// # Errors
/// Anything that is missing or fails; whatever was taken is released.
pub async fn launch(launch: Launch, context: &Arc<Context>) -> Result<PodVm> {
    let log = &context.log;
    let config = read_config(&launch.options)?;
    let Offer { tee, warnings } = readiness::tee(&Root::host(), &config)?;
    for warned in &warnings {
        warn!(log, "this host's confidential VMs"; "warning" => %warned);
    }
    let image = read_image(&config)?;
    let annotations = launch.annotations.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let pod = PodRequest::new(&config, context.id.as_str(), annotations, launch.limits)
        .map_err(|error| Error::InvalidRequest { field: "pod", reason: one_line(&error) })?;
    for ignored in &pod.ignored {
        warn!(log, "annotation ignored"; "annotation" => &ignored.name, "reason" => ignored.reason.text());
    }
    info!(log, "VM size"; "vcpus" => pod.vcpus.get(), "vcpus_from" => pod.vcpus_from.name(),
        "memory" => %pod.memory, "memory_from" => pod.memory_from.name(), "image" => &image.name);
    let policy = pod.initdata.as_ref().and_then(|initdata| initdata.data().get(POLICY));
    let pinned = policy.map(|policy| Pinned::of(policy)).unwrap_or_default().into();
    let declared = pod.initdata.as_ref().and_then(|initdata| initdata.data().get(DOCUMENT));
    let volumes = Volumes::parse(declared.map_or("", String::as_str)).map_err(|error| {
        let reason = format!("{DOCUMENT} of the pod's initdata is not usable: {error}");
        Error::InvalidRequest { field: "initdata", reason }
    })?;
    let size = VmSize { vcpus: pod.vcpus.get().into(), memory: pod.memory.size().bytes() };
    let limited = launch.limits != OciLimits::default() || pod.has_limits();
    let data_hub = data_hub(
        &image,
        pod.initdata.as_ref().is_some_and(|document| document.key_brokers() != (false, false)),
    );
    let scratch = pod.scratch.is_some();
    if let Some(pulled) = launch.pulled.filter(|_| data_hub != DataHub::Components) {
        return Err(Error::GuestPull { image: pulled, guest: image.name });
    }
    let name = Arc::from(image.name.as_str());
    let builder = config.qemu_users.of_process(process::id(), Role::ImageBuilder);
    let request = Request {
        namespace: context.namespace.to_string(),
        sandbox: context.id.to_string(),
        config,
        tee,
        image,
        pod,
        netns: launch.netns,
        cgroup: launch.cgroup,
        limited,
        devices: gpus::of_pod(&launch.annotations, &launch.devices, log).await?,
        jailer: OWN_PROGRAM.into(),
        state_root: Path::new(vmm::state::ROOT).to_owned(),
    };
    let claimed = Planned::new(request, log).claim().await?;
    let ready = claimed.spawn().await?.qmp().await?.agent().await?;
    let (mut seccomp, mut devices) = (false, Vec::new());
    let (own, files) = launch.own.map(|own| (own.container, own.files)).unzip();
    let sandbox = guest::GuestSandbox {
        id: context.id.to_string(),
        hostname: launch.hostname,
        shm_size: launch.shm_size,
    };
    let vm = ready
        .run(async |agent, endpoints, spec| {
            let details = guest::set_up(agent, endpoints, sandbox, log).await?;
            seccomp = details.supports_seccomp;
            devices = gpus::in_guest(spec);
            if let Some(own) = own {
                agent.create_container(own).await?;
                agent.start_container(context.id.as_str()).await?;
            }
            Ok::<_, AgentError>(())
        })
        .await?;
    let (devices, context) = (devices.into(), Arc::clone(context));
    let copies = Copies::new(vm.agent().clone(), &context.log);
    let volumes = volumes.into();
    Ok(PodVm {
        shares_pids: Arc::default(),
        oom_score: Arc::default(),
        vm,
        builder,
        seccomp,
        data_hub,
        scratch,
        image: name,
        pinned,
        volumes,
        copies,
        files,
        devices,
        size,
        since: SystemTime::now(),
        context,
    })
}

/// Who is the data hub in a guest of this image, whose initdata names a key broker or not. The agent asks our own service only
/// where its command line has the word for it, which images of earlier versions have not.
fn data_hub(image: &ImageManifest, has_broker: bool) -> DataHub {
    let (key, value) = NO_COMPONENTS;
    if !image.guest_components.is_empty() {
        DataHub::Components
    } else if has_broker && image.cmdline.value(key) == Some(value) {
        DataHub::Service
    } else {
        DataHub::Nobody
    }
}

/// The node's configuration: in line from the engine, from the file that the engine names, from the usual file, or
/// the defaults where that does not exist.
fn read_config(options: &RuntimeOptions) -> Result<NodeConfig> {
    let (text, path) = match (&options.config_body, &options.config_path) {
        (Some(body), _) => (body.clone(), PathBuf::from("the runtime's ConfigBody")),
        (None, Some(path)) => (
            read(path).map_err(|error| Error::failed(format!("read {}", path.display()), error))?,
            path.clone(),
        ),
        (None, None) => match read(Path::new(FILE)) {
            Ok(text) => (text, PathBuf::from(FILE)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(NodeConfig::default()),
            Err(error) => return Err(Error::failed(format!("read {FILE}"), error)),
        },
    };
    let path = path.display().to_string();
    NodeConfig::parse(&text, &path)
        .map_err(|error| Error::InvalidRequest { field: "configuration", reason: one_line(&error) })
}

/// The guest image's manifest, and that its files are there.
fn read_image(config: &NodeConfig) -> Result<ImageManifest> {
    let missing = |path: &Path, error: io::Error| {
        let what = format!(
            "use the guest image {} (key `image` of the node's configuration): {} cannot be read",
            config.image.as_str(),
            path.display()
        );
        Error::failed(what, error)
    };
    let manifest = config.image.as_path().join("image.json");
    let text = read(&manifest).map_err(|error| missing(&manifest, error))?;
    let image = ImageManifest::parse(text.as_bytes())
        .map_err(|error| Error::failed(format!("use the guest image {}", config.image.as_str()), error))?;
    for file in [&image.kernel.file, &image.root.file] {
        let path = config.image.as_path().join(file.as_str());
        File::open(&path).map_err(|error| missing(&path, error))?;
    }
    if let Some(firmware) = &config.firmware {
        File::open(firmware.as_path()).map_err(|error| {
            let what = format!("use the firmware {} (key `firmware`)", firmware.as_str());
            Error::failed(what, error)
        })?;
    }
    Ok(image)
}

fn read(path: &Path) -> io::Result<String> {
    let text = host_claims::files::read(path, MAX_FILE)?;
    String::from_utf8(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_body(body: &str) -> RuntimeOptions {
        RuntimeOptions { config_body: Some(body.to_owned()), config_path: None }
    }

    #[test]
    fn a_pods_cgroup_is_where_containerd_would_put_its_pause_container() {
        let below = |parent| cgroup_below(parent, "pod");
        assert_eq!(below("/kubepods/burstable/pod1").as_deref(), Some("/kubepods/burstable/pod1/pod"));
        assert_eq!(
            below("/kubepods.slice/kubepods-pod1.slice").as_deref(),
            Some("kubepods-pod1.slice:cri-containerd:pod")
        );
        assert_eq!(below(""), None);
    }

    #[test]
    fn an_unknown_key_stops_the_start_and_is_named() {
        let error = read_config(&with_body("imgae = \"/x\"")).unwrap_err();
        assert!(one_line(&error).contains("imgae"), "{error}");
    }

    #[test]
    fn a_named_configuration_that_is_missing_is_an_error() {
        let options = RuntimeOptions { config_body: None, config_path: Some("/no/such/config.toml".into()) };
        let text = one_line(&read_config(&options).unwrap_err());
        assert!(text.contains("/no/such/config.toml") && text.contains("No such file"), "{text}");
    }

    #[test]
    fn a_missing_image_names_the_file_and_the_key() {
        let config = read_config(&with_body("image = \"/no/image\"")).unwrap();
        let text = one_line(&read_image(&config).unwrap_err());
        assert!(text.contains("/no/image/image.json") && text.contains("`image`"), "{text}");
    }
}
