//! Which handlers a container engine serves: CRI's `Status` (`k8s.io/cri-api`, `runtime/v1/api.proto`).

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;
use tower::service_fn;

/// How long an engine may think about one question.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {
    #[prost(bool, tag = "1")]
    verbose: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<RuntimeStatus>,
    #[prost(map = "string, string", tag = "2")]
    info: HashMap<String, String>,
    #[prost(message, repeated, tag = "3")]
    runtime_handlers: Vec<RuntimeHandler>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    conditions: Vec<RuntimeCondition>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RuntimeCondition {
    #[prost(string, tag = "1")]
    r#type: String,
    #[prost(bool, tag = "2")]
    status: bool,
    #[prost(string, tag = "4")]
    message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RuntimeHandler {
    #[prost(string, tag = "1")]
    name: String,
}

/// The names of the handlers that the engine behind `socket` serves; none where it is too old to say (containerd 1.7).
pub(super) fn handlers(socket: &Path) -> Result<Vec<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { timeout(PATIENCE, ask(socket)).await.context("it does not answer")? })
}

async fn ask(socket: &Path) -> Result<Vec<String>> {
    let path = socket.to_owned();
    let connector = service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The name in the address is never looked up.
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await;
    let channel = channel.with_context(|| format!("nobody serves {}", socket.display()))?;
    let mut client = Grpc::new(channel);
    client.ready().await?;
    let codec = ProstCodec::<StatusRequest, StatusResponse>::default();
    let method = PathAndQuery::from_static("/runtime.v1.RuntimeService/Status");
    let question = tonic::Request::new(StatusRequest { verbose: false });
    let answer = client.unary(question, method, codec).await;
    let answer =
        answer.map_err(|status| anyhow::anyhow!("{}: {}", status.code(), status.message()))?.into_inner();
    let ready = answer.status.unwrap_or_default();
    // A network that is not set up yet (NetworkReady) is not the engine's fault.
    if let Some(condition) = ready.conditions.iter().find(|one| one.r#type == "RuntimeReady" && !one.status) {
        bail!("its runtime is not ready: {}", condition.message);
    }
    Ok(answer
        .runtime_handlers
        .into_iter()
        .map(|handler| handler.name)
        .filter(|name| !name.is_empty())
        .collect())
}
