//! The client against a well-behaved agent and against hostile peers.

#![allow(clippy::unwrap_used, reason = "the helpers are test code too")]

use std::future::pending;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent_client::proto::agent as msg;
use agent_client::proto::agent_ttrpc::{AgentService, create_agent_service};
use agent_client::proto::health::health_check_response::ServingStatus;
use agent_client::proto::health::{CheckRequest, HealthCheckResponse};
use agent_client::proto::health_ttrpc::{Health, create_health};
use agent_client::{AgentError, Code, Endpoint, HandshakeError, ProcessRef, Violation, connect};
use async_trait::async_trait;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use ttrpc::asynchronous::{Server, TtrpcContext};
use ttrpc::error::get_rpc_status;

/// An agent that knows one container, `c1`, whose process never ends and prints without end.
struct Fake {
    status: ServingStatus,
}

#[async_trait]
impl Health for Fake {
    async fn check(&self, _: &TtrpcContext, _: CheckRequest) -> ttrpc::Result<HealthCheckResponse> {
        Ok(HealthCheckResponse { status: self.status.into(), ..Default::default() })
    }
}

#[async_trait]
impl AgentService for Fake {
    async fn start_container(
        &self,
        _: &TtrpcContext,
        request: msg::StartContainerRequest,
    ) -> ttrpc::Result<msg::Empty> {
        match request.container_id.as_str() {
            "c1" => Ok(msg::Empty::default()),
            _ => Err(get_rpc_status(Code::INVALID_ARGUMENT, "Invalid\r\ncontainer id")),
        }
    }

    async fn exec_process(&self, _: &TtrpcContext, _: msg::ExecProcessRequest) -> ttrpc::Result<msg::Empty> {
        Err(get_rpc_status(Code::PERMISSION_DENIED, "ExecProcessRequest is blocked by policy"))
    }

    async fn wait_process(
        &self,
        _: &TtrpcContext,
        _: msg::WaitProcessRequest,
    ) -> ttrpc::Result<msg::WaitProcessResponse> {
        pending().await
    }

    async fn read_stdout(
        &self,
        _: &TtrpcContext,
        request: msg::ReadStreamRequest,
    ) -> ttrpc::Result<msg::ReadStreamResponse> {
        let data = vec![b'x'; usize::try_from(request.len).unwrap()];
        Ok(msg::ReadStreamResponse { data, ..Default::default() })
    }
}

/// A directory with a socket path in it.
struct Place {
    _dir: TempDir,
    socket: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let socket = dir.path().join("agent.sock");
        Self { _dir: dir, socket }
    }

    fn unix(&self) -> Endpoint {
        Endpoint::Unix(self.socket.clone())
    }

    fn hybrid(&self) -> Endpoint {
        Endpoint::Hybrid { socket: self.socket.clone(), port: 1024 }
    }
}

async fn serve(socket: &Path, status: ServingStatus) -> Server {
    let mut server = Server::new()
        .bind(&format!("unix://{}", socket.display()))
        .unwrap()
        .register_service(create_agent_service(Arc::new(Fake { status })))
        .register_service(create_health(Arc::new(Fake { status })));
    server.start().await.unwrap();
    server
}

/// Runs `peer` for every connection to `socket`.
fn accept<F>(socket: &Path, peer: impl Fn(UnixStream) -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(peer(stream));
        }
    });
}

/// A peer that takes the connection and does nothing with it.
async fn stay_silent(stream: UnixStream) {
    let _open = stream;
    pending().await
}

/// Reads one frame of a client and returns its stream id.
async fn read_request(stream: &mut UnixStream) -> u32 {
    let length = stream.read_u32().await.unwrap();
    let id = stream.read_u32().await.unwrap();
    let mut rest = vec![0; usize::try_from(length).unwrap() + 2];
    stream.read_exact(&mut rest).await.unwrap();
    id
}

async fn send_header(stream: &mut UnixStream, length: u32, id: u32, kind: u8) {
    stream.write_u32(length).await.unwrap();
    stream.write_u32(id).await.unwrap();
    stream.write_u16(u16::from(kind) << 8).await.unwrap();
}

async fn connect_error(endpoint: &Endpoint) -> AgentError {
    connect(endpoint).await.expect_err("the peer is no agent")
}

/// The reason why a connected peer was given up.
fn unhealthy(error: AgentError) -> AgentError {
    match error {
        AgentError::Unhealthy { source, .. } => *source,
        other => panic!("expected a failed health check, got: {other}"),
    }
}

