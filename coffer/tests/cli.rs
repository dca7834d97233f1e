//! The command as a user meets it: output, exit codes, messages.

use std::fs;
use std::process::{Command, Output, Stdio};

fn coffer(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_coffer"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("coffer starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn version_is_the_packages() {
    let output = coffer(&["--version"]);
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), concat!("coffer ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn unknown_key_exits_1_and_prints_nothing_on_stdout() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    fs::write(&file, "accel = \"tcg\"\ndefault_memory = 512\n").unwrap();
    let path = file.to_str().unwrap();
    let output = coffer(&["config", "--config", path]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let message = format!("{path}:2: unknown key `default_memory`; did you mean `default_memory_mib`?");
    assert!(stderr(&output).contains(&message), "{}", stderr(&output));
}

#[test]
fn a_named_file_that_is_absent_exits_1() {
    let output = coffer(&["config", "--config", "/nonexistent/config.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/nonexistent/config.toml: No such file"), "{}", stderr(&output));
}

#[test]
fn wrong_usage_exits_2() {
    assert_eq!(coffer(&["config", "--output", "yaml"]).status.code(), Some(2));
    assert_eq!(coffer(&[]).status.code(), Some(2));
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    fs::write(&file, "").unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_coffer"))
        .args(["config", "--config", file.to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", stderr(&output));
}
