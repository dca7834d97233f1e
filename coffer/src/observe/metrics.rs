//! `coffer metrics`: a node's sandboxes, and what their shims have logged, as Prometheus reads them.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use super::counters::Counters;
use super::feed;
use super::pods::{Pod, State, found};

/// What the command line's `--help` says beside the options.
const HELP: &str = "\
Without --listen the metrics are printed once, as node_exporter's textfile collector takes them. With it they are served over
HTTP to whoever asks, until the command is ended. Starts and GPUs' resets are counted by the shims' lines in containerd's log:
those since the machine's start, or all that a file has.";

/// Where GPUs that did not come back are written down.
const QUARANTINE: &str = "/var/lib/coffer/gpu";
/// How long a client may take for its question, and for taking the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// As much as is read of a question.
const MAX_QUESTION: usize = 8 << 10;

/// Each metric: its name, its type, and what it says.
pub(super) const METRICS: [(&str, &str, &str); 9] = [
    (
        "coffer_sandboxes",
        "gauge",
        "Sandboxes by state: running, no-vm (it starts or ends), dead (its shim is gone), unknown.",
    ),
    (
        "coffer_sandbox_resident_bytes",
        "gauge",
        "Memory of a sandbox's QEMU that is resident, the guest's included.",
    ),
    (
        "coffer_sandbox_shim_pss_bytes",
        "gauge",
        "Memory of a sandbox's shim, with its part of what is shared.",
    ),
    ("coffer_sandbox_devices", "gauge", "GPUs and NVSwitches of a sandbox."),
    (
        "coffer_gpus_quarantined",
        "gauge",
        "GPUs that did not come back and are not used until an operator has looked.",
    ),
    (
        "coffer_boot_phase_seconds",
        "histogram",
        "How long a VM's start was in each phase (planned, claimed, spawned, qmp, agent), and all of it.",
    ),
    ("coffer_boot_failures_total", "counter", "Starts of VMs that did not reach a phase."),
    ("coffer_gpu_resets_total", "counter", "Resets of GPUs by shims."),
    ("coffer_gpu_quarantines_total", "counter", "GPUs that did not come back, each time."),
];

/// Arguments of `coffer metrics`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// Serve them at this address, for example 127.0.0.1:9464
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Directory of all sandboxes' records
    #[arg(long, value_name = "DIRECTORY", default_value = vmm::state::ROOT)]
    state: PathBuf,
    /// File with containerd's log [default: the journal of containerd's unit]
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

/// Prints or serves the metrics.
///
/// # Errors
/// The records cannot be read, or the address cannot be had.
pub(crate) fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    let now = |counters: &Counters| -> io::Result<String> {
        Ok(text(
            &found(&args.state, Path::new("/proc"))?,
            Path::new("/proc"),
            quarantined(Path::new(QUARANTINE)),
            counters,
        ))
    };
    let Some(address) = args.listen else {
        let counters = match feed::once(args.log.as_deref()) {
            Err(error) if args.log.is_none() => {
                // A node without a journal has the other metrics.
                eprintln!("coffer: starts are not counted: {error:#}");
                Counters::default()
            }
            counted => counted?,
        };
        let text = now(&counters).with_context(|| format!("cannot read {}", args.state.display()))?;
        out.write_all(text.as_bytes())?;
        return Ok(());
    };
    let counters = Arc::new(Mutex::new(Counters::default()));
    feed::follow(args.log.as_deref(), counters.clone())?;
    let now = || now(&counters.lock().unwrap_or_else(PoisonError::into_inner));
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen at {address}"))?;
    for stream in listener.incoming() {
        // A client that goes away is its own business.
        let _ = stream.and_then(|stream| answer(stream, &now));
    }
    Ok(())
}

