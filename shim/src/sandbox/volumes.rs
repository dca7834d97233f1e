//! Files of the host that a pod's containers see: copied into the guest, again when they change, and removed from it with
//! their container.
//!
//! Each container has copies of its own: a guest's policy knows a copy by the id of the container that it is for.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError, Weak};

use agent_client::{Agent, CopyError, Courier, Mirror, Watcher};
use guest_spec::{Copy, CopyKind};
use slog::{Logger, info, warn};
use tokio::sync::{Mutex, OnceCell};
use tokio::task::JoinSet;

use crate::api::{Error, Result, one_line};

/// A copy, which the copying at the start and the following of changes share.
type Shared = Arc<Mutex<Mirror>>;

/// A pod's copied volumes; clones share them.
#[derive(Debug, Clone)]
pub struct Volumes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    courier: Courier,
    log: Logger,
    /// One for the pod, opened with the first volume that is followed: a user may have 128 on a node. `None` where there
    /// is none left.
    watcher: OnceCell<Option<Arc<Watcher>>>,
    /// What is followed, by its path on the host.
    followed: StdMutex<HashMap<PathBuf, Vec<Shared>>>,
}

/// What was copied for one container.
#[derive(Debug, Default)]
pub struct Copied(Vec<(PathBuf, Shared)>);

impl Volumes {
    /// None yet, in this agent's guest.
    #[must_use]
    pub fn new(agent: Agent, log: &Logger) -> Self {
        Self(Arc::new(Inner {
            courier: Courier::new(agent),
            log: log.clone(),
            watcher: OnceCell::new(),
            followed: StdMutex::default(),
        }))
    }

    /// Copies `copies` into the guest, all at the same time, and follows those that ask for it. `copied` has what must be
    /// removed again, also after a failure.
    ///
    /// # Errors
    /// A file cannot be read, is too large, or the guest refuses it.
    pub async fn copy_in(&self, copies: &[Copy], copied: &mut Copied) -> Result<()> {
        let mut calls = JoinSet::new();
        for copy in copies {
            let (host, guest) = (copy.host.clone(), copy.guest.clone());
            let mirror = match copy.kind {
                CopyKind::File => Mirror::file(host, guest),
                CopyKind::Tree => Mirror::tree(host, guest),
            };
            let mirror: Shared = Arc::new(Mutex::new(mirror.below(copy.below.clone())));
            copied.0.push((copy.host.clone(), Arc::clone(&mirror)));
            if copy.watch {
                // Before it is copied: a change meanwhile is then seen as well.
                self.follow(&copy.host, &mirror).await;
            }
            let courier = self.0.courier.clone();
            let host = copy.host.clone();
            calls.spawn(async move { (host, mirror.lock().await.sync(&courier).await) });
        }
        let mut first: Result<()> = Ok(());
        while let Some(done) = calls.join_next().await {
            if let Ok((host, Err(error))) = done
                && first.is_ok()
            {
                first = Err(failed(&host, error));
            }
        }
        first
    }

    /// Removes a container's copies from the guest, which must have let go of them, all at the same time.
    pub async fn remove(&self, copied: Copied) {
        let mut calls = JoinSet::new();
        for (host, mirror) in copied.0 {
            self.unfollow(&host, &mirror);
            let courier = self.0.courier.clone();
            calls.spawn(async move { (host, mirror.lock().await.remove(&courier).await) });
        }
        while let Some(done) = calls.join_next().await {
            if let Ok((host, Err(error))) = done {
                warn!(self.0.log, "a copied volume stays in the guest's memory";
                    "volume" => host.display().to_string(), "error" => one_line(&error));
            }
        }
    }

    /// Copies what is new in these volumes for all containers that follow them, at the same time.
    async fn update(&self, changed: impl IntoIterator<Item = PathBuf>) {
        let mut calls = JoinSet::new();
        for host in changed {
            let users: Vec<Shared> = self.followed().get(&host).cloned().unwrap_or_default();
            for mirror in users {
                let (courier, host) = (self.0.courier.clone(), host.clone());
                calls.spawn(async move { (host, mirror.lock().await.sync(&courier).await) });
            }
        }
        let log = &self.0.log;
        while let Some(done) = calls.join_next().await {
            let Ok((host, result)) = done else { continue };
            let volume = host.display().to_string();
            match result {
                Ok(()) => info!(log, "volume updated in the guest"; "volume" => volume),
                // The next change tries again.
                Err(error) => {
                    warn!(log, "volume not updated in the guest"; "volume" => volume, "error" => one_line(&error));
                }
            }
        }
    }

