//! The target that `FUZZ_TARGET` names, under libFuzzer: see tests/fuzz/run.

#![no_main]

use std::sync::LazyLock;

use fuzz::{TARGETS, Target, limits};

static CHOSEN: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let found = TARGETS.iter().find(|target| target.name == name).copied();
    found.unwrap_or_else(|| panic!("FUZZ_TARGET is {name:?}, which is no target"))
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| limits::within(|| CHOSEN.run(input)));
