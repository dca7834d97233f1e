//! Files of the host that a container sees: copied into the guest, and again when they change.

use agent_client::{Agent, Mirror, Watcher};
use guest_spec::{Copy, CopyKind};
use slog::{Logger, info, warn};
use tokio::task::JoinHandle;

use crate::api::{Error, Result, one_line};

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A container's copied volumes; dropping it ends the watching.
#[derive(Debug, Default)]
pub struct Volumes {
    watching: Option<JoinHandle<()>>,
}

impl Volumes {
    /// Copies `copies` into the guest, and keeps those up to date that ask for it.
    ///
    /// # Errors
    /// A file cannot be read, is too large, or the guest refuses it.
    pub async fn copy_in(copies: &[Copy], agent: &Agent, log: &Logger) -> Result<Self> {
        let mut watched = None;
        for copy in copies {
            let failed =
                |error: Cause| Error::failed(format!("copy {} into the guest", copy.host.display()), error);
            let (host, guest) = (copy.host.clone(), copy.guest.clone());
            let mut mirror = match copy.kind {
                CopyKind::File => Mirror::file(host, guest),
                CopyKind::Tree => Mirror::tree(host, guest),
            };
            if !copy.watch {
                mirror.sync(agent).await.map_err(|error| failed(error.into()))?;
                continue;
            }
            let (watcher, mirrors) = match &mut watched {
                Some(watched) => watched,
                None => watched.insert((Watcher::new().map_err(|error| failed(error.into()))?, Vec::new())),
            };
            // Watched first: a change during the copy is then seen as well.
            watcher.add(&copy.host).map_err(|error| failed(error.into()))?;
            mirror.sync(agent).await.map_err(|error| failed(error.into()))?;
            mirrors.push(mirror);
        }
        let watching = watched
            .map(|(watcher, mirrors)| tokio::spawn(follow(watcher, mirrors, agent.clone(), log.clone())));
        Ok(Self { watching })
    }
}

impl Drop for Volumes {
    fn drop(&mut self) {
        if let Some(watching) = &self.watching {
            watching.abort();
        }
    }
}

/// Copies what changes, for as long as the container is there.
async fn follow(watcher: Watcher, mut mirrors: Vec<Mirror>, agent: Agent, log: Logger) {
    loop {
        let changed = match watcher.changed().await {
            Ok(changed) => changed,
            Err(error) => {
                warn!(log, "volumes are no longer watched for changes"; "error" => one_line(&error));
                return;
            }
        };
        for mirror in mirrors.iter_mut().filter(|mirror| changed.iter().any(|path| path == mirror.host())) {
            let volume = mirror.host().display().to_string();
            match mirror.sync(&agent).await {
                Ok(()) => info!(log, "volume updated in the guest"; "volume" => volume),
                // The next change tries again.
                Err(error) => {
                    warn!(log, "volume not updated in the guest"; "volume" => volume, "error" => one_line(&error));
                }
            }
        }
    }
}