/// One question, one answer, one after the other: whoever scrapes does so some times a minute.
fn answer(mut stream: TcpStream, now: &impl Fn() -> io::Result<String>) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let (mut question, mut piece) = (Vec::new(), [0; 1024]);
    while !question.windows(4).any(|end| end == b"\r\n\r\n") && question.len() < MAX_QUESTION {
        match stream.read(&mut piece)? {
            0 => break,
            n => question.extend_from_slice(&piece[..n]),
        }
    }
    let (status, body) = if question.starts_with(b"GET /metrics ") {
        now()
            .map_or_else(|error| ("500 Internal Server Error", format!("{error}\n")), |text| ("200 OK", text))
    } else {
        ("404 Not Found", "ask for /metrics\n".to_owned())
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

fn quarantined(directory: &Path) -> usize {
    let is_record = |name: &str| name.ends_with(".quarantine.json");
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    entries.filter(|entry| entry.file_name().to_str().is_some_and(is_record)).count()
}

fn text(pods: &[Pod], processes: &Path, quarantined: usize, counters: &Counters) -> String {
    let mut text = String::new();
    for (name, kind, help) in METRICS {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        if let Some(samples) = counters.text(name) {
            text.push_str(&samples);
            continue;
        }
        match name {
            "coffer_sandboxes" => {
                for state in State::ALL {
                    let count = pods.iter().filter(|pod| pod.state == state).count();
                    let _ = writeln!(text, "{name}{{state=\"{}\"}} {count}", state.word());
                }
            }
            "coffer_gpus_quarantined" => {
                let _ = writeln!(text, "{name} {quarantined}");
            }
            _ => {
                for pod in pods {
                    let value = match name {
                        "coffer_sandbox_resident_bytes" => pod.resident_bytes,
                        "coffer_sandbox_devices" => Some(pod.devices.len() as u64),
                        _ => {
                            pod.shim.filter(|_| pod.state != State::Dead).and_then(|pid| pss(processes, pid))
                        }
                    };
                    let (namespace, sandbox) = (label(&pod.namespace), label(&pod.sandbox));
                    if let Some(value) = value {
                        let _ = writeln!(
                            text,
                            "{name}{{namespace=\"{namespace}\",sandbox=\"{sandbox}\"}} {value}"
                        );
                    }
                }
            }
        }
    }
    text
}

fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Of `proc(5)`, smaps_rollup.
fn pss(processes: &Path, pid: u64) -> Option<u64> {
    let text = fs::read_to_string(processes.join(pid.to_string()).join("smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::counters::tests::of_log;

    fn pod(state: State) -> Pod {
        Pod {
            namespace: "k8s.io".to_owned(),
            sandbox: "a\"b".to_owned(),
            state,
            shim: Some(1),
            qemu: Some(2),
            resident_bytes: Some(4096),
            devices: vec!["0000:41:00.0".to_owned()],
        }
    }

    #[test]
    fn metrics_are_prometheus_text() {
        let processes = tempfile::tempdir().unwrap();
        fs::create_dir(processes.path().join("1")).unwrap();
        fs::write(processes.path().join("1/smaps_rollup"), "x\nPss:          2048 kB\n").unwrap();
        insta::assert_snapshot!(text(&[pod(State::Running)], processes.path(), 1, &of_log()));
    }

    /// Each query of the dashboard names metrics that there are.
    #[test]
    fn the_dashboard_asks_for_metrics_that_exist() {
        let text = include_str!("../../../deploy/grafana/coffer.json");
        let dashboard: serde_json::Value = serde_json::from_str(text).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        let queries = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
        let queries: Vec<&str> = queries.map(|target| target["expr"].as_str().unwrap()).collect();
        assert!(queries.len() >= METRICS.len());
        for query in &queries {
            let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            for word in words.filter(|word| word.starts_with("coffer_")) {
                let is_of = |(name, kind, _): &(&str, &str, &str)| {
                    *name == word || *kind == "histogram" && word.strip_prefix(name) == Some("_bucket")
                };
                assert!(METRICS.iter().any(is_of), "{query}: {word}");
            }
        }
        for (name, ..) in METRICS {
            assert!(queries.iter().any(|query| query.contains(name)), "no panel shows {name}");
        }
    }

    #[test]
    fn one_question_has_one_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let ask = |path: &str| {
            let mut stream = TcpStream::connect(address).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            answer(listener.accept().unwrap().0, &|| Ok("coffer_gpus_quarantined 0\n".to_owned())).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        };
        assert!(ask("/metrics").ends_with("\r\n\r\ncoffer_gpus_quarantined 0\n"));
        assert!(ask("/").starts_with("HTTP/1.1 404 "));
    }
}
