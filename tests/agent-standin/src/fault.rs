//! Faults on demand, so that tests can meet an agent that misbehaves. Only the stand-in has them.
//!
//! They stand between the listener and the service and work on ttrpc's frames: a head of ten bytes (length, stream,
//! kind, flags; big endian) and its payload.

use std::fmt;
use std::io;

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
        loop {
            let mut head = [0; HEAD];
            tokio::select! {
                read = from_client.read_exact(&mut head) => { read?; }
                copied = tokio::io::copy(&mut from_service, &mut to_client) => { copied?; return Ok(false); }
            }
            let mut payload = vec![0; length(&head)];
            from_client.read_exact(&mut payload).await?;
            if self.strikes(&payload) {
                log::line(format_args!("fault: {:?}", self.kind));
                return self.happen(&head, &mut from_client, &mut to_client).await;
            }
            to_service.write_all(&head).await?;
            to_service.write_all(&payload).await?;
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
    use tokio::io::duplex;

    use super::*;

    fn frame(method: &str) -> Vec<u8> {
        let request = Request { method: method.into(), ..Default::default() };
        let payload = request.write_to_bytes().unwrap();
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
        frame.extend([0, 0, 0, 7, 1, 0]);
        frame.extend(payload);
        frame
    }

    /// Sends two calls; returns what the service and what the client got, and whether the agent must end.
    async fn run(fault: &str) -> (Vec<u8>, Vec<u8>, io::Result<bool>) {
        let (mut ours, theirs) = duplex(1 << 20);
        let (service, mut behind) = UnixStream::pair().unwrap();
        let fault = Fault::parse(fault).unwrap();
        let passing = tokio::spawn(async move { fault.pass(theirs, service).await });
        for call in ["Check", "CreateSandbox"] {
            let _ = ours.write_all(&frame(call)).await;
        }
        let (mut answers, writer) = split(ours);
        let reading = tokio::spawn(async move {
            let mut got = Vec::new();
            let _ = (&mut answers).take(1 << 16).read_to_end(&mut got).await;
            got
        });
        let mut passed = Vec::new();
        let whole = frame("Check").len();
        if fault_passes(&passing) {
            let mut buffer = vec![0; whole];
            if behind.read_exact(&mut buffer).await.is_ok() {
                passed = buffer;
            }
        }
        let mut writer = writer;
        let _ = writer.shutdown().await;
        drop(writer);
        let got = reading.await.unwrap();
        passing.abort();
        let ended = passing.await.unwrap_or(Ok(false));
        (passed, got, ended)
    }

    fn fault_passes<T>(_: &T) -> bool {
        true
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
        let (passed, got, _) = run("hang-up-at=CreateSandbox").await;
        assert_eq!(passed, frame("Check"));
        assert_eq!(got, b"");
    }

    #[tokio::test]
    async fn an_oversized_reply_says_so() {
        let (_, got, _) = run("oversized-reply-at=Check").await;
        assert_eq!(got[..HEAD], [4, 0, 0, 0, 0, 0, 0, 7, RESPONSE, 0]);
    }

    #[tokio::test]
    async fn garbage_is_no_frame() {
        let (passed, got, _) = run("garbage").await;
        assert_eq!(passed, b"");
        assert!(got.starts_with(b"\xff\x00garbage"));
    }
}