    /// Follows a volume's changes. One that cannot be followed is as it was copied, which the log says.
    async fn follow(&self, host: &Path, mirror: &Shared) {
        let watcher = self.0.watcher.get_or_init(async || self.open_watcher()).await;
        let Some(watcher) = watcher else { return };
        if let Err(error) = watcher.add(host) {
            return self.not_followed(&host.display().to_string(), &error);
        }
        self.followed().entry(host.to_path_buf()).or_default().push(Arc::clone(mirror));
    }

    fn open_watcher(&self) -> Option<Arc<Watcher>> {
        match Watcher::new() {
            Ok(watcher) => {
                let watcher = Arc::new(watcher);
                tokio::spawn(keep_up(Arc::downgrade(&self.0), Arc::clone(&watcher)));
                Some(watcher)
            }
            Err(error) => {
                self.not_followed("all of the pod's", &error);
                None
            }
        }
    }

    fn not_followed(&self, volume: &str, error: &io::Error) {
        warn!(self.0.log, "changes of a volume do not reach its containers: it cannot be watched (inotify(7), \
            fs.inotify.max_user_instances)"; "volume" => volume, "error" => %error);
    }

    fn unfollow(&self, host: &Path, mirror: &Shared) {
        let mut followed = self.followed();
        let Some(users) = followed.get_mut(host) else { return };
        let Some(at) = users.iter().position(|user| Arc::ptr_eq(user, mirror)) else { return };
        users.remove(at);
        if users.is_empty() {
            followed.remove(host);
        }
        if let Some(Some(watcher)) = self.0.watcher.get() {
            watcher.remove(host);
        }
    }

