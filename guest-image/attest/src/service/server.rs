//! HTTP on the loopback, as little of it as containers need: one question for each connection, bounded in size and time.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::{Answer, Question, Service};

/// Where CoCo's workloads look for it.
pub const ADDRESS: &str = "127.0.0.1:8006";
/// Connections at once; further ones are told to come again.
const CONNECTIONS: usize = 16;
/// Longest question in bytes, and longest time for it to come.
const LONGEST: usize = 16 << 10;
const PATIENCE: Duration = Duration::from_secs(10);
const HEADERS: usize = 64;

/// A question with its head taken apart.
#[derive(Debug, PartialEq, Eq)]
pub enum Head {
    /// More bytes must come.
    Partial,
    /// It is whole, but for so many bytes of its content.
    Whole {
        /// GET or another one.
        method: String,
        /// Path and query.
        target: String,
        /// Where the content is.
        content: Range<usize>,
        /// Bytes of it that are still to come.
        body: usize,
    },
    /// It is none.
    Malformed(&'static str),
}

/// Reads the head of a question.
pub fn head(bytes: &[u8]) -> Head {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let begin = match request.parse(bytes) {
        Ok(httparse::Status::Complete(begin)) => begin,
        Ok(httparse::Status::Partial) => return Head::Partial,
        Err(_) => return Head::Malformed("this is not HTTP"),
    };
    let (Some(method), Some(target)) = (request.method, request.path) else {
        return Head::Malformed("this is not HTTP");
    };
    let mut length = 0;
    for header in request.headers.iter() {
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Head::Malformed("send the content with its length");
        }
        if header.name.eq_ignore_ascii_case("content-length") {
            let number = str::from_utf8(header.value).ok().and_then(|text| text.trim().parse::<usize>().ok());
            let Some(number) = number.filter(|number| *number <= LONGEST) else {
                return Head::Malformed("the content is too long");
            };
            length = number;
        }
    }
    let body = (begin + length).saturating_sub(bytes.len());
    Head::Whole { method: method.to_owned(), target: target.to_owned(), content: begin..begin + length, body }
}

/// Serves for ever.
///
/// # Errors
///
/// When no connection can be taken any more.
pub fn run(listener: &TcpListener, service: &Arc<Service>) -> io::Result<()> {
    // One more for each connection that is served.
    let busy = Arc::new(());
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            // The peer was gone already.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        if Arc::strong_count(&busy) > CONNECTIONS {
            let _ = send(&stream, &Answer::error(503, "too many questions at once; ask again"));
            continue;
        }
        let (service, seat) = (service.clone(), busy.clone());
        let _ = thread::Builder::new().stack_size(256 << 10).spawn(move || {
            let _seat = seat;
            serve(&stream, &service)
        });
    }
}

fn serve(stream: &TcpStream, service: &Service) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let (mut stream, mut bytes) = (stream, Vec::new());
    let (method, target, content) = loop {
        match head(&bytes) {
            Head::Whole { method, target, content, body: 0 } => break (method, target, content),
            Head::Malformed(why) => return send(stream, &Answer::error(400, why)),
            Head::Partial | Head::Whole { .. } if bytes.len() >= 2 * LONGEST => {
                return send(stream, &Answer::error(413, "the question is too long"));
            }
            Head::Partial | Head::Whole { .. } => {}
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return send(stream, &Answer::error(408, "the question did not come"));
        }
        stream.set_read_timeout(Some(left))?;
        let mut more = [0; 4096];
        let read = stream.read(&mut more)?;
        if read == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&more[..read]);
    };
    send(stream, &service.answer(&Question { method: &method, target: &target, content: &bytes[content] }))
}

fn send(mut stream: &TcpStream, answer: &Answer) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let kind = if answer.json { "application/json" } else { "application/octet-stream" };
    let reason = match answer.status {
        200 => "OK",
        400..=499 => "Refused",
        _ => "Failed",
    };
    let head = format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        answer.status,
        answer.body.len()
    );
    stream.write_all(&[head.as_bytes(), &answer.body].concat())
}

#[cfg(test)]
mod tests;
