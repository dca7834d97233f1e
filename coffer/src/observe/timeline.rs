//! `coffer timeline`: what a pod's start took.

use std::io::Write;
#[cfg(feature = "otlp")]
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;

use super::line::{Line, Which};
#[cfg(feature = "otlp")]
use super::otlp;
use super::svg;

/// What the command line's `--help` says beside the options.
const HELP: &str = "\
Each line is a step of the sandbox's last start, with the time since its begin and the time until the next step: the VM's
phases (planned, claimed, spawned, qmp, agent, running) and what was done between them, GPUs' resets for example.";

/// The widest bar of the text form, in characters.
const BAR: u64 = 40;

/// Arguments of `coffer timeline`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,
    /// Print a picture (SVG)
    #[arg(long, conflicts_with = "json")]
    svg: bool,
    /// Print a list of objects
    #[arg(long)]
    json: bool,
    /// Send it to an OpenTelemetry collector as a trace (OTLP over HTTP): a span for each phase and for each GPU
    #[cfg(feature = "otlp")]
    #[arg(long, value_name = "URL", conflicts_with_all = ["svg", "json"])]
    otlp: Option<String>,
    /// The collector's certificate or its authority's (PEM); needed for https
    #[cfg(feature = "otlp")]
    #[arg(long, value_name = "FILE", requires = "otlp")]
    otlp_cert: Option<PathBuf>,
}

/// A sandbox's last start, as far as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Start {
    /// The sandbox's id.
    pub(super) sandbox: String,
    /// Milliseconds since 1970.
    #[cfg_attr(not(feature = "otlp"), expect(dead_code, reason = "only a trace has it"))]
    pub(super) begin_ms: u64,
    pub(super) steps: Vec<Step>,
}

/// A step of a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Step {
    /// What was reached or done.
    pub(super) name: String,
    /// Milliseconds since the start's begin.
    pub(super) at_ms: u64,
    /// Milliseconds until the next step; 0 for the last one.
    pub(super) took_ms: u64,
    /// Whether it is one of the VM's phases.
    pub(super) phase: bool,
    /// Address of the GPU that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) gpu: Option<String>,
}

/// Prints the timeline of a pod's start.
///
/// # Errors
/// There is no log, or no start of this pod in it.
pub(crate) fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    let start = last_start(&args.which.lines()?);
    let missing = || {
        format!(
            "the log has no start of a sandbox {}: take an id that `coffer pods` prints, or a log that reaches back to it",
            args.which.pod()
        )
    };
    let start = start.with_context(missing)?;
    #[cfg(feature = "otlp")]
    if let Some(url) = &args.otlp {
        writeln!(out, "{}", otlp::send(&start, url, args.otlp_cert.as_deref())?)?;
        return Ok(());
    }
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&start.steps)?)?;
    } else if args.svg {
        out.write_all(svg::picture(&start.sandbox, &start.steps).as_bytes())?;
    } else {
        text(&start.steps, out)?;
    }
    Ok(())
}

/// The last start: from its first phase to the one in which it runs, or as far as it came.
fn last_start(lines: &[Line]) -> Option<Start> {
    let phase = |line: &Line| {
        (line.get("msg") == Some("boot phase")).then(|| line.get("phase").unwrap_or_default().to_owned())
    };
    let first = lines.iter().rposition(|line| phase(line).as_deref() == Some("planned"))?;
    let (sandbox, begin_ms) = (lines[first].sandbox().to_owned(), lines[first].time_ms()?);
    let mut steps: Vec<Step> = Vec::new();
    for line in &lines[first..] {
        // The guest's console and debug lines are `coffer logs`' business.
        if line.get("level") == Some("debug") || line.get("source").is_some() {
            continue;
        }
        let Some(time) = line.time_ms() else { continue };
        // A clock that was set back stands still here.
        let at_ms = time.saturating_sub(begin_ms).max(steps.last().map_or(0, |last| last.at_ms));
        let found = phase(line);
        let (name, is_phase) = match &found {
            Some(name) => (name.clone(), true),
            None => (line.told(), false),
        };
        if let Some(last) = steps.last_mut() {
            last.took_ms = at_ms - last.at_ms;
        }
        let gpu = line.get("gpu").map(str::to_owned);
        steps.push(Step { name, at_ms, took_ms: 0, phase: is_phase, gpu });
        if found.as_deref() == Some("running") {
            break;
        }
    }
    Some(Start { sandbox, begin_ms, steps })
}

