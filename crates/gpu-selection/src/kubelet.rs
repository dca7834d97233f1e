//! Which devices kubelet gave to a pod: its PodResources API, v1.
//!
//! `Get` asks for one pod; it is behind a feature gate before Kubernetes 1.34, and `List` answers then. The
//! answer names a pod by namespace and name only. Kubelet's checkpoint of its device manager has the UID, see
//! [`crate::checkpoint`].

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::grpc::{self, code, unary};
use crate::pod::Pod;
use crate::proto::{
    ContainerResources, GetPodResourcesRequest, GetPodResourcesResponse, ListPodResourcesRequest,
    ListPodResourcesResponse, PodResources,
};

const GET: &str = "/v1.PodResourcesLister/Get";
const LIST: &str = "/v1.PodResourcesLister/List";

/// One call's limit: kubelet answers from memory.
const CALL: Duration = Duration::from_secs(10);
/// Between two tries. Kubelet allows 100 calls a second over all its clients.
const PAUSE: Duration = Duration::from_millis(200);

/// Why kubelet's answer is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The call failed.
    #[error("kubelet: {0}")]
    Call(#[source] grpc::Error),
    /// No answer in time.
    #[error("kubelet did not answer within {} s", .0.as_secs_f32())]
    Silent(Duration),
    /// It does not know the pod.
    #[error("kubelet does not know the pod (yet)")]
    UnknownPod,
    /// It has two pods of one name.
    #[error("kubelet has two pods of this name; one of them must go first")]
    Twice,
}

impl Error {
    /// Whether the next try may bring another answer: kubelet starts, or has not taken the pod up yet.
    fn passes(&self) -> bool {
        match self {
            Self::Silent(_) | Self::UnknownPod | Self::Twice => true,
            Self::Call(grpc::Error::Connect(_) | grpc::Error::Http2(_)) => true,
            Self::Call(grpc::Error::Status { code, .. }) => {
                matches!(
                    *code,
                    code::UNAVAILABLE | code::RESOURCE_EXHAUSTED | code::NOT_FOUND | code::UNKNOWN
                )
            }
            Self::Call(_) => false,
        }
    }
}

/// One device of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Allocation {
    pub(crate) container: String,
    pub(crate) what: What,
}

/// How a device is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// By a device plugin: resource and id.
    Plugin { resource: String, id: String },
    /// By a claim of dynamic resource allocation: a qualified CDI name.
    Claim(String),
}

/// Asks until there is an answer, for as long as `patience`; the answer may be that the pod has nothing.
pub(crate) async fn allocations(
    socket: &Path,
    pod: &Pod,
    patience: Duration,
) -> Result<Vec<Allocation>, Error> {
    let end = Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(Instant::now()).min(CALL);
        let asked = timeout(left, ask(socket, pod)).await;
        let error = match asked.unwrap_or(Err(Error::Silent(left))) {
            Ok(found) => return Ok(flatten(found)),
            Err(error) => error,
        };
        if !error.passes() || Instant::now() + PAUSE >= end {
            return Err(error);
        }
        sleep(PAUSE).await;
    }
}

async fn ask(socket: &Path, pod: &Pod) -> Result<PodResources, Error> {
    let request = GetPodResourcesRequest {
        pod_name: pod.name.clone(),
        pod_namespace: pod.namespace.clone(),
        ..Default::default()
    };
    match unary::<GetPodResourcesResponse>(socket, GET, &request).await {
        Ok(mut answer) => match answer.pod_resources.take() {
            Some(found) if is(&found, pod) => Ok(found),
            _ => Err(Error::UnknownPod),
        },
        // Kubelet says "unknown" for a disabled method as well as for a pod that it does not know.
        Err(grpc::Error::Status { code: code::UNIMPLEMENTED | code::UNKNOWN | code::NOT_FOUND, .. }) => {
            list(socket, pod).await
        }
        Err(error) => Err(Error::Call(error)),
    }
}

async fn list(socket: &Path, pod: &Pod) -> Result<PodResources, Error> {
    let answer: ListPodResourcesResponse =
        unary(socket, LIST, &ListPodResourcesRequest::default()).await.map_err(Error::Call)?;
    let mut ours = answer.pod_resources.into_iter().filter(|found| is(found, pod));
    let found = ours.next().ok_or(Error::UnknownPod)?;
    if ours.next().is_some() { Err(Error::Twice) } else { Ok(found) }
}

fn is(found: &PodResources, pod: &Pod) -> bool {
    (&found.namespace, &found.name) == (&pod.namespace, &pod.name)
}

fn flatten(found: PodResources) -> Vec<Allocation> {
    found.containers.into_iter().flat_map(of_container).collect()
}

fn of_container(container: ContainerResources) -> Vec<Allocation> {
    let ContainerResources { name, devices, dynamic_resources, .. } = container;
    let plugin = devices.into_iter().flat_map(|devices| {
        let resource = devices.resource_name;
        devices.device_ids.into_iter().map(move |id| What::Plugin { resource: resource.clone(), id })
    });
    let claims = dynamic_resources
        .into_iter()
        .flat_map(|resource| resource.claim_resources)
        .flat_map(|claim| claim.cdi_devices)
        .map(|device| What::Claim(device.name));
    plugin.chain(claims).map(|what| Allocation { container: name.clone(), what }).collect()
}

/// Kubelet's root: its own, which kubeadm, k3s and rke2 leave as it is; k0s's (`--root-dir` of
/// pkg/component/worker/kubelet.go); MicroK8s's (microk8s-resources/default-args/kubelet).
pub(crate) const ROOTS: [&str; 3] =
    ["/var/lib/kubelet", "/var/lib/k0s/kubelet", "/var/snap/microk8s/common/var/lib/kubelet"];

/// Sockets of kubelet's that are not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoKubelet(Vec<PathBuf>);

impl fmt::Display for NoKubelet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sockets: Vec<_> = self.0.iter().map(|socket| socket.display().to_string()).collect();
        write!(f, "kubelet's socket is missing, there is none of {}", sockets.join(", "))
    }
}

/// The first of the directories where kubelet's socket is.
pub(crate) fn root(roots: &[PathBuf]) -> Result<&Path, NoKubelet> {
    let missing = |socket: &Path| {
        std::fs::symlink_metadata(socket).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    let there = roots.iter().find(|root| !missing(&socket(root)));
    there.map(PathBuf::as_path).ok_or_else(|| NoKubelet(roots.iter().map(|root| socket(root)).collect()))
}

/// Where kubelet serves the API, below its root.
pub(crate) fn socket(root: &Path) -> PathBuf {
    root.join("pod-resources/kubelet.sock")
}
