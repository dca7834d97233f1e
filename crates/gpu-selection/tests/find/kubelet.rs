//! Stand-in for kubelet: its PodResources service by `tonic`, an implementation of gRPC that is not ours.
//! Messages are written down a second time, so that a wrong field number has to be wrong twice.

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct GetRequest {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) namespace: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct GetResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) pod: Option<PodResources>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ListRequest {}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ListResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) pods: Vec<PodResources>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PodResources {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) namespace: String,
    #[prost(message, repeated, tag = "3")]
    pub(crate) containers: Vec<Container>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Container {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) devices: Vec<Devices>,
    #[prost(int64, repeated, tag = "3")]
    pub(crate) cpus: Vec<i64>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) dynamic: Vec<Dynamic>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Devices {
    #[prost(string, tag = "1")]
    pub(crate) resource: String,
    #[prost(string, repeated, tag = "2")]
    pub(crate) ids: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Dynamic {
    #[prost(message, repeated, tag = "4")]
    pub(crate) claims: Vec<Claim>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Claim {
    #[prost(message, repeated, tag = "1")]
    pub(crate) devices: Vec<CdiDevice>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CdiDevice {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
}

/// How it behaves.
#[derive(Clone, Default)]
pub(crate) struct Behaviour {
    pub(crate) pods: Vec<PodResources>,
    /// The feature gate of `Get` is off.
    pub(crate) no_get: bool,
    /// So many calls are refused first, as while it starts.
    pub(crate) unavailable: u32,
    pub(crate) delay: Duration,
    /// Calls so far.
    pub(crate) calls: u32,
}

#[derive(Clone, Default)]
pub(crate) struct Kubelet(pub(crate) Arc<Mutex<Behaviour>>);

/// A pod with one container.
pub(crate) fn pod(name: &str, devices: &[(&str, &[&str])]) -> PodResources {
    let devices = devices.iter().map(|(resource, ids)| Devices {
        resource: (*resource).to_owned(),
        ids: ids.iter().map(|id| (*id).to_owned()).collect(),
    });
    let container =
        Container { name: "main".into(), devices: devices.collect(), cpus: vec![1, 2], dynamic: vec![] };
    PodResources { name: name.to_owned(), namespace: "ml".into(), containers: vec![container] }
}

impl Kubelet {
    pub(crate) fn new(behaviour: Behaviour) -> Self {
        Self(Arc::new(Mutex::new(behaviour)))
    }

    /// Serves below kubelet's root until the runtime ends.
    pub(crate) fn serve(&self, root: &Path) {
        let folder = root.join("pod-resources");
        std::fs::create_dir_all(&folder).unwrap();
        let listener = UnixListener::bind(folder.join("kubelet.sock")).unwrap();
        let server = tonic::transport::Server::builder().add_service(self.clone());
        tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
    }

    async fn turn(&self) -> Result<Behaviour, Status> {
        let behaviour = {
            let mut behaviour = self.0.lock().unwrap();
            behaviour.calls += 1;
            behaviour.clone()
        };
        tokio::time::sleep(behaviour.delay).await;
        if behaviour.calls <= behaviour.unavailable {
            return Err(Status::unavailable("starting"));
        }
        Ok(behaviour)
    }
}

impl NamedService for Kubelet {
    const NAME: &'static str = "v1.PodResourcesLister";
}

impl UnaryService<GetRequest> for Kubelet {
    type Response = GetResponse;
    type Future = BoxFuture<Response<GetResponse>, Status>;

    fn call(&mut self, request: Request<GetRequest>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let behaviour = this.turn().await?;
            if behaviour.no_get {
                // As the Go server says it: an error without a code.
                return Err(Status::unknown("PodResources API Get method disabled"));
            }
            let wanted = request.into_inner();
            let is = |pod: &PodResources| (&pod.name, &pod.namespace) == (&wanted.name, &wanted.namespace);
            let found = behaviour.pods.into_iter().find(is);
            let pod = found.ok_or_else(|| Status::unknown(format!("pod {} not found", wanted.name)))?;
            Ok(Response::new(GetResponse { pod: Some(pod) }))
        })
    }
}

impl UnaryService<ListRequest> for Kubelet {
    type Response = ListResponse;
    type Future = BoxFuture<Response<ListResponse>, Status>;

    fn call(&mut self, _: Request<ListRequest>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(Response::new(ListResponse { pods: this.turn().await?.pods })) })
    }
}

impl tower::Service<http::Request<Body>> for Kubelet {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/v1.PodResourcesLister/Get" => {
                    Grpc::new(ProstCodec::<GetResponse, GetRequest>::default()).unary(this, request).await
                }
                "/v1.PodResourcesLister/List" => {
                    let codec = ProstCodec::<ListResponse, ListRequest>::default();
                    Grpc::new(codec).max_encoding_message_size(64 << 20).unary(this, request).await
                }
                _ => Status::unimplemented("").into_http(),
            })
        })
    }
}