/// Who serves the socket may be in a guest's hands, and put something else in its place.
#[tokio::test]
async fn a_link_in_place_of_the_vms_socket_leads_nowhere() {
    let place = Place::new();
    let (reached, mut connections) = mpsc::unbounded_channel();
    let of_the_host = place.socket.with_file_name("containerd.sock");
    accept(&of_the_host, move |stream| {
        reached.send(()).unwrap();
        stay_silent(stream)
    });
    symlink(&of_the_host, &place.socket).unwrap();
    let error = connect(&place.hybrid()).await.unwrap_err();
    assert!(matches!(error, AgentError::Unreachable { .. }) && !error.is_retryable(), "{error}");
    // One that is meant is reached, so that the silence means something.
    std::fs::remove_file(&place.socket).unwrap();
    std::fs::hard_link(&of_the_host, &place.socket).unwrap();
    let meant = place.hybrid();
    tokio::select! {
        _ = connect(&meant) => panic!("nobody answers"),
        first = connections.recv() => assert_eq!(first, Some(())),
    }
    assert!(connections.try_recv().is_err());
}

#[tokio::test]
async fn calls_run_side_by_side_on_one_connection() {
    let place = Place::new();
    let _server = serve(&place.socket, ServingStatus::SERVING).await;
    let agent = connect(&place.unix()).await.unwrap();

    let waiting = tokio::spawn({
        let agent = agent.clone();
        async move { agent.wait_process(ProcessRef::init("c1")).await }
    });
    agent.start_container("c1").await.unwrap();
    assert_eq!(agent.read_stdout(ProcessRef::init("c1"), 5).await.unwrap(), b"xxxxx");
    assert!(!waiting.is_finished());
}

#[tokio::test]
async fn the_largest_read_fits_a_message() {
    let place = Place::new();
    let _server = serve(&place.socket, ServingStatus::SERVING).await;
    let agent = connect(&place.unix()).await.unwrap();
    let data = agent.read_stdout(ProcessRef::init("c1"), usize::MAX).await.unwrap();
    assert_eq!(data.len(), agent_client::MAX_STREAM_CHUNK);
}

#[tokio::test]
async fn what_the_agent_refuses_is_told_with_call_container_and_code() {
    let place = Place::new();
    let _server = serve(&place.socket, ServingStatus::SERVING).await;
    let agent = connect(&place.unix()).await.unwrap();

    let error = agent.start_container("other").await.unwrap_err();
    assert_eq!(error.code(), Some(Code::INVALID_ARGUMENT));
    assert_eq!(
        error.to_string(),
        "StartContainer for container other failed in the guest (INVALID_ARGUMENT): Invalid  container id"
    );

    let error = agent.exec_process("c1", "e1", Default::default()).await.unwrap_err();
    assert!(error.is_denied(), "{error}");
}

#[tokio::test]
async fn a_request_above_the_limit_is_not_sent() {
    let place = Place::new();
    let _server = serve(&place.socket, ServingStatus::SERVING).await;
    let agent = connect(&place.unix()).await.unwrap();
    let error = agent.write_stdin(ProcessRef::init("c1"), vec![0; 4 << 20]).await.unwrap_err();
    assert!(matches!(error, AgentError::TooLarge { .. }), "{error}");
    agent.start_container("c1").await.expect("the connection is still good");
}

#[tokio::test]
async fn a_missing_or_closed_socket_is_worth_another_try() {
    let place = Place::new();
    assert!(connect_error(&place.unix()).await.is_retryable());

    drop(UnixListener::bind(&place.socket).unwrap());
    assert!(connect_error(&place.hybrid()).await.is_retryable());
}

#[tokio::test]
async fn a_path_that_no_socket_address_holds_is_final() {
    let place = Endpoint::Unix(PathBuf::from(format!("/{}", "x".repeat(200))));
    assert!(!connect_error(&place).await.is_retryable());
}

#[tokio::test]
async fn an_agent_that_does_not_serve_yet_is_worth_another_try() {
    let place = Place::new();
    let _server = serve(&place.socket, ServingStatus::NOT_SERVING).await;
    let error = connect_error(&place.unix()).await;
    assert!(error.is_retryable());
    assert!(matches!(unhealthy(error), AgentError::NotServing));
}

