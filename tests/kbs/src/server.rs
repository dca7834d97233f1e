//! HTTP, with or without TLS: one question for each connection, in a thread of its own.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::Trouble;

/// Longest content of a question, as Trustee has it (`payload_request_size`).
const LONGEST: usize = 2 << 20;
/// Longest head of a question.
const HEAD: usize = 128 << 10;

/// A question.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Question {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

/// A server that ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(
        address: SocketAddr,
        tls: Option<Arc<ServerConfig>>,
        trouble: Trouble,
        answer: impl Fn(&Question) -> Answer + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let over = Arc::new(AtomicBool::new(false));
        let (ended, answer, served) = (over.clone(), Arc::new(answer), Arc::new(AtomicUsize::new(0)));
        let thread = thread::Builder::new().name("kbs".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                if ended.load(Ordering::Acquire) {
                    return;
                }
                let (answer, tls, served) = (answer.clone(), tls.clone(), served.clone());
                thread::spawn(move || {
                    let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
                    let _ = match tls.map(ServerConnection::new) {
                        None => serve(stream, trouble, &served, &*answer),
                        Some(Ok(connection)) => {
                            serve(StreamOwned::new(connection, stream), trouble, &served, &*answer)
                        }
                        Some(Err(error)) => Err(io::Error::other(error)),
                    };
                });
            }
        })?;
        Ok(Self { address, over, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        // Wakes the thread.
        if let Ok(stream) = TcpStream::connect(self.address) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    mut stream: impl Read + Write,
    trouble: Trouble,
    served: &AtomicUsize,
    answer: &dyn Fn(&Question) -> Answer,
) -> io::Result<()> {
    let Some(question) = read(&mut stream)? else { return Ok(()) };
    let before = served.fetch_add(1, Ordering::AcqRel);
    let plain = |status, headers| Answer { status, headers, body: b"{}".to_vec() };
    let answer = match trouble {
        Trouble::Silent => {
            // Until the asker goes away.
            let _ = stream.read(&mut [0]);
            return Ok(());
        }
        Trouble::Fails(times) if before < times => plain(503, vec![]),
        Trouble::Elsewhere => {
            plain(302, vec![("location", format!("http://127.0.0.1:1{}", question.target))])
        }
        Trouble::Nonsense => return stream.write_all(b"220 mail.example ESMTP\r\n"),
        Trouble::Endless => return endless(&mut stream),
        Trouble::Slow => return slow(&mut stream),
        _ => answer(&question),
    };
    let mut head = format!(
        "HTTP/1.1 {} X\r\ncontent-length: {}\r\nconnection: close\r\n",
        answer.status,
        answer.body.len()
    );
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(&[head.as_bytes(), b"\r\n", &answer.body].concat())?;
    stream.flush()
}

/// More than a hundred megabytes, for whoever reads them.
fn endless(stream: &mut (impl Read + Write)) -> io::Result<()> {
    const PIECE: usize = 64 << 10;
    const PIECES: usize = 1700;
    let head = format!("HTTP/1.1 200 X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", PIECE * PIECES);
    stream.write_all(head.as_bytes())?;
    (0..PIECES).try_for_each(|_| stream.write_all(&[b' '; PIECE]))
}

/// A byte at a time, for as long as somebody waits for more.
fn slow(stream: &mut (impl Read + Write)) -> io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 X\r\ncontent-length: 1000\r\nconnection: close\r\n\r\n")?;
    for _ in 0..1000 {
        stream.write_all(b" ")?;
        stream.flush()?;
        #[expect(clippy::disallowed_methods, reason = "to be slow is what it is for")]
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn read(stream: &mut impl Read) -> io::Result<Option<Question>> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 16 << 10]);
    loop {
        let read = stream.read(&mut piece)?;
        if read == 0 {
            return Ok(None);
        }
        bytes.extend_from_slice(&piece[..read]);
        if let Some((mut question, begin, length)) = head(&bytes)? {
            if length > LONGEST {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            while bytes.len() < begin + length {
                let read = stream.read(&mut piece)?;
                if read == 0 {
                    return Ok(None);
                }
                bytes.extend_from_slice(&piece[..read]);
            }
            question.body = bytes[begin..begin + length].to_vec();
            return Ok(Some(question));
        }
        if bytes.len() > HEAD {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
    }
}

/// The head, where the content begins, and its length.
fn head(bytes: &[u8]) -> io::Result<Option<(Question, usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(begin) = request.parse(bytes).map_err(io::Error::other)? else {
        return Ok(None);
    };
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers: Vec<_> =
        request.headers.iter().map(|header| (header.name.to_ascii_lowercase(), text(header.value))).collect();
    let length =
        headers.iter().find(|(name, _)| name == "content-length").map_or(Ok(0), |(_, value)| value.parse());
    let question = Question {
        method: request.method.unwrap_or_default().to_owned(),
        target: request.path.unwrap_or_default().to_owned(),
        headers,
        body: Vec::new(),
    };
    Ok(Some((question, begin, length.map_err(io::Error::other)?)))
}
