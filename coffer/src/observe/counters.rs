//! What the shims' log lines count up to: how long each phase of a boot took, failures, GPUs' resets and quarantines.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use vmm::boot::Phase;

use super::line::Line;

/// Upper bounds of a histogram's buckets, in milliseconds: a small VM's phases take less than a second, a large confidential
/// one's many minutes.
const BOUNDS: [u64; 14] =
    [50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000, 1_200_000];
/// Most starts that are followed at once. A guest cannot add to them; more than a node has pods are a log's mistake.
const STARTS: usize = 4096;
/// The phases that a start goes through, in the order of metrics.
const PHASES: [&str; 6] = [
    Phase::Planned.name(),
    Phase::Claimed.name(),
    Phase::Spawned.name(),
    Phase::Qmp.name(),
    Phase::Agent.name(),
    Phase::Running.name(),
];

/// How long something took, each time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Histogram {
    /// How often it took at most so long; cumulative only when it is printed.
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum_ms: u64,
}

impl Histogram {
    fn add(&mut self, ms: u64) {
        if let Some(at) = BOUNDS.iter().position(|bound| ms <= *bound) {
            self.buckets[at] += 1;
        }
        self.count += 1;
        self.sum_ms = self.sum_ms.saturating_add(ms);
    }
}

/// All that is counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Counters {
    /// For each phase: how long it lasted until the next one was reached.
    phases: BTreeMap<&'static str, Histogram>,
    /// For each phase: how many starts did not reach it.
    failures: BTreeMap<&'static str, u64>,
    resets: u64,
    quarantines: u64,
    /// Starts under way: the phase that was reached last, and when, in milliseconds of the start.
    starts: BTreeMap<String, (&'static str, u64)>,
}

impl Counters {
    /// Counts a line of a shim's.
    pub(super) fn take(&mut self, line: &Line) {
        let ms = line.get("ms").and_then(|ms| ms.parse().ok());
        let phase = line.get("phase").and_then(|name| PHASES.into_iter().find(|phase| *phase == name));
        match (line.get("msg").unwrap_or_default(), phase, ms) {
            // The guest's console can say anything.
            _ if line.get("source").is_some() => {}
            ("boot phase", Some(phase), Some(ms)) => self.reached(line.sandbox(), phase, ms),
            ("boot failed", Some(phase), _) => {
                self.starts.remove(line.sandbox());
                *self.failures.entry(phase).or_default() += 1;
            }
            // Said once more each second while it lasts.
            ("GPU: reset", _, Some(0)) => self.resets += 1,
            ("GPU is in quarantine", ..) => self.quarantines += 1,
            _ => {}
        }
    }

    fn reached(&mut self, sandbox: &str, phase: &'static str, ms: u64) {
        if let Some((last, since)) = self.starts.remove(sandbox).filter(|(_, since)| *since <= ms) {
            self.phases.entry(last).or_default().add(ms - since);
        }
        if phase == "running" {
            self.phases.entry(phase).or_default().add(ms);
        } else if self.starts.len() < STARTS {
            self.starts.insert(sandbox.to_owned(), (phase, ms));
        }
    }

    /// A metric's samples, if it is one of these.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let mut text = String::new();
        let mut sample = |suffix: &str, labels: &str, value: &str| {
            let _ = writeln!(text, "{name}{suffix}{labels} {value}");
        };
        match name {
            "coffer_boot_phase_seconds" => {
                for phase in PHASES {
                    let histogram = self.phases.get(phase).cloned().unwrap_or_default();
                    // `running` is the whole start, from its begin.
                    let phase = if phase == "running" { "all" } else { phase };
                    let mut below = 0;
                    for (bound, count) in BOUNDS.iter().zip(histogram.buckets) {
                        below += count;
                        let labels = format!("{{phase=\"{phase}\",le=\"{}\"}}", seconds(*bound));
                        sample("_bucket", &labels, &below.to_string());
                    }
                    let count = histogram.count.to_string();
                    sample("_bucket", &format!("{{phase=\"{phase}\",le=\"+Inf\"}}"), &count);
                    sample("_sum", &format!("{{phase=\"{phase}\"}}"), &seconds(histogram.sum_ms));
                    sample("_count", &format!("{{phase=\"{phase}\"}}"), &count);
                }
            }
            "coffer_boot_failures_total" => {
                for phase in &PHASES[1..] {
                    let count = self.failures.get(phase).copied().unwrap_or_default();
                    sample("", &format!("{{phase=\"{phase}\"}}"), &count.to_string());
                }
            }
            "coffer_gpu_resets_total" => sample("", "", &self.resets.to_string()),
            "coffer_gpu_quarantines_total" => sample("", "", &self.quarantines.to_string()),
            _ => return None,
        }
        Some(text)
    }
}