fn text(steps: &[Step], out: &mut impl Write) -> Result<()> {
    let total = steps.last().map_or(0, |step| step.at_ms).max(1);
    for step in steps {
        let width = (step.took_ms * BAR).div_ceil(total);
        let bar = "#".repeat(usize::try_from(width).unwrap_or_default());
        let name: String = step.name.chars().take(60).collect();
        writeln!(out, "{:>7} ms {:>7} ms  {bar:<40}  {name}", step.at_ms, step.took_ms)?;
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Lines as containerd wrote them in the rig.
    pub(crate) const LOG: &str = include_str!("start.log");
    /// The same of a pod with two GPUs, in the outer VM.
    const GPUS: &str = include_str!("gpus.log");

    fn lines(log: &str) -> Vec<Line> {
        log.lines().filter_map(Line::parse).collect()
    }

    pub(crate) fn of_log() -> Vec<Step> {
        last_start(&lines(LOG)).unwrap().steps
    }

    pub(crate) fn with_gpus() -> Start {
        last_start(&lines(GPUS)).unwrap()
    }

    #[test]
    fn the_last_start_is_told_step_by_step() {
        let steps = of_log();
        let phases: Vec<_> = steps.iter().filter(|step| step.phase).map(|step| step.name.as_str()).collect();
        assert_eq!(phases, ["planned", "claimed", "spawned", "qmp", "agent", "running"]);
        assert!(steps.windows(2).all(|pair| pair[0].at_ms + pair[0].took_ms == pair[1].at_ms), "{steps:?}");
        let (first, last) = (&steps[0], &steps[steps.len() - 1]);
        assert_eq!((first.at_ms, last.took_ms), (0, 0));
        let mut out = Vec::new();
        text(&steps, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap().lines().count(), steps.len());
    }

    #[test]
    fn steps_of_a_gpu_name_it() {
        let start = with_gpus();
        let of = |gpu: &str| start.steps.iter().filter(|step| step.gpu.as_deref() == Some(gpu)).count();
        assert_eq!((start.sandbox.as_str(), of("0000:0d:00.0"), of("0000:0e:00.0")), ("two", 2, 2));
    }

    #[test]
    fn without_a_start_there_are_no_steps() {
        assert_eq!(last_start(&[]), None);
        let line = |time: &str, phase: &str| {
            Line::parse(&format!("time=\"{time}\" msg=\"boot phase\" phase={phase} sandbox=a")).unwrap()
        };
        assert_eq!(last_start(&[line("2026-01-01T00:00:00.1Z", "agent")]), None);
        assert_eq!(last_start(&[line("yesterday", "planned")]), None);
    }

    /// Over midnight it goes on; where the clock is set back it stands still.
    #[test]
    fn clocks() {
        let log = "time=\"2026-12-31T23:59:59.9Z\" msg=\"boot phase\" phase=planned sandbox=a\n\
                   time=\"2027-01-01T00:00:00.4Z\" msg=\"boot phase\" phase=claimed sandbox=a\n\
                   time=\"2026-12-31T23:00:00Z\" msg=\"boot phase\" phase=spawned sandbox=a";
        let steps = last_start(&lines(log)).unwrap().steps;
        assert_eq!(
            steps.iter().map(|step| (step.at_ms, step.took_ms)).collect::<Vec<_>>(),
            [(0, 500), (500, 0), (500, 0)]
        );
    }
}
