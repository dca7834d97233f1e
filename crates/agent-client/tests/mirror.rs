//! Copying into a guest that keeps files as kata-agent does.

#![allow(clippy::unwrap_used, reason = "the helpers are test code too")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_client::proto::agent as msg;
use agent_client::proto::agent_ttrpc::{AgentService, create_agent_service};
use agent_client::proto::health::health_check_response::ServingStatus;
use agent_client::proto::health::{CheckRequest, HealthCheckResponse};
use agent_client::proto::health_ttrpc::{Health, create_health};
use agent_client::{CopyError, Courier, Endpoint, Mirror, connect};
use async_trait::async_trait;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::sleep;
use ttrpc::asynchronous::{Server, TtrpcContext};

/// Records the calls.
#[derive(Clone, Default)]
struct Guest {
    calls: Arc<Mutex<Vec<msg::CopyFileRequest>>>,
    /// How long each takes.
    delay: Duration,
    rounds: Arc<Mutex<Rounds>>,
}

/// How many calls, each begun after the one before it was done, came one after the other.
#[derive(Default)]
struct Rounds {
    done: u32,
    under_way: usize,
    most: usize,
}

/// What kata-agent does with a link to nothing, once it has removed what was there.
const NOTHING: &str = "create symlink";

#[async_trait]
impl Health for Guest {
    async fn check(&self, _: &TtrpcContext, _: CheckRequest) -> ttrpc::Result<HealthCheckResponse> {
        Ok(HealthCheckResponse { status: ServingStatus::SERVING.into(), ..Default::default() })
    }
}

#[async_trait]
impl AgentService for Guest {
    async fn copy_file(&self, _: &TtrpcContext, request: msg::CopyFileRequest) -> ttrpc::Result<msg::Empty> {
        let removal = is_removal(&request);
        self.calls.lock().unwrap().push(request);
        let round = {
            let mut rounds = self.rounds.lock().unwrap();
            rounds.under_way += 1;
            rounds.most = rounds.most.max(rounds.under_way);
            rounds.done + 1
        };
        sleep(self.delay).await;
        let mut rounds = self.rounds.lock().unwrap();
        rounds.under_way -= 1;
        rounds.done = rounds.done.max(round);
        match removal {
            false => Ok(msg::Empty::default()),
            true => Err(ttrpc::Error::RpcStatus(ttrpc::get_status(ttrpc::Code::INTERNAL, NOTHING))),
        }
    }
}

fn is_removal(call: &msg::CopyFileRequest) -> bool {
    call.file_mode & 0o170_000 == 0o120_000 && call.data.is_empty()
}

impl Guest {
    /// The calls since the last look.
    fn take(&self) -> Vec<msg::CopyFileRequest> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }

    /// The paths of the calls since the last look.
    fn paths(&self) -> Vec<String> {
        self.take().into_iter().map(|call| call.path).collect()
    }
}

struct Rig {
    dir: TempDir,
    guest: Guest,
    courier: Courier,
    _server: Server,
}

impl Rig {
    async fn new() -> Self {
        Self::of(Guest::default()).await
    }

    async fn of(guest: Guest) -> Self {
        let dir = TempDir::new().unwrap();
        let socket = dir.path().join("agent.sock");
        let mut server = Server::new()
            .bind(&format!("unix://{}", socket.display()))
            .unwrap()
            .register_service(create_agent_service(Arc::new(guest.clone())))
            .register_service(create_health(Arc::new(guest.clone())));
        server.start().await.unwrap();
        let agent = connect(&Endpoint::Unix(socket)).await.unwrap();
        fs::create_dir(dir.path().join("volume")).unwrap();
        Self { dir, guest, courier: Courier::new(agent), _server: server }
    }

    fn volume(&self) -> PathBuf {
        self.dir.path().join("volume")
    }

    /// Replaces the volume's content the way kubelet does.
    fn publish(&self, generation: &str, old: Option<&str>, value: &str) {
        let volume = self.volume();
        fs::create_dir(volume.join(generation)).unwrap();
        fs::write(volume.join(generation).join("key"), value).unwrap();
        symlink(generation, volume.join("..data_tmp")).unwrap();
        fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
        match old {
            Some(old) => fs::remove_dir_all(volume.join(old)).unwrap(),
            None => symlink("..data/key", volume.join("key")).unwrap(),
        }
    }
}

