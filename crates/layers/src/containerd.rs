//! Images that containerd has, by its gRPC API: containers, images and content (`api/services` of containerd, version 1 of
//! each, the same since 1.0).

mod proto;

use std::error;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{self, Channel, Endpoint};
use tonic::{Code, Request, Status, client};
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::background::{Background, Sender};
use crate::error::Error;
use crate::source::Store;
use crate::{Descriptor, Digest};

/// How long containerd may be silent.
const SILENCE: Duration = Duration::from_secs(30);
/// containerd sends content in pieces of a megabyte at most, and everything else is smaller.
const MAX_MESSAGE: usize = 16 << 20;

/// What can go wrong with containerd.
#[derive(Debug, thiserror::Error)]
pub enum ContainerdError {
    /// Nobody listens.
    #[error("cannot connect to containerd at {}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why not.
        #[source]
        source: Box<dyn error::Error + Send + Sync>,
    },
    /// It does not answer.
    #[error("containerd did not answer for {} s when asked for {what}", limit.as_secs())]
    Silent {
        /// What was asked for.
        what: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// It answered with an error.
    #[error("containerd cannot give {what}: {code}: {message}")]
    Status {
        /// What was asked for.
        what: String,
        /// gRPC status.
        code: Code,
        /// Its text, shortened.
        message: String,
    },
    /// There is no such container.
    #[error("containerd has no container {id:?} in namespace {namespace:?}")]
    NoContainer {
        /// The container's id.
        id: String,
        /// The namespace.
        namespace: String,
    },
    /// The container's image is gone.
    #[error("containerd has the image {image:?} of the container no more: pull it again")]
    NoImage {
        /// The image's name.
        image: String,
    },
    /// A blob was removed after it was unpacked.
    #[error(
        "containerd has the image {image:?}, and {what} {digest} of it no more, which is needed to convert it: set `discard_unpacked_layers = false` in containerd's configuration and pull the image again"
    )]
    Discarded {
        /// The image's name.
        image: String,
        /// Manifest, configuration or layer.
        what: &'static str,
        /// The blob.
        digest: Digest,
    },
    /// An answer without what was asked for.
    #[error("containerd's answer about {what} is not of its API: {reason}")]
    Answer {
        /// What was asked for.
        what: String,
        /// What is wrong.
        reason: String,
    },
}

/// The image of a container.
pub(crate) struct Containerd {
    background: Background,
    channel: Channel,
    namespace: String,
    image: String,
    target: Descriptor,
}

impl Containerd {
    /// Finds a container's image; `None` where the container has none in containerd.
    pub(crate) fn open(socket: &Path, namespace: &str, id: &str) -> Result<Option<Self>, Error> {
        let background = Background::new()?;
        let channel = connect(&background, socket)?;
        let call = Call { background: &background, channel: &channel, namespace };
        let what = format!("container {id:?}");
        let answer: Result<proto::GetContainerResponse, _> = call.unary(
            "/containerd.services.containers.v1.Containers/Get",
            &what,
            proto::GetContainerRequest { id: id.to_owned() },
        );
        let container = match answer {
            Ok(answer) => answer.container,
            Err(ContainerdError::Status { code: Code::NotFound, .. }) => {
                return Err(
                    ContainerdError::NoContainer { id: id.into(), namespace: namespace.into() }.into()
                );
            }
            Err(error) => return Err(error.into()),
        };
        let lacks = |reason: &str| ContainerdError::Answer { what: what.clone(), reason: reason.into() };
        let name = container.ok_or_else(|| lacks("there is no container in it"))?.image;
        if name.is_empty() {
            return Ok(None);
        }
        let what = format!("image {name:?}");
        let answer: Result<proto::GetImageResponse, _> = call.unary(
            "/containerd.services.images.v1.Images/Get",
            &what,
            proto::GetImageRequest { name: name.clone() },
        );
        let image = match answer {
            Ok(answer) => answer.image,
            Err(ContainerdError::Status { code: Code::NotFound, .. }) => {
                return Err(ContainerdError::NoImage { image: name }.into());
            }
            Err(error) => return Err(error.into()),
        };
        let lacks = |reason: String| ContainerdError::Answer { what: what.clone(), reason };
        let target = image.and_then(|image| image.target);
        let target = target.ok_or_else(|| lacks("there is no target in it".into()))?;
        let target = Descriptor {
            media_type: target.media_type,
            digest: target.digest.parse().map_err(|error: crate::NotADigest| lacks(error.to_string()))?,
            size: u64::try_from(target.size).map_err(|_| lacks("its size is negative".into()))?,
            platform: None,
            annotations: None,
        };
        Ok(Some(Self {
            channel,
            namespace: namespace.into(),
            image: name,
            target,
            background: background.clone(),
        }))
    }

    /// The image's name.
    pub(crate) fn image(&self) -> &str {
        &self.image
    }

