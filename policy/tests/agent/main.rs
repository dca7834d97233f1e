//! A pod's policy against the requests that the shim sends for the pod, and against forged ones.
//!
//! The requests are made as the shim makes them, by `guest_spec`, from OCI specs as containerd 2.1 writes them; their
//! JSON is kata-agent's (`agent`'s feature `policy-json`). The GPUs' part is written by hand, in kata-agent's form: the
//! shim does not send it yet.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]

mod default;
mod engine;
mod files;
mod forged;
mod honest;
mod lifecycle;
mod requests;
