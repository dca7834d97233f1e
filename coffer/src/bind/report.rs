//! What is told on the way: faults, notes, and what has become of each pod.

use std::fmt::{self, Write as _};

use pod_manifest::Template;
use pod_manifest::yaml::Path;

/// Where something is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct At {
    /// The file; empty where it is about none.
    pub(super) file: String,
    /// From 1 on; 0 where it is about the whole file.
    pub(super) line: usize,
    /// The field.
    pub(super) path: Path,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.file.is_empty() {
            return Ok(());
        }
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        f.write_str(": ")?;
        if self.path.0.is_empty() { Ok(()) } else { write!(f, "{}: ", self.path) }
    }
}

/// What has become of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Its text is another now.
    Bound,
    /// Its text has been right.
    Same,
    /// It is none of ours, and why.
    Left(&'static str),
    /// There are faults.
    Failed,
}

#[derive(Debug)]
struct Row {
    place: String,
    pod: String,
    class: String,
    outcome: Outcome,
}

/// All that is told of a run.
#[derive(Debug, Default)]
pub(super) struct Report {
    faults: Vec<(At, String)>,
    notes: Vec<(At, String)>,
    rows: Vec<Row>,
}

impl Report {
    pub(super) fn fault(&mut self, at: At, what: impl Into<String>) {
        let fault = (at, what.into());
        // Two templates may have one text.
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }

    pub(super) fn note(&mut self, at: At, what: impl Into<String>) {
        let note = (at, what.into());
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    pub(super) fn row(&mut self, place: String, template: &Template, class: &str, outcome: Outcome) {
        let pod = format!("{}/{}", template.owner.kind, template.owner.name.as_deref().unwrap_or("-"));
        self.rows.push(Row { place, pod, class: class.to_owned(), outcome });
    }

    pub(super) fn faults(&self) -> usize {
        self.faults.len()
    }

    pub(super) fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    /// Whether the text of any pod is another now.
    pub(super) fn has_changes(&self) -> bool {
        self.rows.iter().any(|row| row.outcome == Outcome::Bound)
    }

    /// Notes and faults, a line each.
    pub(super) fn lines(&self) -> String {
        let mut text = String::new();
        for (at, note) in &self.notes {
            let _ = writeln!(text, "note: {at}{}", one_line(note));
        }
        for (at, fault) in &self.faults {
            let _ = writeln!(text, "coffer: {at}{}", one_line(fault));
        }
        text
    }

    /// The table at the end.
    pub(super) fn table(&self, is_check: bool) -> String {
        let says = |outcome: Outcome| match outcome {
            Outcome::Bound if is_check => "out of date",
            Outcome::Bound => "bound",
            Outcome::Same => "up to date",
            Outcome::Left(why) => why,
            Outcome::Failed => "FAILED",
        };
        let width = |of: fn(&Row) -> &str, least: usize| {
            self.rows.iter().map(|row| of(row).chars().count()).max().unwrap_or_default().max(least)
        };
        let (pods, classes) = (width(|row| &row.pod, 3), width(|row| &row.class, 5));
        let places = width(|row| &row.place, 5);
        let mut text = String::new();
        if !self.rows.is_empty() {
            let _ = writeln!(text, "{:<pods$}  {:<classes$}  {:<places$}  RESULT", "POD", "CLASS", "PLACE");
        }
        for Row { place, pod, class, outcome } in &self.rows {
            let _ = writeln!(text, "{pod:<pods$}  {class:<classes$}  {place:<places$}  {}", says(*outcome));
        }
        let count =
            |wanted: fn(&Outcome) -> bool| self.rows.iter().filter(|row| wanted(&row.outcome)).count();
        let _ = writeln!(
            text,
            "{} pods: {} {}, {} up to date, {} left as they are, {} failed; {} faults, {} notes",
            self.rows.len(),
            count(|outcome| *outcome == Outcome::Bound),
            if is_check { "out of date" } else { "bound" },
            count(|outcome| *outcome == Outcome::Same),
            count(|outcome| matches!(outcome, Outcome::Left(_))),
            count(|outcome| *outcome == Outcome::Failed),
            self.faults.len(),
            self.notes.len()
        );
        text
    }
}

fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    // A name in a manifest is foreign text; a terminal would obey it.
    lines.join(" ").chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_one_line_with_its_place() {
        let mut report = Report::default();
        let at = At { file: "a.yaml".into(), line: 7, path: Path::of("spec.containers[0].image") };
        report.fault(at.clone(), "two\n lines\x1b[31m");
        report.fault(at, "two\n lines\x1b[31m");
        report.note(At { file: "b.yaml".into(), ..At::default() }, "whole");
        assert_eq!(
            report.lines(),
            "note: b.yaml: whole\ncoffer: a.yaml:7: spec.containers[0].image: two lines[31m\n"
        );
        assert!(report.table(false).ends_with("0 failed; 1 faults, 1 notes\n"), "{}", report.table(false));
    }
}
