//! `kubectl port-forward` as kubelet hands it to the engine: the engine's streaming server, over a WebSocket.
//!
//! The protocol is `v4.channel.k8s.io` (kubelet's `cri/streaming/portforward/websocket.go`): binary frames whose first byte is
//! a channel, 0 for the data and 1 for errors of the first port. The server's first word on each is the port, in two bytes.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::or_fail::OrFail;
use crate::wait::within;

const LIMIT: Duration = Duration::from_secs(30);
const DATA: u8 = 0;

/// One connection to one port of a pod.
#[derive(Debug)]
pub struct Forwarded {
    stream: TcpStream,
    port: u16,
}

impl Forwarded {
    /// Opens the connection at the address that `PortForward` gave.
    pub async fn open(url: &str, port: u16) -> Self {
        let rest = url.strip_prefix("http://").or_fail("an address without TLS");
        let (host, path) = rest.split_once('/').or_fail("an address with a path");
        let mut stream = TcpStream::connect(host).await.or_fail("connect to the streaming server");
        let key = STANDARD.encode([7; 16]);
        let request = format!(
            "GET /{path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Origin: http://{host}\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.or_fail("ask for a WebSocket");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(within("the WebSocket", LIMIT, stream.read_u8()).await.or_fail("the WebSocket"));
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        Self { stream, port }
    }

    /// Sends `request` and returns what comes back until `enough` says so, or until the server ends the connection.
    pub async fn ask(mut self, request: &[u8], enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        // Final and binary; masked, as a client's frames have to be, with zeros.
        let length = u8::try_from(request.len() + 1).or_fail("a short request");
        assert!(length < 126, "a short request");
        let mut frame = vec![0x82, 0x80 | length, 0, 0, 0, 0, DATA];
        frame.extend_from_slice(request);
        self.stream.write_all(&frame).await.or_fail("send a frame");
        let mut data = Vec::new();
        let port = self.port.to_le_bytes();
        within("the pod's answer", LIMIT, async {
            while let Some(payload) = self.frame().await {
                if let [DATA, rest @ ..] = &payload[..] {
                    data.extend_from_slice(rest);
                }
                if data.strip_prefix(&port).is_some_and(&enough) {
                    break;
                }
            }
        })
        .await;
        data.strip_prefix(&port).or_fail("the port, which comes first").to_vec()
    }

    /// The next frame's payload; none at the end.
    async fn frame(&mut self) -> Option<Vec<u8>> {
        const CLOSE: u8 = 8;
        let kind = self.stream.read_u8().await.ok()?;
        let length = match self.stream.read_u8().await.ok()? {
            126 => u64::from(self.stream.read_u16().await.ok()?),
            127 => self.stream.read_u64().await.ok()?,
            short => u64::from(short),
        };
        let mut payload = vec![0; usize::try_from(length).ok()?];
        self.stream.read_exact(&mut payload).await.ok()?;
        (kind & 0xf != CLOSE).then_some(payload)
    }
}
