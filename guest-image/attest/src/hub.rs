//! What kata-agent asks a confidential data hub, over ttrpc on a socket of the guest: here it has sealed secrets opened.
//!
//! Sources: kata-agent 4.1.0, `src/libs/protocols/protos/confidential_data_hub.proto`, and ttrpc's `ttrpc.proto`. A frame is a
//! head of ten bytes (length, stream, type, flags) and a message. All messages that are served have one field, the first one.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use protobuf::rt::WireType;
use protobuf::{CodedInputStream, CodedOutputStream};

/// Longest question in bytes: a sealed secret, and what is around it.
const LONGEST: u32 = 2 << 20;
/// Questions at once; further ones are refused.
const AT_ONCE: usize = 16;
/// Bytes of a frame's head.
const HEAD: usize = 10;
/// ttrpc's type of a question, and of an answer.
const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;
const STACK: usize = 256 << 10;

/// What a hub does for the agent. An error is a sentence.
#[expect(clippy::missing_errors_doc, reason = "a sentence each")]
pub trait Hub: Send + Sync {
    /// Opens a sealed secret.
    fn unseal(&self, secret: &[u8]) -> Result<Vec<u8>, String>;
    /// Fetches a resource of the key broker by its address.
    fn resource(&self, uri: &str) -> Result<Vec<u8>, String>;
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FrameHead {
    length: u32,
    stream: u32,
    kind: u8,
}

/// A question.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    service: String,
    method: String,
    payload: Vec<u8>,
}

/// Why a question has no answer, by ttrpc's codes.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    code: i32,
    text: String,
}

