//! Files of the node that a container names. What is there may be a server's that does not answer, or somebody else's: so they
//! are looked at beside the shim's one thread, and not everywhere.

use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use host_claims::aside::aside;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::api::{Error, Result};

/// How long the node may take to say what is there.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

/// How many may look at the same time. What hangs keeps its place, a thread, until its server answers; a container whose volume
/// hangs takes one with each try, which kubelet makes every five minutes at most.
static PLACES: Semaphore = Semaphore::const_new(512);

/// Directories of the engines and of Coffer: what is below belongs to all pods of the node.
const SHARED: [&str; 15] = [
    "/proc",
    "/run/coffer",
    "/run/containerd",
    "/run/containers",
    "/run/k0s",
    "/run/k3s",
    "/var/lib/coffer",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/docker",
    "/var/lib/k0s",
    "/var/lib/kubelet",
    "/var/lib/rancher/k3s",
    "/var/lib/rancher/rke2",
    "/var/snap/microk8s",
];
/// How the directories of containerd's plugins begin, wherever its own is.
const PLUGIN: &str = "io.containerd.";
/// Directories whose place may be another: of CRI-O's storage, and where kubelet mounts a volume for all pods that use it.
const SHARED_BY_NAME: [&str; 3] = ["overlay-containers", "overlay-images", "globalmount"];

/// Says which file is looked at.
#[derive(Debug, Default)]
pub struct Looking(Mutex<PathBuf>);

