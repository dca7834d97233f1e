//! `coffer pods`: the sandboxes of this node.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

/// Most that is read of a record, in bytes.
const MAX_RECORD: u64 = 1 << 20;

/// Arguments of `coffer pods`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Directory of all sandboxes' records
    #[arg(long, value_name = "DIRECTORY", default_value = vmm::state::ROOT)]
    state: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    /// A table
    Text,
    /// A list of objects
    Json,
}

/// How a sandbox stands, by its record and the processes that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    /// Its QEMU runs.
    Running,
    /// Its shim lives, and QEMU does not run: it starts, or it ends.
    NoVm,
    /// Its shim is dead; `coffer sweep` gives back what it had.
    Dead,
    /// The record cannot be read.
    Unknown,
}

impl State {
    /// All of them.
    pub(super) const ALL: [Self; 4] = [Self::Running, Self::NoVm, Self::Dead, Self::Unknown];

    /// Its name in outputs.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::NoVm => "no-vm",
            Self::Dead => "dead",
            Self::Unknown => "unknown",
        }
    }
}

/// A sandbox.
#[derive(Debug, Serialize)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) sandbox: String,
    pub(super) state: State,
    /// The shim's process id.
    pub(super) shim: Option<u64>,
    /// QEMU's process id.
    pub(super) qemu: Option<u64>,
    /// QEMU's memory that is resident, in bytes, the guest's included.
    pub(super) resident_bytes: Option<u64>,
    /// The GPUs' and NVSwitches' PCI addresses.
    pub(super) devices: Vec<String>,
}

/// Prints the sandboxes.
///
/// # Errors
/// The records' directory cannot be read.
pub(crate) fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    let pods = found(&args.state, Path::new("/proc"))
        .with_context(|| format!("cannot read {}", args.state.display()))?;
    match args.output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&pods)?)?,
        Output::Text => {
            writeln!(
                out,
                "{:<10} {:<13} {:<8} {:>8} {:>9}  DEVICES",
                "NAMESPACE", "SANDBOX", "STATE", "SHIM", "RESIDENT"
            )?;
            for pod in &pods {
                let number =
                    |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
                let resident =
                    pod.resident_bytes.map_or_else(|| "-".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
                let sandbox: String = pod.sandbox.chars().take(13).collect();
                let (state, devices) = (pod.state.word(), pod.devices.join(" "));
                writeln!(
                    out,
                    "{:<10} {sandbox:<13} {state:<8} {:>8} {resident:>9}  {devices}",
                    pod.namespace,
                    number(pod.shim)
                )?;
            }
        }
    }
    Ok(())
}

pub(super) fn found(root: &Path, processes: &Path) -> io::Result<Vec<Pod>> {
    let mut pods = Vec::new();
    for namespace in names(root)? {
        for sandbox in names(&root.join(&namespace))? {
            let path = root.join(&namespace).join(&sandbox).join("state.json");
            if path.exists() {
                pods.push(pod(&namespace, &sandbox, &path, processes));
            }
        }
    }
    Ok(pods)
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => {
            return Ok(Vec::new());
        }
        other => other?,
    };
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort_unstable();
    Ok(names)
}

fn pod(namespace: &str, sandbox: &str, path: &Path, processes: &Path) -> Pod {
    use io::Read;

    let mut text = String::new();
    let read = fs::File::open(path).and_then(|file| file.take(MAX_RECORD).read_to_string(&mut text));
    let record: Option<Value> = read.ok().and_then(|_| serde_json::from_str(&text).ok());
    let process = |name: &str| {
        let process = record.as_ref()?.get(name)?;
        Some((process.get("pid")?.as_u64()?, process.get("start")?.as_u64()?))
    };
    let (shim, qemu) = (process("shim"), process("qemu"));
    let lives =
        |process: Option<(u64, u64)>| process.is_some_and(|(pid, start)| is_process(processes, pid, start));
    let state = match (record.is_some() && shim.is_some(), lives(shim), lives(qemu)) {
        (false, ..) => State::Unknown,
        (true, false, _) => State::Dead,
        (true, true, true) => State::Running,
        (true, true, false) => State::NoVm,
    };
    let mut devices = Vec::new();
    if let Some(record) = &record {
        addresses(&record["devices"], &mut devices);
    }
    devices.sort_unstable();
    devices.dedup();
    let qemu = qemu.filter(|qemu| lives(Some(*qemu))).map(|(pid, _)| pid);
    let resident_bytes = qemu.and_then(|pid| resident(processes, pid));
    let shim = shim.map(|(pid, _)| pid);
    Pod {
        namespace: namespace.to_owned(),
        sandbox: sandbox.to_owned(),
        state,
        shim,
        qemu,
        resident_bytes,
        devices,
    }
}

/// The PCI addresses in a record's part, as in `0000:41:00.0`.
fn addresses(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) if is_address(text) => found.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| addresses(item, found)),
        Value::Object(entries) => entries.values().for_each(|entry| addresses(entry, found)),
        _ => {}
    }
}

fn is_address(text: &str) -> bool {
    let fits = |(at, byte): (usize, u8)| match at {
        4 | 7 => byte == b':',
        10 => byte == b'.',
        _ => byte.is_ascii_hexdigit(),
    };
    text.len() == 12 && text.bytes().enumerate().all(fits)
}

/// Whether a process has this start time (`proc(5)`, field 22 of stat) and is no zombie.
fn is_process(processes: &Path, pid: u64, start: u64) -> bool {
    let stat = fs::read_to_string(processes.join(pid.to_string()).join("stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    fields.first().is_some_and(|state| *state != "Z")
        && fields.get(19).and_then(|field| field.parse().ok()) == Some(start)
}

fn resident(processes: &Path, pid: u64) -> Option<u64> {
    let status = fs::read_to_string(processes.join(pid.to_string()).join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sandboxes_are_told_by_their_records_and_processes() {
        let (root, processes) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let process = |pid: u64, start: u64| {
            let directory = processes.path().join(pid.to_string());
            fs::create_dir(&directory).unwrap();
            let zeros = "0 ".repeat(18);
            fs::write(directory.join("stat"), format!("{pid} (a ) b) S {zeros}{start} 0")).unwrap();
            fs::write(directory.join("status"), "Name:\tqemu\nVmRSS:\t    4096 kB\n").unwrap();
        };
        process(10, 100);
        process(11, 110);
        let record = |name: &str, text: &str| {
            let directory = root.path().join("k8s.io").join(name);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("state.json"), text).unwrap();
        };
        record(
            "a",
            r#"{"shim":{"pid":10,"start":100},"qemu":{"pid":11,"start":110},"devices":{"x":["0000:41:00.0"]}}"#,
        );
        record("b", r#"{"shim":{"pid":10,"start":100},"qemu":null}"#);
        // Another process has its pid by now.
        record("c", r#"{"shim":{"pid":10,"start":99},"qemu":{"pid":11,"start":110}}"#);
        record("d", "{");
        let pods = found(root.path(), processes.path()).unwrap();
        let states: Vec<_> = pods.iter().map(|pod| pod.state).collect();
        assert_eq!(states, [State::Running, State::NoVm, State::Dead, State::Unknown]);
        assert_eq!(
            (pods[0].resident_bytes, pods[0].devices.as_slice()),
            (Some(4 << 20), &["0000:41:00.0".to_owned()][..])
        );
        assert!(found(Path::new("/none"), processes.path()).unwrap().is_empty());
    }
}