/// Milliseconds as seconds, without zeros at the end.
fn seconds(ms: u64) -> String {
    let text = format!("{}.{:03}", ms / 1000, ms % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::observe::timeline::tests::LOG;

    fn line(text: &str) -> Line {
        Line::parse(&format!("time=\"2026-11-28T12:59:20.9Z\" level=info {text} sandbox=a")).unwrap()
    }

    pub(crate) fn of_log() -> Counters {
        let mut counters = Counters::default();
        LOG.lines().filter_map(Line::parse).for_each(|line| counters.take(&line));
        counters
    }

    #[test]
    fn a_start_counts_in_each_of_its_phases() {
        let counters = of_log();
        let text = counters.text("coffer_boot_phase_seconds").unwrap();
        for phase in ["planned", "claimed", "spawned", "qmp", "agent", "all"] {
            assert!(text.contains(&format!("_count{{phase=\"{phase}\"}} ")), "{text}");
            assert!(!text.contains(&format!("_count{{phase=\"{phase}\"}} 0\n")), "{phase}: {text}");
        }
        assert!(counters.starts.is_empty(), "{counters:?}");
    }

    #[test]
    fn buckets_are_cumulative_and_sums_are_seconds() {
        let mut counters = Counters::default();
        for at in [(0, "planned"), (100, "claimed"), (1600, "spawned")] {
            counters.take(&line(&format!("msg=\"boot phase\" ms={} phase={}", at.0, at.1)));
        }
        let text = counters.text("coffer_boot_phase_seconds").unwrap();
        for wanted in [
            "coffer_boot_phase_seconds_bucket{phase=\"planned\",le=\"0.05\"} 0",
            "coffer_boot_phase_seconds_bucket{phase=\"planned\",le=\"0.1\"} 1",
            "coffer_boot_phase_seconds_bucket{phase=\"claimed\",le=\"1\"} 0",
            "coffer_boot_phase_seconds_bucket{phase=\"claimed\",le=\"2.5\"} 1",
            "coffer_boot_phase_seconds_bucket{phase=\"claimed\",le=\"+Inf\"} 1",
            "coffer_boot_phase_seconds_sum{phase=\"claimed\"} 1.5",
            "coffer_boot_phase_seconds_count{phase=\"spawned\"} 0",
        ] {
            assert!(text.lines().any(|line| line == wanted), "{wanted}: {text}");
        }
    }

    #[test]
    fn failures_resets_and_quarantines_are_counted_once() {
        // As the shim says it.
        assert_eq!(format!("GPU: {}", gpu::Phase::Reset), "GPU: reset");
        let mut counters = Counters::default();
        for text in [
            "msg=\"boot phase\" ms=0 phase=planned",
            "msg=\"boot failed\" phase=agent",
            "msg=\"GPU: reset\" ms=0 gpu=0000:41:00.0",
            "msg=\"GPU: reset\" ms=1000 gpu=0000:41:00.0",
            "msg=\"GPU is in quarantine\" gpu=0000:41:00.0",
            // A guest says what it likes.
            "msg=\"GPU: reset\" ms=0 source=console",
            "msg=\"boot failed\" phase=nonsense",
            "msg=\"boot phase\" ms=x phase=claimed",
        ] {
            counters.take(&line(text));
        }
        let failures = counters.text("coffer_boot_failures_total").unwrap();
        assert!(
            failures.contains("{phase=\"agent\"} 1\n") && failures.contains("{phase=\"running\"} 0\n"),
            "{failures}"
        );
        assert_eq!(counters.text("coffer_gpu_resets_total").unwrap(), "coffer_gpu_resets_total 1\n");
        assert_eq!(
            counters.text("coffer_gpu_quarantines_total").unwrap(),
            "coffer_gpu_quarantines_total 1\n"
        );
        assert!(counters.starts.is_empty());
    }

    /// However long it runs, it remembers no more than this.
    #[test]
    fn starts_that_never_end_are_not_gathered_without_bound() {
        let mut counters = Counters::default();
        for at in 0..STARTS + 10 {
            let text = format!("time=\"1T\" msg=\"boot phase\" ms=0 phase=planned sandbox=s{at}");
            counters.take(&Line::parse(&text).unwrap());
        }
        assert_eq!(counters.starts.len(), STARTS);
    }
}
