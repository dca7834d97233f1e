//! kata-agent's ttrpc contract and a client for it.

pub mod proto;
