//! Stand-in for containerd: the three calls of its API that are used, by `tonic`'s server. Messages are written down a
//! second time, so that a wrong field number has to be wrong twice.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, http};
use tonic::server::{Grpc, NamedService, ServerStreamingService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::make::Image;

pub(crate) const NAMESPACE: &str = "pods";

#[derive(Clone, PartialEq, prost::Message)]
struct ById {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ContainerAnswer {
    #[prost(message, optional, tag = "1")]
    container: Option<Container>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Container {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "3")]
    image: String,
    #[prost(string, tag = "6")]
    snapshotter: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ImageAnswer {
    #[prost(message, optional, tag = "1")]
    image: Option<Named>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "3")]
    target: Option<Target>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Target {
    #[prost(string, tag = "1")]
    media_type: String,
    #[prost(string, tag = "2")]
    digest: String,
    #[prost(int64, tag = "3")]
    size: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Read {
    #[prost(string, tag = "1")]
    digest: String,
    #[prost(int64, tag = "2")]
    offset: i64,
    #[prost(int64, tag = "3")]
    size: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Piece {
    #[prost(int64, tag = "1")]
    offset: i64,
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
}

#[derive(Default)]
struct State {
    /// Images' names by containers' ids.
    containers: BTreeMap<String, String>,
    images: BTreeMap<String, Target>,
    blobs: BTreeMap<String, Vec<u8>>,
}

/// The server, its socket in a directory of its own, until it is dropped.
pub(crate) struct FakeContainerd {
    directory: tempfile::TempDir,
    state: Arc<Mutex<State>>,
    _runtime: tokio::runtime::Runtime,
}

impl FakeContainerd {
    pub(crate) fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let service = Service(state.clone());
        let path = directory.path().join("containerd.sock");
        runtime.block_on(async {
            let listener = UnixListener::bind(path).unwrap();
            let server = tonic::transport::Server::builder().add_routes(routes(service));
            tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        });
        Self { directory, state, _runtime: runtime }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("containerd.sock")
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A container of an image; without a name, of none.
    pub(crate) fn container(&self, id: &str, image: &str) {
        self.state.lock().unwrap().containers.insert(id.into(), image.into());
    }

    pub(crate) fn image(&self, name: &str, image: &mut Image) {
        let top = image.seal();
        let target = Target {
            media_type: top["mediaType"].as_str().unwrap().into(),
            digest: top["digest"].as_str().unwrap().into(),
            size: top["size"].as_i64().unwrap(),
        };
        let mut state = self.state.lock().unwrap();
        state.images.insert(name.into(), target);
        state.blobs.extend(image.blobs.clone());
    }

    /// As `discard_unpacked_layers` does it.
    pub(crate) fn discard(&self, digest: &str) {
        self.state.lock().unwrap().blobs.remove(digest).unwrap();
    }
}

#[derive(Clone)]
struct Service(Arc<Mutex<State>>);

fn routes(service: Service) -> tonic::service::Routes {
    tonic::service::Routes::new(Part::<0>(service.clone()))
        .add_service(Part::<1>(service.clone()))
        .add_service(Part::<2>(service))
}

/// One of the three services.
#[derive(Clone)]
struct Part<const N: u8>(Service);

impl NamedService for Part<0> {
    const NAME: &'static str = "containerd.services.containers.v1.Containers";
}

impl NamedService for Part<1> {
    const NAME: &'static str = "containerd.services.images.v1.Images";
}

impl NamedService for Part<2> {
    const NAME: &'static str = "containerd.services.content.v1.Content";
}

struct GetContainer(Service);
struct GetImage(Service);
struct ReadContent(Service);

fn in_namespace<T>(request: &Request<T>) -> Result<(), Status> {
    match request.metadata().get("containerd-namespace").map(|value| value.to_str()) {
        Some(Ok(NAMESPACE)) => Ok(()),
        Some(_) => Err(Status::not_found("in another namespace")),
        None => Err(Status::failed_precondition("namespace is required")),
    }
}

impl UnaryService<ById> for GetContainer {
    type Response = ContainerAnswer;
    type Future = BoxFuture<Response<ContainerAnswer>, Status>;

    fn call(&mut self, request: Request<ById>) -> Self::Future {
        let state = self.0.0.clone();
        Box::pin(async move {
            in_namespace(&request)?;
            let id = request.into_inner().id;
            let image = state.lock().unwrap().containers.get(&id).cloned();
            let image = image.ok_or_else(|| Status::not_found(format!("container {id:?}: not found")))?;
            let container = Some(Container { id, image, snapshotter: "overlayfs".into() });
            Ok(Response::new(ContainerAnswer { container }))
        })
    }
}

impl UnaryService<ById> for GetImage {
    type Response = ImageAnswer;
    type Future = BoxFuture<Response<ImageAnswer>, Status>;

    fn call(&mut self, request: Request<ById>) -> Self::Future {
        let state = self.0.0.clone();
        Box::pin(async move {
            in_namespace(&request)?;
            let name = request.into_inner().id;
            let target = state.lock().unwrap().images.get(&name).cloned();
            let target = target.ok_or_else(|| Status::not_found(format!("image {name:?}: not found")))?;
            Ok(Response::new(ImageAnswer { image: Some(Named { name, target: Some(target) }) }))
        })
    }
}

impl ServerStreamingService<Read> for ReadContent {
    type Response = Piece;
    type ResponseStream = tokio_stream::Iter<std::vec::IntoIter<Result<Piece, Status>>>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Read>) -> Self::Future {
        let state = self.0.0.clone();
        Box::pin(async move {
            in_namespace(&request)?;
            let read = request.into_inner();
            assert_eq!((read.offset, read.size), (0, 0));
            let blob = state.lock().unwrap().blobs.get(&read.digest).cloned();
            let blob =
                blob.ok_or_else(|| Status::not_found(format!("content {}: not found", read.digest)))?;
            let piece = |(number, data): (usize, &[u8])| {
                Ok(Piece { offset: i64::try_from(number * (1 << 20)).unwrap(), data: data.to_vec() })
            };
            let pieces: Vec<_> = blob.chunks(1 << 20).enumerate().map(piece).collect();
            Ok(Response::new(tokio_stream::iter(pieces)))
        })
    }
}

impl<const N: u8> tower::Service<http::Request<Body>> for Part<N> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/containerd.services.containers.v1.Containers/Get" => {
                    Grpc::new(ProstCodec::default()).unary(GetContainer(service), request).await
                }
                "/containerd.services.images.v1.Images/Get" => {
                    Grpc::new(ProstCodec::default()).unary(GetImage(service), request).await
                }
                "/containerd.services.content.v1.Content/Read" => {
                    Grpc::new(ProstCodec::default()).server_streaming(ReadContent(service), request).await
                }
                _ => Status::unimplemented("").into_http(),
            })
        })
    }
}
