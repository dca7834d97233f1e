//! `coffer timeline`: what a pod's start took.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::line::{Line, Which};
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
}

/// Prints the timeline of a pod's start.
///
/// # Errors
/// There is no log, or no start of this pod in it.
pub(crate) fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    let lines = args.which.lines()?;
    let steps = steps(&lines);
    ensure!(
        !steps.is_empty(),
        "the log has no start of a sandbox {}: take an id that `coffer pods` prints, or a log that reaches back to it",
        args.which.pod()
    );
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&steps)?)?;
    } else if args.svg {
        let sandbox = lines.last().context("no line")?.sandbox();
        out.write_all(svg::picture(sandbox, &steps).as_bytes())?;
    } else {
        text(&steps, out)?;
    }
    Ok(())
}

/// The steps of the last start: from its first phase to the one in which it runs, or as far as it came.
fn steps(lines: &[Line]) -> Vec<Step> {
    let phase = |line: &Line| {
        (line.get("msg") == Some("boot phase")).then(|| line.get("phase").unwrap_or_default().to_owned())
    };
    let Some(first) = lines.iter().rposition(|line| phase(line).as_deref() == Some("planned")) else {
        return Vec::new();
    };
    let begin = lines[first].time_of_day().unwrap_or_default();
    let mut steps: Vec<Step> = Vec::new();
    for line in &lines[first..] {
        // The guest's console and debug lines are `coffer logs`' business.
        if line.get("level") == Some("debug") || line.get("source").is_some() {
            continue;
        }
        let Some(time) = line.time_of_day() else { continue };
        const DAY: u64 = 86_400_000;
        let at_ms = (time + DAY - begin) % DAY;
        let found = phase(line);
        let (name, is_phase) = match &found {
            Some(name) => (name.clone(), true),
            None => (line.told(), false),
        };
        if let Some(last) = steps.last_mut() {
            last.took_ms = at_ms.saturating_sub(last.at_ms);
        }
        steps.push(Step { name, at_ms, took_ms: 0, phase: is_phase });
        if found.as_deref() == Some("running") {
            break;
        }
    }
    steps
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

    pub(crate) fn of_log() -> Vec<Step> {
        steps(&LOG.lines().filter_map(Line::parse).collect::<Vec<_>>())
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
    fn without_a_start_there_are_no_steps() {
        assert!(steps(&[]).is_empty());
        let line =
            Line::parse("time=\"2026-01-01T00:00:00.1Z\" msg=\"boot phase\" phase=agent sandbox=a").unwrap();
        assert!(steps(&[line]).is_empty());
    }
}
