//! What can go wrong between the shim and the agent.

use std::fmt;
use std::io;
use std::time::Duration;

use thiserror::Error;
use ttrpc::Code;
use ttrpc::proto::MESSAGE_LENGTH_MAX;

use crate::endpoint::Endpoint;
use crate::framing::{Link, Violation};
use crate::handshake::HandshakeError;
use crate::text::sanitize;

/// The call an error belongs to; prints as `CreateContainer for container c1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The RPC's name on the wire.
    pub rpc: &'static str,
    /// The container it was about.
    pub container: Option<String>,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.container {
            Some(container) => write!(f, "{} for container {container}", self.rpc),
            None => f.write_str(self.rpc),
        }
    }
}

/// A failed connect or a failed call.
#[derive(Debug, Error)]
pub enum AgentError {
    /// No connection to the endpoint.
    #[error("cannot reach the agent on {endpoint}")]
    Unreachable {
        /// Where it was looked for.
        endpoint: Endpoint,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The connection opened, the vsock handshake failed.
    #[error("no way to the agent on {endpoint}")]
    Handshake {
        /// Where it was looked for.
        endpoint: Endpoint,
        /// What went wrong.
        #[source]
        source: HandshakeError,
    },
    /// Connecting took too long.
    #[error("the agent on {endpoint} took no connection within {timeout:?}")]
    ConnectTimeout {
        /// Where it was looked for.
        endpoint: Endpoint,
        /// How long it was given.
        timeout: Duration,
    },
    /// Connected, but the agent's health check failed.
    #[error("the agent on {endpoint} is not well")]
    Unhealthy {
        /// Who was asked.
        endpoint: Endpoint,
        /// What the check said.
        #[source]
        source: Box<AgentError>,
    },
    /// The agent answered its health check with something else than SERVING.
    #[error("the agent is not serving yet")]
    NotServing,
    /// The guest's policy refused the call.
    #[error("{call} is denied by the guest's policy: {message}")]
    Denied {
        /// The refused call.
        call: Call,
        /// The policy's words, sanitized.
        message: String,
    },
    /// The agent answered with an error.
    #[error("{call} failed in the guest ({}): {message}", code_name(*code))]
    Refused {
        /// The failed call.
        call: Call,
        /// The answer's status code.
        code: Code,
        /// The agent's words, sanitized.
        message: String,
    },
    /// No answer in time.
    #[error("{call} got no answer from the guest within {timeout:?}")]
    Timeout {
        /// The call that waited.
        call: Call,
        /// How long it waited.
        timeout: Duration,
    },
    /// The connection ended before the answer came.
    #[error("connection to the agent lost in {call}: {reason}")]
    Disconnected {
        /// The call that was under way.
        call: Call,
        /// What the transport said.
        reason: String,
    },
    /// The guest broke ttrpc's rules; the connection is gone.
    #[error("the guest sent {violation}, connection closed in {call}")]
    Violation {
        /// The call that was under way.
        call: Call,
        /// What was sent.
        violation: Violation,
    },
    /// The answer is no message of the expected type.
    #[error("{call} got an answer that cannot be decoded: {reason}")]
    Undecodable {
        /// The answered call.
        call: Call,
        /// The decoder's words, sanitized.
        reason: String,
    },
    /// The request does not fit a ttrpc message.
    #[error("{call} not sent: a request of {size} bytes is above ttrpc's limit of {MESSAGE_LENGTH_MAX}")]
    TooLarge {
        /// The call not made.
        call: Call,
        /// Encoded size, in bytes.
        size: u64,
    },
}

impl AgentError {
    /// Whether the same `connect` may succeed later: the agent is not there yet, as opposed to
    /// an endpoint that cannot work or a peer that is no agent.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { source, .. } => may_pass(source),
            Self::Handshake { source, .. } => matches!(source, HandshakeError::Io(_)),
            Self::Unhealthy { source, .. } => {
                matches!(**source, Self::NotServing | Self::Timeout { .. } | Self::Disconnected { .. })
            }
            Self::ConnectTimeout { .. } | Self::NotServing => true,
            _ => false,
        }
    }

    /// Whether the guest's policy said no: an ordinary answer, for the user to read.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Denied { .. })
    }

    /// Whether the connection is gone, and with it every other call on it.
    pub fn is_disconnected(&self) -> bool {
        matches!(self, Self::Disconnected { .. } | Self::Violation { .. })
    }

    /// The status code the agent answered with, where it answered.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Denied { .. } => Some(Code::PERMISSION_DENIED),
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Turns ttrpc's error into ours, in the light of what the guard saw.
    pub(crate) fn from_ttrpc(call: Call, error: ttrpc::Error, link: &Link) -> Self {
        if let Some(violation) = link.violation() {
            return Self::Violation { call, violation };
        }
        match error {
            ttrpc::Error::RpcStatus(status) => {
                let message = sanitize(without_backtrace(status.message()));
                match status.code() {
                    Code::PERMISSION_DENIED => Self::Denied { call, message },
                    code => Self::Refused { call, code, message },
                }
            }
            // On a dead connection ttrpc's catch-all means that the request could not be handed over.
            ttrpc::Error::Others(reason) if !link.is_closed() => {
                Self::Undecodable { call, reason: sanitize(&reason) }
            }
            lost => Self::Disconnected { call, reason: sanitize(&lost.to_string()) },
        }
    }
}

