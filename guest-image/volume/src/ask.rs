//! One question to the attestation service.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use zeroize::Zeroizing;

/// Where it listens.
pub const SERVICE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8006);
/// Longest answer, in bytes: a key is a passphrase, and an error a sentence.
const LONGEST: u64 = 64 << 10;
/// More than the service takes for a broker that does not answer.
const PATIENCE: Duration = Duration::from_secs(180);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens, or it hangs up.
    #[error("the attestation service at {SERVICE} does not answer")]
    Service(#[source] io::Error),
    /// The answer is none.
    #[error("the attestation service at {SERVICE} answers what is not HTTP")]
    Answer,
    /// It says no; its words name the refusal.
    #[error("{0}")]
    Refused(String),
    /// A key without a byte.
    #[error("the key broker has nothing there")]
    Empty,
}

/// The resource `repository/type/tag`.
pub fn key(service: SocketAddr, path: &str) -> Result<Zeroizing<Vec<u8>>, AskError> {
    let mut stream = TcpStream::connect(service).map_err(AskError::Service)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(AskError::Service)?;
    let question = format!("GET /cdh/resource/{path} HTTP/1.0\r\nHost: {service}\r\n\r\n");
    stream.write_all(question.as_bytes()).map_err(AskError::Service)?;
    let mut answer = Zeroizing::new(Vec::with_capacity(4096));
    stream.take(LONGEST).read_to_end(&mut answer).map_err(AskError::Service)?;
    let (status, head) = head(&answer)?;
    let body = &answer[head..];
    match status {
        200 if body.is_empty() => Err(AskError::Empty),
        200 => Ok(Zeroizing::new(body.to_vec())),
        _ => Err(AskError::Refused(String::from_utf8_lossy(body).trim().to_owned())),
    }
}

/// The status, and where the content begins.
fn head(answer: &[u8]) -> Result<(u16, usize), AskError> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(answer) {
        Ok(httparse::Status::Complete(length)) => Ok((response.code.ok_or(AskError::Answer)?, length)),
        Ok(httparse::Status::Partial) | Err(_) => Err(AskError::Answer),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// What comes of one answer, and the question.
    fn ask(answer: &'static [u8]) -> (Result<Vec<u8>, String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let service = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = Vec::new();
            while !question.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                question.push(byte[0]);
            }
            stream.write_all(answer).unwrap();
            String::from_utf8(question).unwrap()
        });
        let got = key(service, "default/key/model");
        (got.map(|key| key.to_vec()).map_err(|error| error.to_string()), server.join().unwrap())
    }

    #[test]
    fn a_key_is_the_answers_content_byte_for_byte() {
        let (key, question) = ask(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n\0k\r\n\xff");
        assert_eq!(key.unwrap(), b"\0k\r\n\xff");
        assert!(question.starts_with("GET /cdh/resource/default/key/model HTTP/1.0\r\n"), "{question}");
    }

    #[test]
    fn everything_else_says_why_there_is_none() {
        let refusal = b"HTTP/1.1 401 Unauthorized\r\n\r\n{\"error\":\"PolicyDeny\"}\n";
        assert_eq!(ask(refusal).0.unwrap_err(), "{\"error\":\"PolicyDeny\"}");
        assert!(ask(b"HTTP/1.1 200 OK\r\n\r\n").0.unwrap_err().contains("nothing there"));
        for answer in [&b""[..], b"HTTP/1.1 200", b"key"] {
            assert!(ask(answer).0.unwrap_err().contains("not HTTP"), "{answer:?}");
        }
        let nobody = key("127.0.0.1:1".parse().unwrap(), "a/b/c").unwrap_err();
        assert!(matches!(nobody, AskError::Service(_)), "{nobody}");
    }
}
