//! The hybrid vsock handshake: `CONNECT <port>` is answered by `OK <host port>`.
//!
//! The convention is Firecracker's (its docs/vsock.md), which vhost-device-vsock follows.

use std::io;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::text::sanitize_bytes;

/// Longest answer there is: `OK `, ten digits of a `u32`, a newline.
const MAX_ANSWER: usize = 14;

/// Why a handshake failed.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// The connection broke or was closed: nobody listens on the port yet.
    #[error("connection broken in the vsock handshake")]
    Io(#[source] io::Error),
    /// The peer is not a hybrid vsock device.
    #[error("vsock handshake answered {answer:?} where `OK <port>` is due")]
    Garbage {
        /// What came instead, sanitized.
        answer: String,
    },
}

/// Asks the device behind `stream` for the guest's `port`; afterwards the stream is the guest's.
///
/// Reads not one byte beyond the answer's newline, and at most [`MAX_ANSWER`] bytes.
pub async fn handshake<S>(stream: &mut S, port: u32) -> Result<u32, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await.map_err(HandshakeError::Io)?;
    let mut answer = Vec::with_capacity(MAX_ANSWER);
    loop {
        let byte = stream.read_u8().await.map_err(HandshakeError::Io)?;
        answer.push(byte);
        if byte == b'\n' || answer.len() == MAX_ANSWER {
            return parse_answer(&answer)
                .ok_or_else(|| HandshakeError::Garbage { answer: sanitize_bytes(&answer) });
        }
    }
}

/// Parses `OK <port>\n`, the whole of it, and returns the port.
pub fn parse_answer(answer: &[u8]) -> Option<u32> {
    let digits = answer.strip_prefix(b"OK ")?.strip_suffix(b"\n")?;
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_exact_answer_is_taken() {
        assert_eq!(parse_answer(b"OK 1073741824\n"), Some(1_073_741_824));
        assert_eq!(parse_answer(b"OK 4294967295\n"), Some(u32::MAX));
        for bad in [
            &b"OK 1073741824"[..],
            b"OK 4294967296\n",
            b"OK \n",
            b"OK +1\n",
            b"OK  1\n",
            b"OK 1 \n",
            b"ok 1\n",
            b"OK 1\r\n",
            b"ERR\n",
            b"\n",
            b"",
        ] {
            assert_eq!(parse_answer(bad), None, "{}", sanitize_bytes(bad));
        }
    }

    #[tokio::test]
    async fn bytes_after_the_newline_stay_in_the_stream() {
        let mut stream =
            tokio_test::io::Builder::new().write(b"CONNECT 1024\n").read(b"OK 5\n\x00\x01").build();
        assert_eq!(handshake(&mut stream, 1024).await.unwrap(), 5);
        assert_eq!(stream.read_u16().await.unwrap(), 1);
    }

    #[tokio::test]
    async fn an_endless_answer_is_cut_off() {
        let (mut ours, mut theirs) = tokio::io::duplex(1 << 16);
        theirs.write_all(&[b'O'; 4096]).await.unwrap();
        let error = handshake(&mut ours, 1024).await.unwrap_err();
        assert!(matches!(error, HandshakeError::Garbage { answer } if answer.len() == MAX_ANSWER));
    }

    proptest! {
        #[test]
        fn every_port_is_understood(port: u32) {
            prop_assert_eq!(parse_answer(format!("OK {port}\n").as_bytes()), Some(port));
        }

        #[test]
        fn what_is_taken_is_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..32)) {
            if let Some(port) = parse_answer(&bytes) {
                let text = String::from_utf8(bytes).unwrap();
                prop_assert_eq!(text[3..].trim_end().trim_start_matches('0'), match port { 0 => String::new(), p => p.to_string() });
            }
        }
    }
}