    fn read(&self, what: &'static str, digest: Digest) -> Box<dyn Read + Send> {
        let (channel, namespace, image) = (self.channel.clone(), self.namespace.clone(), self.image.clone());
        self.background.reader(move |sender| async move {
            if let Err(error) = content(channel, &namespace, &image, what, digest, &sender).await {
                sender.send(Err(error.into())).await;
            }
        })
    }
}

impl Store for Containerd {
    fn top(&self) -> Result<Descriptor, Error> {
        Ok(self.target.clone())
    }

    fn manifest(&self, manifest: &Descriptor, limit: u64) -> Result<Vec<u8>, Error> {
        let (what, digest) = ("manifest", manifest.digest);
        let mut bytes = Vec::new();
        let read = self.read(what, digest).take(limit + 1).read_to_end(&mut bytes);
        read.map_err(|error| match error.downcast::<Error>() {
            Ok(own) => own,
            Err(source) => Error::Read { what, digest, source },
        })?;
        Ok(bytes)
    }

    fn blob<'a>(&'a self, what: &'static str, blob: &Descriptor) -> Result<Box<dyn Read + Send + 'a>, Error> {
        Ok(self.read(what, blob.digest))
    }
}

fn connect(background: &Background, socket: &Path) -> Result<Channel, ContainerdError> {
    let path = socket.to_owned();
    let connector = service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The name in the address is never looked up.
    let endpoint = Endpoint::from_static("http://localhost");
    let channel = background.wait(SILENCE, endpoint.connect_with_connector(connector));
    let silent = || ContainerdError::Silent { what: "a connection".into(), limit: SILENCE };
    let failed = |error: transport::Error| {
        // Its own text is of no use, and its cause's is in it as well.
        let cause = error::Error::source(&error).map(|cause| cause.to_string().into());
        ContainerdError::Connect { socket: socket.to_owned(), source: cause.unwrap_or_else(|| error.into()) }
    };
    channel.ok_or_else(silent)?.map_err(failed)
}

struct Call<'a> {
    background: &'a Background,
    channel: &'a Channel,
    namespace: &'a str,
}

impl Call<'_> {
    fn unary<Q, A>(&self, method: &'static str, what: &str, question: Q) -> Result<A, ContainerdError>
    where
        Q: prost::Message + Default + 'static,
        A: prost::Message + Default + 'static,
    {
        let answer = self.background.wait(SILENCE, async {
            let mut client = client::Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
            client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let codec = ProstCodec::<Q, A>::default();
            client.unary(request(self.namespace, question)?, PathAndQuery::from_static(method), codec).await
        });
        let silent = || ContainerdError::Silent { what: what.into(), limit: SILENCE };
        Ok(answer.ok_or_else(silent)?.map_err(|error| status(&error, what))?.into_inner())
    }
}

/// `containerd-namespace`: pkg/namespaces/grpc.go.
fn request<Q>(namespace: &str, question: Q) -> Result<Request<Q>, Status> {
    let mut request = Request::new(question);
    let value =
        namespace.parse().map_err(|_| Status::invalid_argument("the namespace is no header's value"))?;
    request.metadata_mut().insert("containerd-namespace", value);
    Ok(request)
}

fn status(status: &Status, what: &str) -> ContainerdError {
    let message = status.message().chars().take(300).collect();
    ContainerdError::Status { what: what.into(), code: status.code(), message }
}

async fn content(
    channel: Channel,
    namespace: &str,
    image: &str,
    what: &'static str,
    digest: Digest,
    sender: &Sender,
) -> Result<(), ContainerdError> {
    let name = format!("{what} {digest}");
    let silent = |_| ContainerdError::Silent { what: name.clone(), limit: SILENCE };
    let failed = |error: Status| match error.code() {
        Code::NotFound => ContainerdError::Discarded { image: image.into(), what, digest },
        _ => status(&error, &name),
    };
    let mut client = client::Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE);
    client.ready().await.map_err(|error| failed(Status::unavailable(error.to_string())))?;
    let question = proto::ReadContentRequest { digest: digest.to_string(), offset: 0, size: 0 };
    let codec = ProstCodec::<proto::ReadContentRequest, proto::ReadContentResponse>::default();
    let method = PathAndQuery::from_static("/containerd.services.content.v1.Content/Read");
    let call = client.server_streaming(request(namespace, question).map_err(failed)?, method, codec);
    let mut stream = tokio::time::timeout(SILENCE, call).await.map_err(silent)?.map_err(failed)?.into_inner();
    let mut expected = 0;
    while let Some(piece) =
        tokio::time::timeout(SILENCE, stream.message()).await.map_err(silent)?.map_err(failed)?
    {
        if piece.offset != expected {
            let reason = format!("byte {} came when byte {expected} was next", piece.offset);
            return Err(ContainerdError::Answer { what: name, reason });
        }
        // A message has 16 MiB at most.
        expected += i64::try_from(piece.data.len()).unwrap_or(i64::MAX);
        let data: Bytes = piece.data;
        if !sender.send(Ok(data)).await {
            break;
        }
    }
    Ok(())
}