/// kata-agent's errors carry a backtrace, without symbols, behind the words.
fn without_backtrace(message: &str) -> &str {
    message.split("\n\nStack backtrace:").next().unwrap_or(message)
}

/// Whether a failed connect can be a matter of time: everything but what an operator must mend.
fn may_pass(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, NotADirectory, PermissionDenied, Unsupported};
    /// `EAFNOSUPPORT`: the host has no vsock at all.
    const NO_SUCH_FAMILY: i32 = 97;
    !matches!(error.kind(), PermissionDenied | InvalidInput | NotADirectory | Unsupported)
        && error.raw_os_error() != Some(NO_SUCH_FAMILY)
}

/// gRPC's name of a status code.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::OK => "OK",
        Code::CANCELLED => "CANCELLED",
        Code::UNKNOWN => "UNKNOWN",
        Code::INVALID_ARGUMENT => "INVALID_ARGUMENT",
        Code::DEADLINE_EXCEEDED => "DEADLINE_EXCEEDED",
        Code::NOT_FOUND => "NOT_FOUND",
        Code::ALREADY_EXISTS => "ALREADY_EXISTS",
        Code::PERMISSION_DENIED => "PERMISSION_DENIED",
        Code::UNAUTHENTICATED => "UNAUTHENTICATED",
        Code::RESOURCE_EXHAUSTED => "RESOURCE_EXHAUSTED",
        Code::FAILED_PRECONDITION => "FAILED_PRECONDITION",
        Code::ABORTED => "ABORTED",
        Code::OUT_OF_RANGE => "OUT_OF_RANGE",
        Code::UNIMPLEMENTED => "UNIMPLEMENTED",
        Code::INTERNAL => "INTERNAL",
        Code::UNAVAILABLE => "UNAVAILABLE",
        Code::DATA_LOSS => "DATA_LOSS",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Call {
        Call { rpc: "ExecProcess", container: Some("c1".to_string()) }
    }

    #[test]
    fn a_policy_refusal_is_told_apart() {
        let error = ttrpc::error::get_rpc_status(Code::PERMISSION_DENIED, "ExecProcess\nis blocked");
        let error = AgentError::from_ttrpc(call(), error, &Link::default());
        assert!(error.is_denied() && !error.is_disconnected() && !error.is_retryable());
        assert_eq!(
            error.to_string(),
            "ExecProcess for container c1 is denied by the guest's policy: ExecProcess is blocked"
        );
    }

    #[test]
    fn an_answered_error_names_call_container_and_code() {
        let error = ttrpc::error::get_rpc_status(
            Code::NOT_FOUND,
            "no such process\n\nStack backtrace:\n   0: <unknown>",
        );
        let error = AgentError::from_ttrpc(call(), error, &Link::default());
        assert_eq!(error.code(), Some(Code::NOT_FOUND));
        assert_eq!(
            error.to_string(),
            "ExecProcess for container c1 failed in the guest (NOT_FOUND): no such process"
        );
    }

    #[test]
    fn time_heals_a_missing_socket_but_not_a_forbidden_one() {
        let unreachable = |kind: io::ErrorKind| AgentError::Unreachable {
            endpoint: Endpoint::Vsock { cid: 3, port: 1024 },
            source: kind.into(),
        };
        for kind in [
            io::ErrorKind::NotFound,
            io::ErrorKind::ConnectionRefused,
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::TimedOut,
        ] {
            assert!(unreachable(kind).is_retryable(), "{kind}");
        }
        assert!(!unreachable(io::ErrorKind::PermissionDenied).is_retryable());
        assert!(!unreachable(io::ErrorKind::InvalidInput).is_retryable());
    }
}
