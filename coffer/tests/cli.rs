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
fn version_is_the_packages_with_the_commit() {
    let output = coffer(&["--version"]);
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let commit = text.strip_prefix(concat!("coffer ", env!("CARGO_PKG_VERSION"), " (")).expect(&text);
    let commit = commit.strip_suffix(")\n").expect(&text);
    assert!(commit == "unknown" || commit.bytes().all(|b| b.is_ascii_hexdigit()), "{text}");
}

#[test]
fn errors_begin_with_the_commands_name() {
    for args in [&["config", "--config", "/none"][..], &["config", "--nothing"], &["nothing"], &["bind"]] {
        let output = coffer(args);
        assert!(!output.status.success() && stderr(&output).starts_with("coffer: "), "{}", stderr(&output));
        assert!(!stderr(&output).contains('\x1b'), "{}", stderr(&output));
    }
    let said = stderr(&coffer(&["generate", "policy"]));
    assert!(said.ends_with("In the right order: coffer policy generate\n"), "{said}");
}

#[test]
fn completions_and_manual_pages_are_of_the_whole_command() {
    for shell in ["bash", "zsh", "fish"] {
        let output = coffer(&["completions", shell]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains("in-place") && text.contains("verity"), "{shell}");
    }
    let dir = tempfile::tempdir().unwrap();
    assert!(coffer(&["man", dir.path().to_str().unwrap()]).status.success());
    let page = fs::read_to_string(dir.path().join("coffer-bind.1")).unwrap();
    assert!(page.contains("Examples:") && page.contains("helm template"), "{page}");
}

#[test]
fn a_dash_is_standard_input() {
    use std::io::Write as _;

    let text = "algorithm = \"sha256\"\nversion = \"0.1.0\"\n[data]\n";
    for args in
        [&["initdata", "inspect", "-"][..], &["measure", "initdata", "-"], &["config", "--config", "-"]]
    {
        let input = if args[0] == "config" { "accel = \"tcg\"\n" } else { text };
        let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && !output.stdout.is_empty(), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn colours_are_left_out_where_nobody_wants_them() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_coffer")).arg("--help").env("NO_COLOR", "1").output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stdout).contains('\x1b'));
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

#[test]
fn doctor_exits_as_its_verdict_says() {
    for class in ["coffer", "coffer-tdx", "coffer-snp"] {
        let output = coffer(&["doctor", "--class", class, "-o", "json"]);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["class"], class);
        let code = match json["verdict"].as_str().unwrap() {
            "ready" => 0,
            "ready-with-warnings" => 3,
            "not-ready" => 4,
            other => panic!("{other}"),
        };
        assert_eq!(output.status.code(), Some(code));
        let of_class = json["classes"].as_array().unwrap().iter().find(|c| c["class"] == class).unwrap();
        assert_eq!(of_class["verdict"], json["verdict"]);
        let check = &json["checks"][0];
        assert_eq!((check["name"].as_str(), check["result"].as_str()), (Some("config"), Some("ok")));
    }
}

#[test]
fn doctor_reports_a_mistake_in_the_configuration_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    fs::write(&file, "quemu = \"q\"\n").unwrap();
    let output = coffer(&["doctor", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(4));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("config.toml:1: unknown key `quemu`; did you mean `qemu`?"), "{text}");
    assert!(text.contains("-> correct the file") && text.contains("AMD SEV-SNP: CPU"), "{text}");
}

/// What was not read is not called good.
#[test]
fn doctor_reads_the_configuration_that_is_named_or_says_why_not() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.toml"), "quemu = \"q\"\n").unwrap();
    let run = |config: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
        command.args(["doctor", "--config", config]).current_dir(dir.path()).output().unwrap()
    };
    // Relative to where it is run.
    let text = String::from_utf8(run("config.toml").stdout).unwrap();
    assert!(text.contains("unknown key `quemu`"), "{text}");
    for (missing, said) in [("conf.toml", "No such file"), (".", "it is no file")] {
        let output = run(missing);
        assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(1), true), "{missing}");
        let error = stderr(&output);
        assert!(error.contains(missing) && error.contains(said), "{error}");
    }
}

#[test]
fn doctors_help_names_the_exit_codes() {
    let output = coffer(&["doctor", "--help"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in ["0  ready", "3  ready with warnings", "4  not ready"] {
        assert!(text.contains(line), "{text}");
    }
}
