//! Faults on demand, so that tests can meet an agent that misbehaves. Only the stand-in has them.
//!
//! They stand between the listener and the service and work on ttrpc's frames: a head of ten bytes (length, stream,
//! kind, flags; big endian) and its payload.

use std::fmt;
use std::io;
use std::sync::Once;

use protobuf::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::UnixStream;
use ttrpc::Request;

use crate::log;

const HEAD: usize = 10;
/// Larger than ttrpc allows (4 MiB).
const OVERSIZED: u32 = 64 << 20;
const RESPONSE: u8 = 2;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The call is read and never answered.
    NeverAnswer,
    /// The answer is not ttrpc.
    Garbage,
    /// The answer says that it is 64 MiB long, and is.
    OversizedReply,
    /// The connection is closed.
    HangUp,
    /// The agent ends.
    Die,
}

/// A fault, and the call at which it happens: the first one of any kind, if none is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    kind: Kind,
    call: Option<String>,
}

/// The text names no fault.
#[derive(Debug, PartialEq, Eq)]
pub struct Unknown(String);

impl fmt::Display for Unknown {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "coffer.standin={}: must be never-answer, garbage, oversized-reply, hang-up or die, \
             each alone or with -at=<Call>",
            self.0
        )
    }
}

impl Fault {
    /// Parses `<kind>` or `<kind>-at=<Call>`, such as `die-at=CreateContainer`.
    pub fn parse(text: &str) -> Result<Self, Unknown> {
        let (kind, call) = match text.split_once("-at=") {
            Some((kind, call)) => (kind, Some(call)),
            None => (text, None),
        };
        let kind = match kind {
            "never-answer" => Kind::NeverAnswer,
            "garbage" => Kind::Garbage,
            "oversized-reply" => Kind::OversizedReply,
            "hang-up" => Kind::HangUp,
            "die" => Kind::Die,
            _ => return Err(Unknown(text.to_owned())),
        };
        if call.is_some_and(str::is_empty) {
            return Err(Unknown(text.to_owned()));
        }
        Ok(Self { kind, call: call.map(str::to_owned) })
    }

    /// Passes frames between a client and the service until the fault happens or one of them hangs up.
    /// Returns whether the agent must end now.
    pub async fn pass<C: AsyncRead + AsyncWrite>(&self, client: C, service: UnixStream) -> io::Result<bool> {
        let (mut from_client, mut to_client) = split(client);
        let (mut from_service, mut to_service) = split(service);
        let head = tokio::select! {
            head = self.forward(&mut from_client, &mut to_service) => head?,
            copied = tokio::io::copy(&mut from_service, &mut to_client) => return copied.map(|_| false),
        };
        // A line at each try would look like progress to the host, which watches the console.
        static TOLD: Once = Once::new();
        TOLD.call_once(|| log::line(format_args!("fault: {:?}", self.kind)));
        self.happen(&head, &mut from_client, &mut to_client).await
    }

