//! Stand-in for a registry: the reading half of the distribution API over HTTP/1.1 on the loopback, with logins.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::make::Image;

pub(crate) const REPOSITORY: &str = "team/app";
const TOKEN: &str = "a-token-of-the-fake";

/// Who may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Login {
    Nobody,
    Basic,
    Bearer,
}

/// How it misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Takes the connection and says nothing.
    SilentAtOnce,
    /// Answers with half a layer, and stops.
    SilentInLayer,
    /// Closes the connection in the middle of a layer.
    CutInLayer,
    /// Its manifests never end.
    EndlessManifest,
    /// It is ill.
    Status500,
}

pub(crate) struct FakeRegistry {
    pub(crate) port: u16,
    state: Arc<State>,
}

struct State {
    blobs: BTreeMap<String, Vec<u8>>,
    tags: BTreeMap<String, String>,
    login: Login,
    fault: Fault,
    requests: Mutex<Vec<String>>,
    port: u16,
}

impl FakeRegistry {
    /// Serves an image under the tag `v1`; its connections end with the test.
    pub(crate) fn serve(image: &mut Image, login: Login, fault: Fault) -> Self {
        let digest = image.seal()["digest"].as_str().unwrap().to_owned();
        Self::serve_as(image, &digest, login, fault)
    }

    /// Serves a blob of an image under the tag `v1`.
    pub(crate) fn serve_as(image: &Image, digest: &str, login: Login, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let tags = BTreeMap::from([("v1".to_owned(), digest.to_owned())]);
        let requests = Mutex::default();
        let state = Arc::new(State { blobs: image.blobs.clone(), tags, login, fault, requests, port });
        let serving = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = serving.clone();
                thread::spawn(move || state.serve(stream));
            }
        });
        Self { port, state }
    }

    pub(crate) fn reference(&self) -> String {
        format!("127.0.0.1:{}/{REPOSITORY}:v1", self.port)
    }

    pub(crate) fn requests(&self) -> usize {
        self.state.requests.lock().unwrap().len()
    }
}

struct Asked {
    path: String,
    authorization: Option<String>,
}

fn ask(reader: &mut impl BufRead) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut authorization = None;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        if name.eq_ignore_ascii_case("authorization") {
            authorization = Some(value.to_owned());
        }
    }
    Some(Asked { path, authorization })
}

impl State {
    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut stream = stream;
        while let Some(asked) = ask(&mut reader) {
            self.requests.lock().unwrap().push(asked.path.clone());
            if self.fault == Fault::SilentAtOnce {
                // Until the client closes.
                let _ = reader.read(&mut [0]);
                return;
            }
            if self.answer(&mut stream, &asked).is_none() {
                return;
            }
        }
    }

    fn answer(&self, stream: &mut TcpStream, asked: &Asked) -> Option<()> {
        let basic = format!("Basic {}", BASE64_STANDARD.encode("user:secret"));
        if asked.path.starts_with("/token") {
            let scope = format!("scope=repository%3A{}%3Apull", REPOSITORY.replace('/', "%2F"));
            assert!(asked.path.contains(&scope), "{}", asked.path);
            return if asked.authorization.as_deref() == Some(&basic) {
                respond(stream, "200 OK", "", format!("{{\"token\":\"{TOKEN}\"}}").as_bytes())
            } else {
                respond(stream, "401 Unauthorized", "", b"{}")
            };
        }
        let (wanted, challenge) = match self.login {
            Login::Nobody => (None, String::new()),
            Login::Basic => (Some(basic), "Basic realm=\"fake\"".to_owned()),
            Login::Bearer => {
                let realm = format!("http://127.0.0.1:{}/token", self.port);
                (Some(format!("Bearer {TOKEN}")), format!("Bearer realm=\"{realm}\",service=\"fake\""))
            }
        };
        if wanted.is_some() && asked.authorization != wanted {
            let header = format!("WWW-Authenticate: {challenge}\r\n");
            return respond(stream, "401 Unauthorized", &header, br#"{"errors":[{"code":"UNAUTHORIZED"}]}"#);
        }
        if asked.path == "/v2/" {
            return respond(stream, "200 OK", "", b"{}");
        }
        if self.fault == Fault::Status500 {
            return respond(stream, "500 Internal Server Error", "", b"oh");
        }
        let path = asked.path.strip_prefix(&format!("/v2/{REPOSITORY}/"));
        match path.and_then(|path| path.split_once('/')) {
            Some(("manifests", reference)) => self.manifest(stream, reference),
            Some(("blobs", digest)) => self.blob(stream, digest),
            _ => respond(stream, "404 Not Found", "", br#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#),
        }
    }

    fn manifest(&self, stream: &mut TcpStream, reference: &str) -> Option<()> {
        let digest = self.tags.get(reference).map_or(reference, String::as_str);
        match self.blobs.get(digest) {
            Some(_) if self.fault == Fault::EndlessManifest => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").ok()?;
                let chunk = vec![b' '; 1 << 16];
                loop {
                    write!(stream, "{:x}\r\n", chunk.len()).ok()?;
                    stream.write_all(&chunk).ok()?;
                    stream.write_all(b"\r\n").ok()?;
                }
            }
            Some(content) => {
                let header = format!("Docker-Content-Digest: {digest}\r\n");
                respond(stream, "200 OK", &header, content)
            }
            None => respond(stream, "404 Not Found", "", br#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#),
        }
    }

    fn blob(&self, stream: &mut TcpStream, digest: &str) -> Option<()> {
        let Some(content) = self.blobs.get(digest) else {
            return respond(stream, "404 Not Found", "", br#"{"errors":[{"code":"BLOB_UNKNOWN"}]}"#);
        };
        // Configurations are small.
        let half = match self.fault {
            Fault::SilentInLayer | Fault::CutInLayer if content.len() > 10_000 => content.len() / 2,
            _ => return respond(stream, "200 OK", "", content),
        };
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", content.len()).ok()?;
        stream.write_all(&content[..half]).ok()?;
        if self.fault == Fault::SilentInLayer {
            let _ = stream.read(&mut [0]);
        }
        None
    }
}

fn respond(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) -> Option<()> {
    write!(stream, "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len()).ok()?;
    stream.write_all(body).ok()
}
