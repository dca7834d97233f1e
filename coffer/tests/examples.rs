//! Each example of the help pages is run: here, where it changes nothing, or by the test that is named.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Run here: what it may exit with. 1 is for what only a node or a registry has; the message says what is missing.
const HERE: [(&str, &[i32]); 29] = [
    ("bind", &[0, 1]),
    ("config", &[0]),
    ("doctor", &[0, 3, 4]),
    ("completions", &[0]),
    ("man", &[0]),
    ("measure", &[0, 1]),
    ("measure snp", &[0, 1]),
    ("measure tdx", &[0, 1]),
    ("measure initdata", &[0]),
    ("measure pod", &[0, 1]),
    ("measure acpi", &[0, 1]),
    ("measure merge", &[1]),
    ("measure diff", &[1]),
    ("measure explain", &[1]),
    ("measure image", &[1]),
    ("measure id-block", &[1]),
    ("rehearse", &[1]),
    ("image verity", &[1]),
    ("initdata build", &[0]),
    ("initdata inspect", &[0]),
    ("volume build", &[1]),
    ("status", &[0, 3, 4]),
    ("pods", &[0]),
    ("timeline", &[1]),
    ("logs", &[1]),
    ("debug", &[1]),
    ("metrics", &[0]),
    ("policy generate", &[1]),
    ("policy check", &[1]),
];

/// Run by another test, since it would change this machine, or needs a pod or GPUs: the file that runs it, and words of it.
const ELSEWHERE: [(&str, &str, &str); 11] = [
    ("install", "tests/e2e/tests/install/main.rs", "\"install\""),
    ("uninstall", "tests/e2e/tests/install/main.rs", "\"uninstall\""),
    ("gpu list", "tests/outer-vm/tests/host/command.rs", "\"gpu\", \"list\""),
    ("gpu cc-mode", "tests/outer-vm/tests/host/command.rs", "\"gpu\", \"cc-mode\""),
    ("gpu ppcie", "coffer/tests/gpu.rs", "\"ppcie\""),
    ("gpu reset", "tests/outer-vm/tests/host/command.rs", "\"gpu\", \"reset\""),
    ("gpu bind", "tests/outer-vm/tests/host/command.rs", "\"gpu\", \"bind\""),
    ("gpu unbind", "tests/outer-vm/tests/host/command.rs", "\"gpu\", \"unbind\""),
    ("gpu release", "coffer/tests/gpu.rs", "\"release\""),
    ("sweep", "coffer/src/sweep.rs", "fn dead_sandboxes_are_released_and_broken_records_are_named"),
    // By the shim, in every pod's start without containerd's own hash trees.
    ("image convert", "crates/host-claims/src/rootfs/convert.rs", "\"image\", \"convert\""),
];

fn coffer(words: &[&str], directory: &Path, input: Stdio) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
    command.args(words).current_dir(directory).stdin(input);
    command.env("XDG_CACHE_HOME", directory.join("cache"));
    command.output().unwrap()
}

/// The examples at the end of a command's page.
fn examples(name: &str, directory: &Path) -> Vec<String> {
    let words: Vec<&str> = name.split(' ').chain(["--help"]).collect();
    let page = String::from_utf8(coffer(&words, directory, Stdio::null()).stdout).unwrap();
    let (_, examples) =
        page.split_once("Examples:").unwrap_or_else(|| panic!("{name} has no example: {page}"));
    examples.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// What the examples name.
fn desk(directory: &Path) {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let pod = fs::read_to_string(repository.join("examples/pod.yaml")).unwrap();
    let plain: String =
        pod.lines().filter(|line| !line.contains("cc_init_data")).map(|line| format!("{line}\n")).collect();
    for (name, text) in [
        ("pod.yaml", plain.replace("  annotations:\n", "")),
        ("web.yaml", pod),
        ("policy.rego", "package agent_policy\ndefault allow := false\n".to_owned()),
        ("initdata.toml", "algorithm = \"sha256\"\nversion = \"0.1.0\"\n[data]\n".to_owned()),
    ] {
        fs::write(directory.join(name), text).unwrap();
    }
    fs::create_dir(directory.join("manifests")).unwrap();
    fs::copy(directory.join("web.yaml"), directory.join("manifests/web.yaml")).unwrap();
}

#[test]
fn every_example_is_run_or_named_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    desk(dir.path());
    for (name, codes) in HERE {
        // What serves does so until somebody ends it.
        for line in examples(name, dir.path()).iter().filter(|line| !line.contains("--listen")) {
            // Another program's part of a pipe is not run.
            let typed = line.rsplit("| ").next().unwrap().split(" > ").next().unwrap();
            let words: Vec<&str> = typed.split(' ').skip(1).collect();
            let output = coffer(&words, dir.path(), Stdio::null());
            let (code, said) = (output.status.code(), String::from_utf8_lossy(&output.stderr));
            assert!(code.is_some_and(|code| codes.contains(&code)), "{line}: {code:?}: {said}");
            assert!(code != Some(1) || said.contains(": "), "{line}: {said}");
            assert!(!said.contains("panicked"), "{line}: {said}");
        }
    }
}

/// No command is left out.
#[test]
fn every_command_is_on_a_list() {
    let source = include_str!("../src/examples.rs");
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let table = source.split("];\n").next().unwrap();
    let mut names: Vec<String> = table
        .split("&[\"")
        .skip(1)
        .map(|rest| rest.split(']').next().unwrap().replace("\", \"", " ").replace('"', ""))
        .collect();
    names.sort();
    let mut listed: Vec<_> = HERE.iter().map(|(name, _)| (*name).to_owned()).collect();
    listed.extend(ELSEWHERE.iter().map(|(name, ..)| (*name).to_owned()));
    listed.sort();
    assert_eq!(names, listed);
    for (name, file, words) in ELSEWHERE {
        let path = repository.join(file);
        assert!(fs::read_to_string(path).unwrap().contains(words), "{name}: {file} has no {words}");
    }
}