#[tokio::test]
async fn a_large_file_goes_in_chunks() {
    let rig = Rig::new().await;
    let path = rig.volume().join("hosts");
    let content: Vec<u8> = (0..(2 << 20) + 7).map(|n: u32| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    fs::write(&path, &content).unwrap();
    Mirror::file(path, "/g/hosts".to_string()).sync(&rig.courier).await.unwrap();

    let calls = rig.guest.take();
    assert_eq!(calls.iter().map(|call| call.offset).collect::<Vec<_>>(), [0, 1 << 20, 2 << 20]);
    assert!(
        calls.iter().all(|call| call.file_size == (2 << 20) + 7 && call.file_mode & 0o170_000 == 0o100_000)
    );
    let sent: Vec<u8> = calls.into_iter().flat_map(|call| call.data).collect();
    assert_eq!(sent, content);
}

#[tokio::test]
async fn an_empty_file_is_one_call() {
    let rig = Rig::new().await;
    let path = rig.volume().join("empty");
    fs::write(&path, "").unwrap();
    Mirror::file(path, "/g/empty".to_string()).sync(&rig.courier).await.unwrap();
    assert_eq!(rig.guest.paths(), ["/g/empty"]);
}

#[tokio::test]
async fn an_update_sends_what_is_new_then_shows_it_then_frees_the_old() {
    let rig = Rig::new().await;
    let mut mirror = Mirror::tree(rig.volume(), "/g".to_string());
    rig.publish("..1", None, "old");
    mirror.sync(&rig.courier).await.unwrap();
    assert_eq!(rig.guest.paths(), ["/g", "/g/..1", "/g/..1/key", "/g/..data", "/g/key"]);

    mirror.sync(&rig.courier).await.unwrap();
    assert_eq!(rig.guest.paths(), Vec::<String>::new());

    rig.publish("..2", Some("..1"), "new");
    mirror.sync(&rig.courier).await.unwrap();
    let calls = rig.guest.take();
    let paths: Vec<&str> = calls.iter().map(|call| call.path.as_str()).collect();
    assert_eq!(paths, ["/g/..2", "/g/..2/key", "/g/..data", "/g/..1"]);
    assert_eq!(calls[1].data, b"new");
    assert_eq!((calls[2].file_mode & 0o170_000, calls[2].data.as_slice()), (0o120_000, &b"..2"[..]));
    assert!(is_removal(&calls[3]));

    mirror.sync(&rig.courier).await.unwrap();
    assert_eq!(rig.guest.paths(), Vec::<String>::new());
}

#[tokio::test]
async fn a_volume_that_is_gone_is_an_error_that_names_it() {
    let rig = Rig::new().await;
    let missing = rig.dir.path().join("missing");
    let error = Mirror::tree(missing.clone(), "/g".to_string()).sync(&rig.courier).await.unwrap_err();
    assert!(matches!(&error, CopyError::Read { path, .. } if *path == missing), "{error}");
    assert_eq!(rig.guest.paths(), Vec::<String>::new());
}

#[tokio::test]
async fn a_key_that_is_gone_is_gone_in_the_guest() {
    let rig = Rig::new().await;
    let volume = rig.volume();
    fs::create_dir(volume.join("..1")).unwrap();
    for key in ["a", "b"] {
        fs::write(volume.join("..1").join(key), key).unwrap();
        symlink(format!("..data/{key}"), volume.join(key)).unwrap();
    }
    symlink("..1", volume.join("..data")).unwrap();
    let mut mirror = Mirror::tree(volume.clone(), "/g".to_string());
    mirror.sync(&rig.courier).await.unwrap();
    rig.guest.take();

    fs::create_dir(volume.join("..2")).unwrap();
    fs::write(volume.join("..2/a"), "new").unwrap();
    fs::remove_file(volume.join("..data")).unwrap();
    symlink("..2", volume.join("..data")).unwrap();
    fs::remove_file(volume.join("b")).unwrap();
    fs::remove_dir_all(volume.join("..1")).unwrap();
    mirror.sync(&rig.courier).await.unwrap();
    let mut gone: Vec<String> =
        rig.guest.take().into_iter().filter(is_removal).map(|call| call.path).collect();
    gone.sort();
    assert_eq!(gone, ["/g/..1", "/g/b"]);

    mirror.remove(&rig.courier).await.unwrap();
    let calls = rig.guest.take();
    assert!(calls.len() == 1 && is_removal(&calls[0]) && calls[0].path == "/g", "{calls:?}");
    mirror.remove(&rig.courier).await.unwrap();
    assert_eq!(rig.guest.paths(), Vec::<String>::new());
}

/// As many configmaps as a pod may have: the calls that do not need each other do not wait for each other.
#[tokio::test]
async fn eighty_volumes_take_few_round_trips() {
    const VOLUMES: usize = 80;
    /// How many calls may be under way, and what comes one after the other in one volume: directories, files, the link
    /// that shows the generation, the others.
    const AT_ONCE: usize = 32;
    const STEPS: usize = 4;
    let rig = Rig::of(Guest { delay: Duration::from_millis(5), ..Guest::default() }).await;
    let mut copies = JoinSet::new();
    for number in 0..VOLUMES {
        let volume = rig.dir.path().join(format!("v{number}"));
        fs::create_dir_all(volume.join("..1")).unwrap();
        fs::write(volume.join("..1/key"), "value").unwrap();
        symlink("..1", volume.join("..data")).unwrap();
        symlink("..data/key", volume.join("key")).unwrap();
        let courier = rig.courier.clone();
        copies.spawn(async move {
            let mut mirror = Mirror::tree(volume, format!("/g{number}"));
            mirror.sync(&courier).await
        });
    }
    for done in copies.join_all().await {
        done.unwrap();
    }
    let calls = rig.guest.take().len();
    let rounds = rig.guest.rounds.lock().unwrap();
    assert_eq!(calls, 5 * VOLUMES);
    assert!(rounds.most <= AT_ONCE, "{} calls at once", rounds.most);
    let needed = u32::try_from(calls / AT_ONCE + STEPS).unwrap();
    assert!(rounds.done <= 2 * needed, "{} round trips, where {needed} would do", rounds.done);
}

/// Keys that leave a volume all at once.
#[tokio::test]
async fn four_hundred_keys_leave_in_few_round_trips() {
    const KEYS: usize = 400;
    const AT_ONCE: usize = 32;
    let rig = Rig::of(Guest { delay: Duration::from_millis(5), ..Guest::default() }).await;
    for number in 0..KEYS {
        fs::write(rig.volume().join(format!("key{number}")), "value").unwrap();
    }
    let mut mirror = Mirror::tree(rig.volume(), "/g".to_string());
    mirror.sync(&rig.courier).await.unwrap();
    rig.guest.take();
    *rig.guest.rounds.lock().unwrap() = Rounds::default();
    for number in 0..KEYS {
        fs::remove_file(rig.volume().join(format!("key{number}"))).unwrap();
    }
    mirror.sync(&rig.courier).await.unwrap();
    assert_eq!(rig.guest.take().iter().filter(|call| is_removal(call)).count(), KEYS);
    let rounds = std::mem::take(&mut *rig.guest.rounds.lock().unwrap());
    assert!(rounds.most <= AT_ONCE, "{} calls at once", rounds.most);
    let needed = u32::try_from(KEYS / AT_ONCE + 1).unwrap();
    assert!(rounds.done <= 2 * needed, "{} round trips, where {needed} would do", rounds.done);
    mirror.sync(&rig.courier).await.unwrap();
    assert_eq!(rig.guest.paths(), Vec::<String>::new());
}

#[tokio::test]
async fn what_was_removed_does_not_come_back() {
    let rig = Rig::new().await;
    fs::write(rig.volume().join("key"), "value").unwrap();
    let mut mirror = Mirror::tree(rig.volume(), "/g".to_string());
    mirror.sync(&rig.courier).await.unwrap();
    mirror.remove(&rig.courier).await.unwrap();
    rig.guest.take();
    fs::write(rig.volume().join("key"), "another").unwrap();
    mirror.sync(&rig.courier).await.unwrap();
    assert_eq!(rig.guest.paths(), Vec::<String>::new());
}
