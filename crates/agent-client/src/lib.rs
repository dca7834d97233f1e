//! kata-agent's ttrpc contract and a client for it.
//!
//! [`connect`] makes one attempt and returns an [`Agent`], whose methods are the agent's calls. Nothing the guest
//! sends is trusted: frames are bounded before they are read, and text is made harmless before it is shown.

mod below;
mod client;
mod copy;
mod courier;
mod endpoint;
mod error;
mod framing;
mod handshake;
mod mirror;
#[cfg(feature = "policy-json")]
mod policy_json;
pub mod proto;
mod rpc;
mod sys;
mod text;
mod watch;

pub use below::Below;
pub use client::{Agent, connect};
pub use copy::{CopyError, MAX_ENTRIES, MAX_FILE};
pub use courier::Courier;
pub use endpoint::{AGENT_PORT, Endpoint};
pub use error::{AgentError, Call};
pub use framing::Violation;
pub use handshake::{HandshakeError, parse_answer};
pub use mirror::Mirror;
pub use rpc::{GUEST_PULL, MAX_STREAM_CHUNK, ProcessRef};
pub use text::{MAX_TEXT, sanitize};
pub use ttrpc::Code;
pub use watch::Watcher;
