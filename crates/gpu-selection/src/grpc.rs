//! One unary gRPC call over a unix socket.
//!
//! `h2` alone, not `tonic`: one small call in a process that stays resident needs no channel, balancer or
//! codec generator, and the shim's size is bounded. The messages are rust-protobuf's, which the shim has for ttrpc.
//!
//! Wire format: doc/PROTOCOL-HTTP2.md of grpc/grpc.

use std::io;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::{HeaderMap, Request};
use protobuf::Message;
use tokio::net::UnixStream;

/// What gRPC clients accept by default, too. A node's 250 pods with all their devices are a tenth of it.
pub(crate) const MAX_ANSWER: usize = 4 << 20;
/// Headers and trailers together are a few hundred bytes.
const MAX_HEADERS: u32 = 16 << 10;
/// A flag and the message's length.
const PREFIX: usize = 5;

/// Status codes that mean something here (grpc/grpc, doc/statuscodes.md).
pub(crate) mod code {
    pub(crate) const UNKNOWN: u32 = 2;
    pub(crate) const NOT_FOUND: u32 = 5;
    pub(crate) const RESOURCE_EXHAUSTED: u32 = 8;
    pub(crate) const UNIMPLEMENTED: u32 = 12;
    pub(crate) const UNAVAILABLE: u32 = 14;
}

/// What can go wrong with a call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens on the socket.
    #[error("cannot connect to its socket")]
    Connect(#[source] io::Error),
    /// The connection broke, or HTTP/2 was not spoken.
    #[error("the connection failed")]
    Http2(#[from] h2::Error),
    /// It answered with an error.
    #[error("it answered with gRPC status {code}: {message:?}")]
    Status {
        /// The status.
        code: u32,
        /// Its text, shortened.
        message: String,
    },
    /// It answered with more than is read.
    #[error("its answer has more than {MAX_ANSWER} bytes")]
    TooLarge,
    /// The answer is no gRPC message.
    #[error("its answer is not gRPC: {0}")]
    NotGrpc(&'static str),
    /// The message is not of the API.
    #[error("its answer cannot be decoded")]
    Decode(#[from] protobuf::Error),
}

/// Calls `method`, as in `/v1.PodResourcesLister/Get`. The caller sets the time limit.
pub(crate) async fn unary<A: Message>(
    socket: &Path,
    method: &str,
    request: &impl Message,
) -> Result<A, Error> {
    let stream = UnixStream::connect(socket).await.map_err(Error::Connect)?;
    let (client, connection) = h2::client::Builder::new()
        .max_header_list_size(MAX_HEADERS)
        .enable_push(false)
        .handshake(stream)
        .await?;
    let driver = Driver(tokio::spawn(async move { drop(connection.await) }));
    let answer = call(client, method, frame(request)?).await;
    drop(driver);
    Ok(A::parse_from_bytes(&answer?)?)
}

/// The connection's task; it ends with the call.
struct Driver(tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn frame(message: &impl Message) -> Result<Bytes, Error> {
    let message = message.write_to_bytes()?;
    let length = u32::try_from(message.len()).map_err(|_| Error::TooLarge)?;
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.extend_from_slice(&[0]);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&message);
    Ok(frame.freeze())
}

async fn call(client: h2::client::SendRequest<Bytes>, method: &str, message: Bytes) -> Result<Bytes, Error> {
    let request = Request::post(format!("http://localhost{method}"))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(())
        .map_err(|_| Error::NotGrpc("no such method name"))?;
    let mut client = client.ready().await?;
    let (answer, mut body) = client.send_request(request, false)?;
    body.send_data(message, true)?;
    let (head, mut body) = answer.await?.into_parts();
    if !head.status.is_success() {
        return Err(Error::NotGrpc("its HTTP status is no success"));
    }
    // A failure without a message may have its status in the headers.
    status(&head.headers)?;
    let data = read(&mut body).await?;
    let trailers = body.trailers().await?.unwrap_or_default();
    if !head.headers.contains_key("grpc-status") && !trailers.contains_key("grpc-status") {
        return Err(Error::NotGrpc("it has no status"));
    }
    status(&trailers)?;
    unframe(&data)
}

async fn read(body: &mut RecvStream) -> Result<Bytes, Error> {
    let mut data = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        if data.len() + chunk.len() > MAX_ANSWER + PREFIX {
            return Err(Error::TooLarge);
        }
        body.flow_control().release_capacity(chunk.len())?;
        data.extend_from_slice(&chunk);
    }
    Ok(data.freeze())
}

fn unframe(data: &Bytes) -> Result<Bytes, Error> {
    let &[flag, a, b, c, d] = data.first_chunk::<PREFIX>().ok_or(Error::NotGrpc("it has no message"))?;
    if flag != 0 {
        return Err(Error::NotGrpc("it is compressed, which was not offered"));
    }
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(|_| Error::TooLarge)?;
    if length != data.len() - PREFIX {
        return Err(Error::NotGrpc("its length is not the one it names"));
    }
    Ok(data.slice(PREFIX..))
}

/// An error unless the headers have no status, or a good one.
fn status(headers: &HeaderMap) -> Result<(), Error> {
    let Some(value) = headers.get("grpc-status") else { return Ok(()) };
    let code = value.to_str().ok().and_then(|text| text.parse().ok());
    match code.ok_or(Error::NotGrpc("its status is no number"))? {
        0 => Ok(()),
        code => {
            let text = headers.get("grpc-message").map_or(&[][..], |value| value.as_bytes());
            let message = String::from_utf8_lossy(text).chars().take(200).collect();
            Err(Error::Status { code, message })
        }
    }
}
