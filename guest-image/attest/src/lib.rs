//! Attestation from inside the guest: evidence of processor and GPUs, shown to a key broker (KBS) of the pod's owner, and the
//! keys that it gives for it.
//!
//! ```text
//! service   what containers ask, on the pod's loopback; hub: what the agent asks, on a socket (sealed secrets)
//!    │
//! broker    the key broker's protocol (RCAR 0.4.0): handshake, token, resources
//!    │
//! evidence  one source for the processor, one for the GPUs; fewer GPUs than declared are an error
//! ```

pub mod aael;
pub mod broker;
pub mod config;
pub mod evidence;
#[cfg(feature = "fake-gpus")]
#[path = "../../../tests/fake-gpus/nvml.rs"]
mod fake_nvml;
pub mod gpus;
pub mod hub;
pub mod jwe;
pub mod protocol;
pub mod resource;
pub mod sealed;
pub mod service;
pub mod unseal;