impl Looking {
    /// The next one.
    pub fn at(&self, path: &Path) {
        path.clone_into(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Does `work`, which looks at files of the node, in nobody's way.
///
/// # Errors
/// It has no answer in time; with the file that it was at.
pub async fn look<T: Send + 'static>(work: impl FnOnce(&Looking) -> T + Send + 'static) -> Result<T> {
    let found = Arc::new(Mutex::new(None));
    let theirs = Arc::clone(&found);
    let work = move |looking: &Looking| {
        let answer = work(looking);
        *theirs.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
    };
    run(Box::new(work)).await?;
    let found = found.lock().unwrap_or_else(PoisonError::into_inner).take();
    found
        .ok_or_else(|| Error::failed("look at files of the node", io::Error::from(io::ErrorKind::BrokenPipe)))
}

/// The same for all that is looked for: its code is there once.
async fn run(work: Box<dyn FnOnce(&Looking) + Send>) -> Result<()> {
    let looking = Arc::new(Looking::default());
    let theirs = Arc::clone(&looking);
    let failed = |reason: Box<dyn std::error::Error + Send + Sync>| {
        let path = looking.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // None before it begins.
        let what = if path.as_os_str().is_empty() { Path::new("the node's files") } else { &path };
        Error::failed(format!("look at {} for the container", what.display()), reason)
    };
    let looked = async {
        let place = PLACES.acquire().await.map_err(io::Error::other)?;
        let work = move || {
            let _place = place;
            work(&theirs);
        };
        aside("volumes", work).await
    };
    match timeout(PATIENCE, looked).await {
        Ok(done) => done.map_err(|error| failed(error.into())),
        Err(_) => {
            let seconds = PATIENCE.as_secs();
            Err(failed(
                format!(
                    "no answer for {seconds} s; a volume's server may be gone (`stat` waits as well then)"
                )
                .into(),
            ))
        }
    }
}

/// Whether a file is in a volume that kubelet has for the pod with this UID; for a container that is no pod's (`None`) any is,
/// for root of this host has named it.
pub fn is_of_pod(path: &Path, uid: Option<&str>) -> bool {
    uid.is_none_or(|uid| !goes_up(path) && pod_of(path).is_some_and(|pod| pod == uid))
}

/// The UID in whose volumes a file is by its path, wherever kubelet's directory is. The first of such names counts: what is
/// below a volume is its pod's to name.
fn pod_of(path: &Path) -> Option<&OsStr> {
    let parts: Vec<_> = path.iter().collect();
    let mut threes = parts.windows(3);
    threes
        .find(|three| three[0] == "pods" && (three[2] == "volumes" || three[2] == "volume-subpaths"))
        .map(|three| three[1])
}

/// Whether a file of the node can be a pod's volume, judged by its path, which has no link: all but what is the engine's,
/// Coffer's or another pod's.
pub fn can_be_volume(path: &Path, uid: Option<&str>) -> bool {
    if goes_up(path) || !path.is_absolute() {
        return false;
    }
    if pod_of(path).is_some() {
        return is_of_pod(path, uid);
    }
    let is_shared = |part: &str| part.starts_with(PLUGIN) || SHARED_BY_NAME.contains(&part);
    !SHARED.iter().any(|directory| path.starts_with(directory))
        && !path.iter().any(|part| part.to_str().is_none_or(is_shared))
}

fn goes_up(path: &Path) -> bool {
    path.components().any(|part| part == Component::ParentDir)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    /// As with a server that is gone: the thread hangs, the shim does not, and who waits is told what hangs.
    #[tokio::test]
    async fn a_volume_that_does_not_answer_stops_nobody_else() {
        let (answer, server) = mpsc::channel::<()>();
        let hangs = look(move |looking| {
            looking.at(Path::new("/mnt/nfs/weights.img"));
            server.recv()
        });
        let others = tokio::time::sleep(Duration::from_millis(200));
        let start = Instant::now();
        let (error, others) = tokio::join!(hangs, async {
            others.await;
            start.elapsed()
        });
        assert!(others < PATIENCE, "others were held up for {others:?}");
        let text = crate::api::one_line(&error.unwrap_err());
        assert!(text.contains("/mnt/nfs/weights.img") && text.contains("no answer for 1 s"), "{text}");
        drop(answer);
        assert_eq!(look(|_| 7).await.unwrap(), 7);
    }

    #[test]
    fn what_is_the_engines_coffers_or_another_pods_is_no_volume() {
        let (own, kubelet) = (Some("8c5d"), "/var/lib/kubelet/pods");
        let can = |path: &str| can_be_volume(Path::new(path), own);
        for path in [
            "/var/lib/containerd/io.containerd.snapshotter.v1.erofs/snapshots/12/layer.erofs",
            "/data/engine/io.containerd.snapshotter.v1.erofs/snapshots/12/layer.erofs",
            "/var/lib/coffer/layers/sha256/ab.erofs",
            "/var/lib/coffer/erofs/own-1.erofs",
            "/run/coffer/k8s.io/pod/vm/initdata",
            "/var/lib/containers/storage/overlay/x/diff/weights.img",
            "/data/storage/overlay-containers/x/userdata/file",
            "/var/lib/rancher/k3s/agent/containerd/x",
            "/proc/1/root/weights.img",
            "/srv/../var/lib/coffer/layers/x",
            "weights.img",
            &format!("{kubelet}/9e1f/volumes/kubernetes.io~csi/pv/mount/weights.img"),
            "/data/kubelet/pods/9e1f/volume-subpaths/pv/app/0",
            "/var/lib/kubelet/plugins/kubernetes.io/csi/x/globalmount/weights.img",
            "/data/kubelet/plugins/kubernetes.io/csi/x/globalmount/weights.img",
            // Another pod's, whatever that one calls its directories.
            &format!("{kubelet}/9e1f/volumes/kubernetes.io~csi/pv/mount/pods/8c5d/volumes/weights.img"),
        ] {
            assert!(!can(path), "{path}");
        }
        for path in [
            "/srv/models/weights.img",
            "/dev/nvme1n1",
            "/dev/mapper/models-weights",
            "/srv/pods/weights.img",
            &format!("{kubelet}/8c5d/volumes/kubernetes.io~csi/pv/mount/weights.img"),
            "/data/kubelet/pods/8c5d/volume-subpaths/pv/app/0",
        ] {
            assert!(can(path), "{path}");
        }
    }

    #[test]
    fn a_pods_directory_is_its_own() {
        let path = Path::new("/var/lib/kubelet/pods/8c5d/volumes/kubernetes.io~secret/keys");
        assert!(is_of_pod(path, Some("8c5d")) && is_of_pod(path, None));
        assert!(!is_of_pod(path, Some("9e1f")) && !is_of_pod(path, Some("")));
        assert!(!is_of_pod(Path::new("/srv/pods/8c5d/volumes/../../9e1f/volumes/x"), Some("8c5d")));
        let named_like_it = Path::new("/k/pods/9e1f/volumes/x/pods/8c5d/volumes/kubernetes.io~secret/keys");
        assert!(!is_of_pod(named_like_it, Some("8c5d")) && is_of_pod(named_like_it, Some("9e1f")));
    }
}
