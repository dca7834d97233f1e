//! One sandbox: what the pod's state ([`crate::core`]) decides is carried out here.
//!
//! ```text
//! Handle ── calls ──► driver ── owns ──► Core
//!                       │ carries out
//!                       ├── machine   boots (`launch`), containers (`create`, `layers`, `gpus`, `volumes`), `last_words`, its end
//!                       └── guest     processes (`follow`), their streams (`stdio`)
//! ```
//!
//! `crate::machine` has the traits, `real` what stands behind them outside of tests.

mod bundle;
mod create;
mod driver;
mod follow;
mod gpus;
mod guest;
mod handle;
mod kill;
mod last_words;
mod launch;
mod layers;
mod models;
mod node_files;
mod oom_score;
mod own;
mod pinned;
mod pod_vm;
mod real;
mod sealed;
mod sub_paths;
#[cfg(test)]
mod tests;
mod volumes;

pub use handle::{Handle, Outward};
pub use pod_vm::Context;