    fn followed(&self) -> MutexGuard<'_, HashMap<PathBuf, Vec<Shared>>> {
        self.0.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(host: &Path, error: CopyError) -> Error {
    Error::failed(format!("copy {} into the guest", host.display()), error)
}

/// Copies what changes, for as long as the pod is there.
async fn keep_up(volumes: Weak<Inner>, watcher: Arc<Watcher>) {
    loop {
        let changed = watcher.changed().await;
        let Some(inner) = volumes.upgrade() else { return };
        let volumes = Volumes(inner);
        let changed = match changed {
            Ok(changed) => changed,
            Err(error) => return volumes.not_followed("all of the pod's", &error),
        };
        volumes.update(changed).await;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use agent_client::proto::agent::{CopyFileRequest, Empty};
    use agent_client::proto::agent_ttrpc::{AgentService, create_agent_service};
    use agent_client::proto::health::{CheckRequest, HealthCheckResponse, health_check_response};
    use agent_client::proto::health_ttrpc::{Health, create_health};
    use agent_client::{Endpoint, connect};
    use async_trait::async_trait;
    use slog::{Discard, o};
    use tempfile::TempDir;
    use tokio::time::{sleep, timeout};
    use ttrpc::r#async::{Server, TtrpcContext};

    use super::*;

    /// Counts what is copied.
    #[derive(Default)]
    struct Guest {
        calls: AtomicUsize,
        rounds: StdMutex<Rounds>,
        /// How long a call takes.
        delay: Duration,
    }

    /// How many calls, each begun after the one before it was done, came one after the other.
    #[derive(Default)]
    struct Rounds {
        done: usize,
    }

    #[async_trait]
    impl AgentService for Guest {
        async fn copy_file(&self, _: &TtrpcContext, _: CopyFileRequest) -> ttrpc::Result<Empty> {
            self.calls.fetch_add(1, Ordering::Relaxed);
            let round = self.rounds.lock().unwrap().done + 1;
            sleep(self.delay).await;
            let mut rounds = self.rounds.lock().unwrap();
            rounds.done = rounds.done.max(round);
            Ok(Empty::default())
        }
    }

    impl Guest {
        fn calls(&self) -> usize {
            self.calls.load(Ordering::Relaxed)
        }
    }

    /// A pod's volumes, its guest, and a volume of one key.
    struct Rig {
        dir: TempDir,
        guest: Arc<Guest>,
        volumes: Volumes,
        _server: Server,
    }

    impl Rig {
        async fn new(delay: Duration) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let guest = Arc::new(Guest { delay, ..Guest::default() });
            let socket = dir.path().join("agent.sock");
            let mut server = Server::new()
                .bind(&format!("unix://{}", socket.display()))
                .unwrap()
                .register_service(create_agent_service(guest.clone()))
                .register_service(create_health(guest.clone()));
            server.start().await.unwrap();
            let agent = connect(&Endpoint::Unix(socket)).await.unwrap();
            let volumes = Volumes::new(agent, &Logger::root(Discard, o!()));
            fs::create_dir(dir.path().join("volume")).unwrap();
            fs::write(dir.path().join("volume/key"), "old").unwrap();
            Self { dir, guest, volumes, _server: server }
        }

        fn volume(&self) -> PathBuf {
            self.dir.path().join("volume")
        }

        fn copy(&self, number: usize) -> Copy {
            Copy {
                host: self.volume(),
                below: Some(self.dir.path().to_path_buf()),
                guest: format!("/g/{number}"),
                kind: CopyKind::Tree,
                watch: true,
            }
        }

        async fn copy_in(&self, copies: &[Copy]) -> Copied {
            let mut copied = Copied::default();
            self.volumes.copy_in(copies, &mut copied).await.unwrap();
            copied
        }

        async fn until_called(&self, times: usize) {
            let enough = async {
                while self.guest.calls() < times {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(Duration::from_secs(10), enough).await.unwrap();
        }
    }

    #[async_trait]
    impl Health for Guest {
        async fn check(&self, _: &TtrpcContext, _: CheckRequest) -> ttrpc::Result<HealthCheckResponse> {
            let status = health_check_response::ServingStatus::SERVING.into();
            Ok(HealthCheckResponse { status, ..Default::default() })
        }
    }

    /// Open descriptors of this process whose target contains `word`.
    fn descriptors(word: &str) -> usize {
        let links = fs::read_dir("/proc/self/fd").unwrap().flatten();
        links
            .filter_map(|link| fs::read_link(link.path()).ok())
            .filter(|to| to.to_string_lossy().contains(word))
            .count()
    }

    /// Of what a user has few on a node (128 inotify instances), a pod takes as much for thirty containers as for one.
    #[tokio::test]
    async fn thirty_containers_have_one_watcher() {
        let rig = Rig::new(Duration::ZERO).await;
        let before = descriptors("inotify");
        let mut containers = Vec::new();
        for number in 0..30 {
            containers.push(rig.copy_in(&[rig.copy(number)]).await);
        }
        // Other tests run beside this one, each with one of its own; thirty more would be seen.
        let more = descriptors("inotify").saturating_sub(before);
        assert!(more < 20, "{more} inotify instances");
        let open = descriptors(&rig.volume().display().to_string());
        assert!(open < 20, "{open} descriptors of the volumes");
        assert_eq!(rig.guest.calls(), 60);

        // All of them follow, until they go.
        fs::write(rig.volume().join("key"), "new content").unwrap();
        rig.until_called(90).await;
        for copied in containers {
            rig.volumes.remove(copied).await;
        }
        assert!(rig.volumes.followed().is_empty());
        assert_eq!(rig.guest.calls(), 120, "one call removes a container's copy");
        fs::write(rig.volume().join("key"), "nobody's").unwrap();
        sleep(Duration::from_millis(300)).await;
        assert_eq!(rig.guest.calls(), 120);
    }

    /// What does not need each other does not wait for each other: a change that many containers see, and a container with
    /// many volumes that ends.
    #[tokio::test]
    async fn eighty_copies_are_updated_and_removed_in_few_round_trips() {
        const COPIES: usize = 80;
        const AT_ONCE: usize = 32;
        let rig = Rig::new(Duration::from_millis(5)).await;
        let copies: Vec<Copy> = (0..COPIES).map(|number| rig.copy(number)).collect();
        let copied = rig.copy_in(&copies).await;
        let rounds = || std::mem::take(&mut *rig.guest.rounds.lock().unwrap()).done;
        rounds();
        let needed = COPIES / AT_ONCE + 1;
        fs::write(rig.volume().join("key"), "new content").unwrap();
        rig.until_called(3 * COPIES).await;
        let update = rounds();
        assert!(update <= 2 * needed, "{update} round trips, where {needed} would do");
        sleep(Duration::from_millis(50)).await;
        rounds();
        rig.volumes.remove(copied).await;
        assert_eq!(rig.guest.calls(), 4 * COPIES);
        let removal = rounds();
        assert!(removal <= 2 * needed, "{removal} round trips, where {needed} would do");
    }
}
