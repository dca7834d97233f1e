//! Fuzz targets: each takes bytes and gives them to one reader of input that is not ours.
//!
//! A reader may refuse input, and must neither panic nor take more memory or time than [`limits`] says. Where a
//! result can be checked (what was read, written again, reads the same), a target does so. `tests/corpus.rs` runs
//! the targets with `cargo test`, `src/bin/libfuzzer.rs` for as long as one likes.

pub mod limits;
pub mod mutate;
mod sys;
pub mod targets;

pub use targets::{TARGETS, Target};
