//! `coffer debug`: what a bug report needs, as one archive.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::line::Which;
use super::pods::{Pod, found};
use super::redact::redacted;

/// What the command line's `--help` says beside the options.
const HELP: &str = "\
The archive has the pod's log lines, its start's timeline, its record, QEMU's command line, what `coffer doctor`, `coffer
config`, `coffer status` and `coffer pods` print (`coffer pods` lists all sandboxes of this node), the host kernel's version and
command line, and nothing of the pod's own: no environment, no volume, no output of its containers. The
guest's console is left out unless --console asks for it. What looks like a password, a token or a private key is replaced
by [left out]. Look at it before you send it: only you know what else is secret.";

/// Most that is taken of a log, in bytes: its end.
const MAX_LOG: usize = 8 << 20;

/// Arguments of `coffer debug`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,
    /// The archive, which must not be there yet [default: coffer-debug-POD.tar]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Take the guest's console lines as well, in which programs of a debug image may say anything
    #[arg(long)]
    console: bool,
    /// Directory of all sandboxes' records
    #[arg(long, value_name = "DIRECTORY", default_value = vmm::state::ROOT)]
    state: PathBuf,
}

/// Runs a command of this program and gives what it prints.
pub(crate) type Ask<'a> = &'a dyn Fn(&[&str]) -> Result<String>;

/// Writes the archive; `ask` runs another command of this program.
///
/// # Errors
/// Neither the log nor a record knows the pod, or the archive cannot be written. A part that cannot be had is named in it.
pub(crate) fn run(args: &Args, ask: Ask<'_>, out: &mut impl Write) -> Result<()> {
    let pod = args.which.pod();
    let records = found(&args.state, Path::new("/proc"));
    let record = records.as_ref().ok().and_then(|pods| pods.iter().find(|one| one.sandbox.starts_with(pod)));
    let log = log(args);
    ensure!(
        record.is_some() || log.as_ref().is_ok_and(|log| !log.is_empty()),
        "neither the log nor a record below {} has a sandbox {pod}: take an id that `coffer pods` prints, or a log that reaches back to it with --log",
        args.state.display()
    );
    let parts = parts(args, record, log, ask);
    let path = match &args.out {
        Some(path) => path.clone(),
        None => format!("coffer-debug-{}.tar", pod.chars().take(12).collect::<String>()).into(),
    };
    let told = write(&path, &parts).with_context(|| format!("cannot write {}", path.display()))?;
    out.write_all(told.as_bytes())?;
    writeln!(out, "{}: look at it before you send it", path.display())?;
    Ok(())
}

/// A part's name, and its text or why there is none.
type Part = (String, Result<String>);

fn parts(args: &Args, record: Option<&Pod>, log: Result<String>, ask: Ask<'_>) -> Vec<Part> {
    let mut parts: Vec<Part> = vec![("log.txt".to_owned(), log)];
    let mut add = |name: &str, words: &[&str]| parts.push((name.to_owned(), ask(words)));
    let log_file = args.which.log().map(|path| path.display().to_string());
    let mut timeline = vec!["timeline", args.which.pod(), "--json"];
    if let Some(path) = &log_file {
        timeline.extend(["--log", path]);
    }
    add("timeline.json", &timeline);
    add("doctor.json", &["doctor", "--output", "json"]);
    add("status.json", &["status", "--output", "json"]);
    add("pods.json", &["pods", "--output", "json", "--state", &args.state.display().to_string()]);
    add("config.toml", &["config"]);
    for class in ["coffer-snp", "coffer-tdx"] {
        let path = format!("/etc/coffer/{class}.toml");
        if Path::new(&path).exists() {
            add(&format!("{class}.toml"), &["config", "--config", &path]);
        }
    }
    if let Some(pod) = record {
        let path = args.state.join(&pod.namespace).join(&pod.sandbox).join("state.json");
        parts.push(("record.json".to_owned(), read(&path)));
        if let Some(qemu) = pod.qemu {
            let line = read(Path::new(&format!("/proc/{qemu}/cmdline")));
            parts.push(("qemu.txt".to_owned(), line.map(|line| line.replace('\0', "\n"))));
        }
    }
    for (name, path) in [("kernel.txt", "/proc/version"), ("kernel-command-line.txt", "/proc/cmdline")] {
        parts.push((name.to_owned(), read(Path::new(path))));
    }
    let asked_for = args.which.pod();
    let sandbox = record.map_or(asked_for, |pod| pod.sandbox.as_str());
    let mut about =
        format!("coffer {} ({})\nsandbox {}\n", env!("CARGO_PKG_VERSION"), env!("COFFER_COMMIT"), sandbox);
    for (name, part) in &parts {
        if let Err(reason) = part {
            let _ = writeln!(about, "without {name}: {reason:#}");
        }
    }
    parts.insert(0, ("about.txt".to_owned(), Ok(about)));
    parts
}

fn read(path: &Path) -> Result<String> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The pod's lines, the last of them if there are too many.
fn log(args: &Args) -> Result<String> {
    let mut text = String::new();
    for line in args.which.lines()? {
        if args.console || line.get("source").is_none() {
            let _ = writeln!(text, "{}", line.shown());
        }
    }
    if text.len() > MAX_LOG {
        let from = text.len() - MAX_LOG;
        let from = text[..].char_indices().map(|(at, _)| at).find(|at| *at >= from).unwrap_or(0);
        text = format!("(the beginning is left out)\n{}", &text[from..]);
    }
    Ok(text)
}

/// Writes the archive, for its owner's eyes only; gives a line for each part.
fn write(path: &Path, parts: &[Part]) -> io::Result<String> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = archive(file, parts);
    if written.is_err() {
        // Half of it is of no use; the first failure is what is told.
        let _ = fs::remove_file(path);
    }
    written
}

fn archive(file: File, parts: &[Part]) -> io::Result<String> {
    let (mut archive, mut told) = (tar::Builder::new(file), String::new());
    for (name, part) in parts {
        let Ok(text) = part else { continue };
        let text = redacted(text);
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        archive.append_data(&mut header, format!("coffer-debug/{name}"), text.as_bytes())?;
        let _ = writeln!(told, "{name:<24} {:>9} bytes", text.len());
    }
    archive.into_inner()?.sync_all()?;
    Ok(told)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt;

    use clap::Parser;

    use super::*;
    use crate::observe::redact::tests::PLANTED;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn contents(path: &Path) -> Vec<(String, String)> {
        let mut archive = tar::Archive::new(File::open(path).unwrap());
        let read = |entry: io::Result<tar::Entry<'_, File>>| {
            let (mut entry, mut text) = (entry.unwrap(), String::new());
            entry.read_to_string(&mut text).unwrap();
            (entry.path().unwrap().display().to_string(), text)
        };
        archive.entries().unwrap().map(read).collect()
    }

    fn line(at: usize, message: &str, more: &str) -> String {
        let quoted = message.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        format!(
            "time=\"2026-11-28T12:59:{:02}.1Z\" level=info msg=\"{quoted}\"{more} sandbox=abc1\n",
            at % 60
        )
    }

    #[test]
    fn planted_secrets_are_in_no_part_and_the_rest_is() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("run");
        fs::create_dir_all(state.join("k8s.io/abc123")).unwrap();
        let record = format!("{{\"shim\":{{\"pid\":1,\"start\":0}},\"note\":{:?}}}", PLANTED[3]);
        fs::write(state.join("k8s.io/abc123/state.json"), record).unwrap();
        let log: String = PLANTED.iter().enumerate().map(|(at, text)| line(at, text, "")).collect();
        let log =
            log + &line(0, "of the guest", " source=console") + &line(1, "boot phase", " phase=planned");
        fs::write(dir.path().join("log"), log.replace("abc1\n", "abc123\n")).unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let (state, log, out) = (path("run"), path("log"), path("out.tar"));
        let run_with = |more: &[&str], out: &str| {
            let words = [&["x", "abc1", "--state", &state, "--log", &log, "--out", out], more].concat();
            let args = Command::try_parse_from(words).unwrap().args;
            let ask = |words: &[&str]| match words[0] {
                "status" => anyhow::bail!("nothing is installed"),
                _ => Ok(PLANTED.join("\n")),
            };
            let mut told = Vec::new();
            run(&args, &ask, &mut told).map(|()| String::from_utf8(told).unwrap())
        };
        let told = run_with(&[], &out).unwrap();
        assert!(told.contains("log.txt") && told.contains("look at it"), "{told}");
        let parts = contents(Path::new(&out));
        let names: Vec<_> = parts.iter().map(|(name, _)| name.trim_start_matches("coffer-debug/")).collect();
        for name in [
            "about.txt",
            "log.txt",
            "timeline.json",
            "doctor.json",
            "pods.json",
            "config.toml",
            "record.json",
        ] {
            assert!(names.contains(&name), "{name}: {names:?}");
        }
        for (name, text) in &parts {
            assert!(!text.contains("planted"), "{name}: {text}");
            assert!(!text.contains("of the guest"), "{name}: {text}");
        }
        let part = |name: &str| &parts.iter().find(|(found, _)| found.ends_with(name)).unwrap().1;
        assert!(
            part("about.txt").contains("without status.json: nothing is installed"),
            "{}",
            part("about.txt")
        );
        assert!(part("log.txt").contains("boot phase  phase planned"), "{}", part("log.txt"));
        assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
        // What is there is not written over.
        let error = run_with(&[], &out).unwrap_err();
        assert!(format!("{error:#}").contains("out.tar: File exists"), "{error:#}");
        let other = path("other.tar");
        run_with(&["--console"], &other).unwrap();
        assert!(contents(Path::new(&other)).iter().any(|(_, text)| text.contains("of the guest")));
    }

    #[test]
    fn a_pod_that_nobody_knows_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("log"), line(0, "x", "")).unwrap();
        let (state, log) = (dir.path().display().to_string(), dir.path().join("log").display().to_string());
        let words = ["x", "zzz", "--state", &state, "--log", &log, "--out", "/nowhere/x.tar"];
        let args = Command::try_parse_from(words).unwrap().args;
        let error = run(&args, &|_| Ok(String::new()), &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("has a sandbox zzz"), "{error}");
    }
}
