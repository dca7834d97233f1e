//! Connecting to an agent.

use std::fmt;
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::OFlag;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::time::timeout;
use ttrpc::asynchronous::Client;
use ttrpc::asynchronous::transport::Socket;
use ttrpc::context::{self, Context};
use ttrpc::proto::MESSAGE_LENGTH_MAX;

use crate::endpoint::Endpoint;
use crate::error::{AgentError, Call};
use crate::framing::{Guarded, Link};
use crate::handshake::handshake;
use crate::proto::agent_ttrpc::AgentServiceClient;
use crate::proto::health_ttrpc::HealthClient;

/// Time one connect may take. Not a hybrid vsock's: see [`connect`].
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Room left in a message for ttrpc's envelope: service, method, timeout, length prefixes.
const ENVELOPE: u64 = 1 << 10;

/// How much later than ours the guest's own clock ends a call: ours decides, theirs cleans up.
const GUEST_GRACE: Duration = Duration::from_secs(1);

/// A connection to a guest's agent.
///
/// Clones share the one connection, and calls run on it at the same time. Dropping a call's future while its
/// request is still being written closes the connection (a half-written frame cannot be taken back), so a call
/// that may block the peer, above all `write_stdin`, belongs in a task that is not cut short.
#[derive(Clone)]
pub struct Agent {
    pub(crate) shared: Arc<Shared>,
}

/// What an agent's clones have in common.
pub(crate) struct Shared {
    pub(crate) service: AgentServiceClient,
    pub(crate) health: HealthClient,
    endpoint: Endpoint,
    link: Arc<Link>,
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent").field("endpoint", &self.shared.endpoint).finish_non_exhaustive()
    }
}

/// Connects once: opens the socket, does the vsock handshake where there is one, and asks for the agent's health.
///
/// An attempt on hybrid vsock lasts until the guest answers or refuses, and may well be made before the guest boots: a
/// limit is the caller's. Giving attempts up is not free there: vhost-device-vsock 0.3.0 dies when a guest accepts a
/// connection whose host side is gone (its `VsockConnection::send_pkt` unwraps the write of `OK`).
///
/// Must be called in a tokio runtime. When to try again is the caller's decision;
/// [`AgentError::is_retryable`] says whether it makes sense.
pub async fn connect(endpoint: &Endpoint) -> Result<Agent, AgentError> {
    let agent = match endpoint {
        Endpoint::Hybrid { .. } => open(endpoint).await?,
        Endpoint::Vsock { .. } | Endpoint::Unix(_) => {
            let limit = CONNECT_TIMEOUT;
            timeout(limit, open(endpoint))
                .await
                .map_err(|_| AgentError::ConnectTimeout { endpoint: endpoint.clone(), timeout: limit })??
        }
    };
    agent
        .check()
        .await
        .map_err(|source| AgentError::Unhealthy { endpoint: endpoint.clone(), source: Box::new(source) })?;
    Ok(agent)
}

async fn open(endpoint: &Endpoint) -> Result<Agent, AgentError> {
    let unreachable = |source: io::Error| AgentError::Unreachable { endpoint: endpoint.clone(), source };
    match endpoint {
        Endpoint::Vsock { cid, port } => {
            let stream = Socket::connect_vsock(format!("{cid}:{port}")).await.map_err(unreachable)?;
            Ok(Agent::over(stream, endpoint))
        }
        Endpoint::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(unreachable)?;
            Ok(Agent::over(stream, endpoint))
        }
        Endpoint::Hybrid { socket, port } => {
            let mut stream = connect_itself(socket).await.map_err(unreachable)?;
            handshake(&mut stream, *port)
                .await
                .map_err(|source| AgentError::Handshake { endpoint: endpoint.clone(), source })?;
            Ok(Agent::over(stream, endpoint))
        }
    }
}

/// Connects to the socket at `path` itself. Its directory belongs to the program that serves it, which may be in a guest's
/// hands: a symbolic link there would lead to a socket of its choice, with our rights.
async fn connect_itself(path: &Path) -> io::Result<UnixStream> {
    let flags = (OFlag::O_PATH | OFlag::O_NOFOLLOW).bits();
    let socket = File::options().read(true).custom_flags(flags).open(path)?;
    if !socket.metadata()?.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no socket; whoever serves it has changed it",
        ));
    }
    UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await
}

impl Agent {
    fn over<S>(stream: S, endpoint: &Endpoint) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static,
    {
        let link = Arc::new(Link::default());
        let client = Client::new(Socket::new(Guarded::new(stream, link.clone())));
        let shared = Shared {
            service: AgentServiceClient::new(client.clone()),
            health: HealthClient::new(client),
            endpoint: endpoint.clone(),
            link,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Waits until the connection has ended, for whatever reason. There is no way back to the agent then.
    pub async fn lost(&self) {
        self.shared.link.ended().await;
    }

    /// Where this agent listens.
    pub fn endpoint(&self) -> &Endpoint {
        &self.shared.endpoint
    }

    /// Awaits one RPC: refuses what is too large, applies the deadline, names the call in errors.
    pub(crate) async fn run<R>(
        &self,
        call: Call,
        size: u64,
        deadline: Option<Duration>,
        rpc: impl Future<Output = ttrpc::Result<R>> + Send,
    ) -> Result<R, AgentError> {
        if size + ENVELOPE > MESSAGE_LENGTH_MAX as u64 {
            return Err(AgentError::TooLarge { call, size });
        }
        let result = match deadline {
            None => rpc.await,
            Some(limit) => match timeout(limit, rpc).await {
                Ok(result) => result,
                Err(_) => return Err(AgentError::Timeout { call, timeout: limit }),
            },
        };
        result.map_err(|error| AgentError::from_ttrpc(call, error, &self.shared.link))
    }
}

/// The context of a call with this deadline.
pub(crate) fn context_for(deadline: Option<Duration>) -> Context {
    deadline.map_or_else(Context::default, |limit| context::with_duration(limit + GUEST_GRACE))
}
