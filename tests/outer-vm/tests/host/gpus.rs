//! This host's GPUs: the command that manages them, and what there is to see of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use gpu::sysfs::{Function, Sysfs};
use outer_vm::{Slot, State};

/// Runs `coffer` to its end; fails the test unless it succeeds. Gives its standard output.
#[track_caller]
pub(crate) fn coffer(arguments: &[&str]) -> String {
    let program = match std::env::var_os("COFFER_TEST_COFFER") {
        Some(path) => PathBuf::from(path),
        None => Path::new(&std::env::var("COFFER_REPO").unwrap()).join("build/bin/emulated-gpus/coffer"),
    };
    let output = Command::new(&program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}; run `make programs`", program.display()));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "coffer {arguments:?}: {}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// The emulator behind a slot, if nobody misused it.
pub(crate) fn state(slot: Slot) -> State {
    let state = slot.emulator().unwrap().state().unwrap();
    assert!(state.violations.is_empty(), "{slot:?}: {:?}", state.violations);
    state
}

/// What the kernel says of a slot's device.
pub(crate) fn function(slot: Slot) -> Function {
    Sysfs::host().function(slot.address().parse().unwrap()).unwrap().unwrap()
}