#[tokio::test]
async fn the_hybrid_handshake_leads_to_the_agent() {
    let place = Place::new();
    let inner = Place::new();
    let _server = serve(&inner.socket, ServingStatus::SERVING).await;
    let target = inner.socket.clone();
    accept(&place.socket, move |mut stream| {
        let target = target.clone();
        async move {
            let mut line = [0; 13];
            stream.read_exact(&mut line).await.unwrap();
            assert_eq!(&line, b"CONNECT 1024\n");
            stream.write_all(b"OK 1073741824\n").await.unwrap();
            let mut onward = UnixStream::connect(target).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut onward).await;
        }
    });
    let agent = connect(&place.hybrid()).await.unwrap();
    agent.start_container("c1").await.unwrap();
}

#[tokio::test]
async fn a_hang_up_in_the_handshake_is_worth_another_try() {
    let place = Place::new();
    accept(&place.socket, |mut stream| async move {
        let mut line = [0; 13];
        stream.read_exact(&mut line).await.unwrap();
    });
    let error = connect_error(&place.hybrid()).await;
    assert!(matches!(&error, AgentError::Handshake { source: HandshakeError::Io(_), .. }), "{error}");
    assert!(error.is_retryable());
}

#[tokio::test]
async fn a_wrong_handshake_is_final() {
    let place = Place::new();
    accept(&place.socket, |mut stream| async move {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        pending().await
    });
    let error = connect_error(&place.hybrid()).await;
    assert!(
        matches!(&error, AgentError::Handshake { source: HandshakeError::Garbage { .. }, .. }),
        "{error}"
    );
    assert!(!error.is_retryable());
}

#[tokio::test(start_paused = true)]
async fn a_device_whose_guest_still_boots_is_waited_for() {
    let place = Place::new();
    accept(&place.socket, stay_silent);
    let boot = Duration::from_secs(600);
    assert!(tokio::time::timeout(boot, connect(&place.hybrid())).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_never_answers_times_out() {
    let place = Place::new();
    accept(&place.socket, stay_silent);
    let error = connect_error(&place.unix()).await;
    assert!(error.is_retryable());
    assert!(matches!(unhealthy(error), AgentError::Timeout { .. }));
}

#[tokio::test]
async fn garbage_is_final() {
    let place = Place::new();
    accept(&place.socket, |mut stream| async move {
        stream.write_all(&[0x7f; 64]).await.unwrap();
        pending().await
    });
    let error = connect_error(&place.unix()).await;
    assert!(!error.is_retryable());
    let source = unhealthy(error);
    assert!(matches!(source, AgentError::Violation { .. }), "{source}");
}

#[tokio::test]
async fn an_undecodable_answer_is_final() {
    let place = Place::new();
    accept(&place.socket, |mut stream| async move {
        let id = read_request(&mut stream).await;
        send_header(&mut stream, 4, id, 2).await;
        stream.write_all(&[0xff; 4]).await.unwrap();
        pending().await
    });
    let error = connect_error(&place.unix()).await;
    assert!(!error.is_retryable());
    let source = unhealthy(error);
    assert!(matches!(source, AgentError::Undecodable { .. }), "{source}");
}

#[tokio::test]
async fn an_oversized_frame_ends_the_connection_at_its_header() {
    let place = Place::new();
    accept(&place.socket, |mut stream| async move {
        let id = read_request(&mut stream).await;
        // The body never comes: nobody may wait for it, nor make room for it.
        send_header(&mut stream, u32::MAX, id, 2).await;
        pending().await
    });
    let error = connect_error(&place.unix()).await;
    assert!(!error.is_retryable());
    let source = unhealthy(error);
    assert!(source.is_disconnected());
    let expected = Violation::Oversized { length: u32::MAX };
    assert!(matches!(source, AgentError::Violation { violation, .. } if violation == expected), "{source}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_ends_every_call() {
    let place = Place::new();
    accept(&place.socket, |mut stream| async move {
        // A health check is answered with SERVING, anything after it by hanging up.
        let id = read_request(&mut stream).await;
        send_header(&mut stream, 4, id, 2).await;
        stream.write_all(&[0x12, 2, 0x08, 1]).await.unwrap();
        read_request(&mut stream).await;
    });
    let agent = connect(&place.unix()).await.unwrap();
    let lost = async {
        for _ in 0..2 {
            let error = agent.wait_process(ProcessRef::init("c1")).await.unwrap_err();
            assert!(error.is_disconnected(), "{error}");
        }
    };
    tokio::time::timeout(Duration::from_secs(1), lost).await.expect("nobody waits for a dead peer");
}