    /// Forwards calls up to the one at which the fault happens; returns that one's head.
    async fn forward(
        &self,
        client: &mut (impl AsyncRead + Unpin),
        service: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<[u8; HEAD]> {
        loop {
            let mut head = [0; HEAD];
            client.read_exact(&mut head).await?;
            let mut payload = vec![0; length(&head)];
            client.read_exact(&mut payload).await?;
            if self.strikes(&payload) {
                return Ok(head);
            }
            service.write_all(&head).await?;
            service.write_all(&payload).await?;
        }
    }

    fn strikes(&self, payload: &[u8]) -> bool {
        let Some(call) = &self.call else { return true };
        Request::parse_from_bytes(payload).is_ok_and(|request| request.method == *call)
    }

    async fn happen(
        &self,
        head: &[u8; HEAD],
        client: &mut (impl AsyncRead + Unpin),
        answer: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<bool> {
        match self.kind {
            Kind::NeverAnswer => {
                tokio::io::copy(client, &mut tokio::io::sink()).await?;
            }
            Kind::Garbage => {
                answer.write_all(&b"\xff\x00garbage".repeat(100)).await?;
                tokio::io::copy(client, &mut tokio::io::sink()).await?;
            }
            Kind::OversizedReply => {
                let [.., s0, s1, s2, s3, _, _] = *head;
                answer.write_all(&OVERSIZED.to_be_bytes()).await?;
                answer.write_all(&[s0, s1, s2, s3, RESPONSE, 0]).await?;
                tokio::io::copy(&mut tokio::io::repeat(0).take(OVERSIZED.into()), answer).await?;
            }
            Kind::HangUp => {}
            Kind::Die => return Ok(true),
        }
        Ok(false)
    }
}

fn length(head: &[u8; HEAD]) -> usize {
    let [l0, l1, l2, l3, ..] = *head;
    // A longer one is not ttrpc; the service would refuse it, too.
    u32::from_be_bytes([l0, l1, l2, l3]).min(4 << 20) as usize
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};
    use tokio::task::JoinHandle;

    use super::*;

    fn frame(method: &str) -> Vec<u8> {
        let request = Request { method: method.into(), ..Default::default() };
        let payload = request.write_to_bytes().unwrap();
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
        frame.extend([0, 0, 0, 7, 1, 0]);
        frame.extend(payload);
        frame
    }

    /// Starts passing; returns the client's end and the service's.
    fn start(fault: &str) -> (DuplexStream, UnixStream, JoinHandle<io::Result<bool>>) {
        let (client, theirs) = duplex(1 << 16);
        let (service, behind) = UnixStream::pair().unwrap();
        let fault = Fault::parse(fault).unwrap();
        (client, behind, tokio::spawn(async move { fault.pass(theirs, service).await }))
    }

    async fn take(stream: &mut (impl AsyncRead + Unpin), count: usize) -> Vec<u8> {
        let mut got = vec![0; count];
        stream.read_exact(&mut got).await.unwrap();
        got
    }

    #[test]
    fn names() {
        assert_eq!(Fault::parse("garbage").unwrap(), Fault { kind: Kind::Garbage, call: None });
        let named = Fault::parse("hang-up-at=CreateSandbox").unwrap();
        assert_eq!(named, Fault { kind: Kind::HangUp, call: Some("CreateSandbox".into()) });
        for text in ["", "explode", "die-at=", "at=Check"] {
            assert!(Fault::parse(text).is_err(), "{text:?}");
        }
    }

    #[tokio::test]
    async fn calls_before_the_named_one_pass() {
        let (mut client, mut service, passing) = start("hang-up-at=CreateSandbox");
        client.write_all(&frame("Check")).await.unwrap();
        assert_eq!(take(&mut service, frame("Check").len()).await, frame("Check"));
        service.write_all(b"answer").await.unwrap();
        assert_eq!(take(&mut client, 6).await, b"answer");
        client.write_all(&frame("CreateSandbox")).await.unwrap();
        assert!(!passing.await.unwrap().unwrap());
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn an_oversized_reply_says_so() {
        let (mut client, _service, _passing) = start("oversized-reply-at=Check");
        client.write_all(&frame("Check")).await.unwrap();
        assert_eq!(take(&mut client, HEAD).await, [4, 0, 0, 0, 0, 0, 0, 7, RESPONSE, 0]);
    }

    #[tokio::test]
    async fn garbage_is_no_frame() {
        let (mut client, _service, _passing) = start("garbage");
        client.write_all(&frame("Check")).await.unwrap();
        assert_eq!(take(&mut client, 9).await, b"\xff\x00garbage");
    }

    #[tokio::test]
    async fn death_is_reported() {
        let (mut client, _service, passing) = start("die");
        client.write_all(&frame("Check")).await.unwrap();
        assert!(passing.await.unwrap().unwrap());
    }
}
