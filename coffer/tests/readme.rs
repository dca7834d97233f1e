//! The commands in README.md and docs/bind.md, as they are typed: none is wrong usage, and those that bind are run.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]

mod image;

use std::fs;
use std::process::{Command, Stdio};

use image::FakeImage;

const README: &str = include_str!("../../README.md");
const NODE: &str = include_str!("../../docs/node.md");
const TEXTS: [&str; 3] = [README, include_str!("../../docs/bind.md"), NODE];
const DEPLOYMENT: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  template:\n    spec:\n      \
                          containers:\n      - {name: web, image: \"registry.example.com/web:v1\"}\n";

/// Lines behind a prompt in console blocks, with those that go on.
fn commands() -> Vec<String> {
    let mut all = Vec::new();
    for text in TEXTS {
        for block in text.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
            let block = block.replace("\\\n", " ");
            let typed =
                block.lines().filter_map(|line| line.strip_prefix("$ ").or_else(|| line.strip_prefix("# ")));
            all.extend(typed.filter(|line| line.starts_with("coffer ")).map(str::to_owned));
        }
    }
    all
}

#[test]
fn commands_are_right_as_they_are_typed() {
    let fake = FakeImage::new(r#"{"Entrypoint": ["/app"]}"#);
    let directory = fake.path("desk");
    fs::create_dir_all(directory.join("manifests")).unwrap();
    for name in ["web.yaml", "manifests/web.yaml"] {
        fs::write(directory.join(name), DEPLOYMENT).unwrap();
    }
    let all = commands();
    assert!(all.len() >= 8, "{all:?}");
    for line in &all {
        if line.contains(" ... ") {
            continue;
        }
        let typed = line.split(" | ").next().unwrap();
        let (typed, input) = typed.split_once(" < ").unwrap_or((typed, ""));
        let typed = typed.split(" > ").next().unwrap();
        let words = typed.split_whitespace().skip(1).filter(|word| *word != "...");
        let is_bind = typed.starts_with("coffer bind") && !typed.contains("--emit");
        let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
        command.args(words).current_dir(&directory).env("XDG_CACHE_HOME", fake.path("cache"));
        command.env("PATH", format!("{}:/usr/bin:/bin", fake.path("bin").display()));
        if is_bind {
            command.args(["--image", &format!("web={}", fake.source())]);
        }
        let stdin = if input.is_empty() {
            Stdio::null()
        } else {
            fs::File::open(directory.join(input)).unwrap().into()
        };
        let output = command.stdin(stdin).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_ne!(output.status.code(), Some(2), "{line}: {said}");
        assert!(!is_bind || output.status.success(), "{line}: {said}");
    }
    let bound = fs::read_to_string(directory.join("web.yaml")).unwrap();
    assert!(
        bound.contains("cc_init_data: H4sI") && bound.contains("runtimeClassName: coffer-snp"),
        "{bound}"
    );
}

/// The way to a node with a RuntimeClass: at most five commands, and sixty lines with the manifests that they apply.
#[test]
fn a_node_takes_five_commands_and_sixty_lines() {
    let section = README.split("\n## ").find(|section| section.starts_with("On a node\n")).unwrap();
    let blocks = section.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    // The output of `coffer doctor` further down is no step.
    let typed: Vec<&str> = blocks
        .flat_map(str::lines)
        .filter_map(|line| line.strip_prefix("# ").or_else(|| line.strip_prefix("$ ")))
        .filter(|line| *line != "coffer doctor")
        .collect();
    assert!(!typed.is_empty() && typed.len() <= 5, "{typed:?}");
    let applied = typed.iter().filter_map(|line| line.split_once("--filename ")).map(|(_, path)| {
        let text = fs::read_to_string(format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        text.lines().filter(|line| !line.trim_start().starts_with('#')).count()
    });
    let lines = typed.len() + applied.sum::<usize>();
    assert!(lines <= 60, "{lines} lines");
}

/// Each error of the installer by its word, as docs/node.md explains it: `match` in its source has all.
#[test]
fn every_error_of_an_installation_is_explained() {
    let source = include_str!("../../crates/node-install/src/error.rs");
    let codes: Vec<&str> =
        source.lines().filter_map(|line| line.trim().split_once("=> \"")?.1.strip_suffix("\",")).collect();
    assert!(codes.len() >= 20, "{codes:?}");
    for code in codes {
        assert!(NODE.contains(&format!("\n| `{code}` | ")), "docs/node.md has no entry for {code}");
    }
}
