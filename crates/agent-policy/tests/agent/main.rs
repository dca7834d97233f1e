//! A pod's policy against the requests that the shim sends for the pod, and against forged ones.
//!
//! The requests are made as the shim makes them, by `guest_spec`, from OCI specs as containerd 1.7, 2.1 and 2.3 and CRI-O
//! write them; their JSON is kata-agent's (`agent-client`'s feature `policy-json`). With COFFER_DUMP_REQUESTS they are written
//! down, with the answer to each, so that another engine can be asked the same.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]

mod commands;
mod coverage;
mod default;
mod engine;
mod files;
mod forged;
mod honest;
mod lifecycle;
mod network;
mod proto;
mod recorded;
mod requests;
mod scratch;
mod table;
mod volumes;