impl Refusal {
    fn new(code: i32, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

const INVALID: i32 = 3;
const EXHAUSTED: i32 = 8;
const UNIMPLEMENTED: i32 = 12;
const INTERNAL: i32 = 13;

/// Serves for ever.
///
/// # Errors
///
/// When no connection can be taken any more.
pub fn run(listener: &UnixListener, hub: &Arc<dyn Hub>) -> io::Result<()> {
    for stream in listener.incoming() {
        let (stream, hub) = (stream?, hub.clone());
        // Who asks here is root in the guest: the agent, once.
        let _ = thread::Builder::new().stack_size(STACK).spawn(move || serve(stream, &hub));
    }
    Ok(())
}

/// Serves one connection to its end. Questions do not wait for each other.
///
/// # Errors
///
/// When the connection breaks, or what comes is not ttrpc.
pub fn serve(mut stream: UnixStream, hub: &Arc<dyn Hub>) -> io::Result<()> {
    let answers = Arc::new(Mutex::new(stream.try_clone()?));
    // One more for each question that has no answer yet.
    let busy = Arc::new(());
    while let Some(head) = next(&mut stream)? {
        if head.kind != REQUEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if head.length > LONGEST {
            io::copy(&mut (&mut stream).take(head.length.into()), &mut io::sink())?;
            let refusal = Refusal::new(EXHAUSTED, format!("a question has at most {LONGEST} bytes"));
            send(&answers, head.stream, &Err(refusal))?;
            continue;
        }
        let mut bytes = Vec::new();
        (&mut stream).take(head.length.into()).read_to_end(&mut bytes)?;
        if bytes.len() != usize::try_from(head.length).unwrap_or(usize::MAX) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if Arc::strong_count(&busy) > AT_ONCE {
            send(
                &answers,
                head.stream,
                &Err(Refusal::new(EXHAUSTED, "too many questions at once; ask again")),
            )?;
            continue;
        }
        let (hub, seat, to) = (hub.clone(), busy.clone(), answers.clone());
        let started = thread::Builder::new().stack_size(STACK).spawn(move || {
            let answer = answer(&bytes, hub.as_ref());
            drop(seat);
            let _ = send(&to, head.stream, &answer);
        });
        if started.is_err() {
            send(&answers, head.stream, &Err(Refusal::new(EXHAUSTED, "no thread can be started")))?;
        }
    }
    Ok(())
}

/// The next frame's head; none at the connection's end.
fn next(stream: &mut impl Read) -> io::Result<Option<FrameHead>> {
    let mut head = Vec::with_capacity(HEAD);
    stream.take(HEAD as u64).read_to_end(&mut head)?;
    if head.is_empty() {
        return Ok(None);
    }
    let Ok([a, b, c, d, e, f, g, h, kind, _]) = <[u8; HEAD]>::try_from(head) else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    Ok(Some(FrameHead {
        length: u32::from_be_bytes([a, b, c, d]),
        stream: u32::from_be_bytes([e, f, g, h]),
        kind,
    }))
}

fn answer(question: &[u8], hub: &dyn Hub) -> Result<Vec<u8>, Refusal> {
    let asked = Asked::parse(question).map_err(|error| Refusal::new(INVALID, error.to_string()))?;
    let value = || field(&asked.payload).map_err(|error| Refusal::new(INVALID, error.to_string()));
    let given = match (asked.service.as_str(), asked.method.as_str()) {
        ("api.SealedSecretService", "UnsealSecret") => hub.unseal(&value()?),
        ("api.GetResourceService", "GetResource") => match String::from_utf8(value()?) {
            Ok(uri) => hub.resource(&uri),
            Err(_) => Err("the resource's address is not text".to_owned()),
        },
        ("api.ImagePullService", _) => {
            let text = "this guest pulls no images: they come as disks of the VM, or the guest has the guest components";
            return Err(Refusal::new(UNIMPLEMENTED, text));
        }
        (service, method) => {
            let text = format!("Coffer's attestation service has no {}/{}", shown(service), shown(method));
            return Err(Refusal::new(UNIMPLEMENTED, text));
        }
    };
    given.map_err(|why| Refusal::new(INTERNAL, why)).and_then(|bytes| {
        written(|to| to.write_bytes(1, &bytes)).map_err(|error| Refusal::new(INTERNAL, error.to_string()))
    })
}

impl Asked {
    /// Reads a question (`Request` of ttrpc). What it has beside is passed over.
    fn parse(bytes: &[u8]) -> protobuf::Result<Self> {
        let mut asked = Self::default();
        let mut input = CodedInputStream::from_bytes(bytes);
        while let Some(tag) = input.read_raw_tag_or_eof()? {
            match tag {
                10 => asked.service = input.read_string()?,
                18 => asked.method = input.read_string()?,
                26 => asked.payload = input.read_bytes()?,
                other => skip(&mut input, other)?,
            }
        }
        Ok(asked)
    }
}

/// The first field of a message, bytes or text.
fn field(message: &[u8]) -> protobuf::Result<Vec<u8>> {
    let mut value = Vec::new();
    let mut input = CodedInputStream::from_bytes(message);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        match tag {
            10 => value = input.read_bytes()?,
            other => skip(&mut input, other)?,
        }
    }
    Ok(value)
}

fn skip(input: &mut CodedInputStream<'_>, tag: u32) -> protobuf::Result<()> {
    let kind = WireType::new(tag & 7);
    input.skip_field(kind.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?)
}

fn written(
    write: impl FnOnce(&mut CodedOutputStream<'_>) -> protobuf::Result<()>,
) -> protobuf::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut to = CodedOutputStream::vec(&mut bytes);
    write(&mut to)?;
    to.flush()?;
    drop(to);
    Ok(bytes)
}

/// A frame with an answer (`Response` of ttrpc).
fn frame(stream: u32, answer: &Result<Vec<u8>, Refusal>) -> protobuf::Result<Vec<u8>> {
    let message = match answer {
        Ok(payload) => written(|to| to.write_bytes(2, payload))?,
        Err(Refusal { code, text }) => {
            let status = written(|to| {
                to.write_int32(1, *code)?;
                to.write_string(2, text)
            })?;
            written(|to| to.write_bytes(1, &status))?
        }
    };
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    Ok([&length.to_be_bytes()[..], &stream.to_be_bytes(), &[RESPONSE, 0], &message].concat())
}

fn send(answers: &Mutex<UnixStream>, stream: u32, answer: &Result<Vec<u8>, Refusal>) -> io::Result<()> {
    let frame = frame(stream, answer).map_err(io::Error::other)?;
    // Whoever panicked while holding it wrote nothing, or the connection is broken anyway.
    answers.lock().unwrap_or_else(PoisonError::into_inner).write_all(&frame)
}

/// A foreign word in a message.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(60).collect()
}

#[cfg(test)]
mod tests;
