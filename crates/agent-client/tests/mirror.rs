//! Copying into a guest that keeps files as kata-agent does.

#![allow(clippy::unwrap_used, reason = "the helpers are test code too")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use agent_client::proto::agent as msg;
use agent_client::proto::agent_ttrpc::{AgentService, create_agent_service};
use agent_client::proto::health::health_check_response::ServingStatus;
use agent_client::proto::health::{CheckRequest, HealthCheckResponse};
use agent_client::proto::health_ttrpc::{Health, create_health};
use agent_client::{Agent, CopyError, Endpoint, Mirror, connect};
use async_trait::async_trait;
use tempfile::TempDir;
use ttrpc::asynchronous::{Server, TtrpcContext};

/// Records the calls.
#[derive(Clone, Default)]
struct Guest {
    calls: Arc<Mutex<Vec<msg::CopyFileRequest>>>,
}

#[async_trait]
impl Health for Guest {
    async fn check(&self, _: &TtrpcContext, _: CheckRequest) -> ttrpc::Result<HealthCheckResponse> {
        Ok(HealthCheckResponse { status: ServingStatus::SERVING.into(), ..Default::default() })
    }
}

#[async_trait]
impl AgentService for Guest {
    async fn copy_file(&self, _: &TtrpcContext, request: msg::CopyFileRequest) -> ttrpc::Result<msg::Empty> {
        self.calls.lock().unwrap().push(request);
        Ok(msg::Empty::default())
    }
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
    agent: Agent,
    _server: Server,
}

impl Rig {
    async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let guest = Guest::default();
        let socket = dir.path().join("agent.sock");
        let mut server = Server::new()
            .bind(&format!("unix://{}", socket.display()))
            .unwrap()
            .register_service(create_agent_service(Arc::new(guest.clone())))
            .register_service(create_health(Arc::new(guest.clone())));
        server.start().await.unwrap();
        let agent = connect(&Endpoint::Unix(socket)).await.unwrap();
        fs::create_dir(dir.path().join("volume")).unwrap();
        Self { dir, guest, agent, _server: server }
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
    Mirror::file(path, "/g/hosts".to_string()).sync(&rig.agent).await.unwrap();

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
    Mirror::file(path, "/g/empty".to_string()).sync(&rig.agent).await.unwrap();
    assert_eq!(rig.guest.paths(), ["/g/empty"]);
}

#[tokio::test]
async fn an_update_sends_what_is_new_then_shows_it_then_frees_the_old() {
    let rig = Rig::new().await;
    let mut mirror = Mirror::tree(rig.volume(), "/g".to_string());
    rig.publish("..1", None, "old");
    mirror.sync(&rig.agent).await.unwrap();
    assert_eq!(rig.guest.paths(), ["/g", "/g/..1", "/g/..1/key", "/g/..data", "/g/key"]);

    mirror.sync(&rig.agent).await.unwrap();
    assert_eq!(rig.guest.paths(), Vec::<String>::new());

    rig.publish("..2", Some("..1"), "new");
    mirror.sync(&rig.agent).await.unwrap();
    let calls = rig.guest.take();
    let paths: Vec<&str> = calls.iter().map(|call| call.path.as_str()).collect();
    assert_eq!(paths, ["/g/..2", "/g/..2/key", "/g/..data", "/g/..1"]);
    assert_eq!(calls[1].data, b"new");
    assert_eq!((calls[2].file_mode & 0o170_000, calls[2].data.as_slice()), (0o120_000, &b"..2"[..]));
    assert_eq!((calls[3].file_mode & 0o170_000, calls[3].file_size), (0o100_000, 0));

    mirror.sync(&rig.agent).await.unwrap();
    assert_eq!(rig.guest.paths(), Vec::<String>::new());
}

#[tokio::test]
async fn a_volume_that_is_gone_is_an_error_that_names_it() {
    let rig = Rig::new().await;
    let missing = rig.dir.path().join("missing");
    let error = Mirror::tree(missing.clone(), "/g".to_string()).sync(&rig.agent).await.unwrap_err();
    assert!(matches!(&error, CopyError::Read { path, .. } if *path == missing), "{error}");
    assert_eq!(rig.guest.paths(), Vec::<String>::new());
}
