//! The whole tree, and what it means for each class.

use std::fmt;

use serde::Serialize;

use crate::check::{Check, Class, Outcome};
use crate::checks::{GPUS, GROUPS, Weight};
use crate::host::Host;

/// Whether pods of a class can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// They can.
    Ready,
    /// They can, with a loss.
    ReadyWithWarnings,
    /// They cannot.
    NotReady,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "ready",
            Self::ReadyWithWarnings => "ready with warnings",
            Self::NotReady => "not ready",
        })
    }
}

/// A class and its verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ClassVerdict {
    /// The class.
    pub class: Class,
    /// Its verdict.
    pub verdict: Verdict,
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The class that the configuration asks for; without it, the most that the CPU can do.
    pub class: Class,
    /// A verdict for each class.
    pub classes: Vec<ClassVerdict>,
    /// The checks.
    pub checks: Vec<Check>,
    /// For each class that is not ready, what stops it, the first cause first.
    #[serde(skip)]
    pub stops: Vec<(Class, String)>,
}

impl Report {
    /// What stops a class, in one line; `None` where nothing does.
    #[must_use]
    pub fn stopped(&self, class: Class) -> Option<&str> {
        self.stops.iter().find(|(stopped, _)| *stopped == class).map(|(_, reason)| reason.as_str())
    }

    /// What pods can have of this host's GPUs.
    #[must_use]
    pub fn gpus(&self) -> Gpus {
        let Some(gpus) = self.checks.iter().find(|check| check.name == GPUS.root.name) else {
            return Gpus::None;
        };
        match (gpus.result, stop(gpus)) {
            (Outcome::NotApplicable, _) => Gpus::None,
            (_, Some(reason)) => Gpus::NotReady(reason),
            (_, None) => Gpus::Ready(gpus.evidence.clone()),
        }
    }

    /// The class's verdict.
    #[must_use]
    pub fn verdict(&self, class: Class) -> Verdict {
        self.classes.iter().find(|v| v.class == class).map_or(Verdict::NotReady, |v| v.verdict)
    }
}

/// What pods can have of a host's GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gpus {
    /// It has none.
    None,
    /// These.
    Ready(String),
    /// It has some, and pods do not get them: the first cause, in one line.
    NotReady(String),
}

/// Makes every check.
#[must_use]
pub fn examine(host: &Host<'_>) -> Report {
    let groups: Vec<_> = GROUPS.iter().chain([&GPUS]).map(|group| (group, group.root.make(host))).collect();
    let verdict = |class| {
        let of_group = |(group, check): &(&crate::checks::Group, Check)| match (group.weight)(host, class) {
            Weight::None => Verdict::Ready,
            weight => judge(check, weight),
        };
        groups.iter().map(of_group).max().unwrap_or(Verdict::NotReady)
    };
    let classes = Class::ALL.map(|class| ClassVerdict { class, verdict: verdict(class) }).to_vec();
    let stops = Class::ALL.iter().flat_map(|class| {
        let stopping = groups.iter().filter(|(group, _)| (group.weight)(host, *class) == Weight::Stops);
        stopping.filter_map(|(_, check)| stop(check)).map(|reason| (*class, reason))
    });
    let stops = stops.collect();
    let checks: Vec<_> = groups.into_iter().map(|(_, check)| check).collect();
    Report { class: wanted(host, &checks), classes, checks, stops }
}

/// Why a check that stops a class does so.
fn stop(root: &Check) -> Option<String> {
    let fails = |check: &Check| check.result == Outcome::Failed;
    let said = |check: &Check| match &check.fix {
        Some(fix) => format!("{}: {}; {fix}", check.title, check.evidence),
        None => format!("{}: {}", check.title, check.evidence),
    };
    match root.result {
        Outcome::NotApplicable => Some(said(root)),
        _ => root.all().find(|check| fails(check)).map(said),
    }
}

fn judge(root: &Check, weight: Weight) -> Verdict {
    let failed = if weight == Weight::Stops { Verdict::NotReady } else { Verdict::ReadyWithWarnings };
    // What stops a class by being foreign to the host has no meaning only at its root.
    if root.result == Outcome::NotApplicable && weight == Weight::Stops {
        return Verdict::NotReady;
    }
    let of_check = |check: &Check| match check.result {
        Outcome::Failed => failed,
        Outcome::Warning => Verdict::ReadyWithWarnings,
        // Unknown, which has a fix, is not the same as skipped because of another check.
        Outcome::Skipped if check.fix.is_some() && weight == Weight::Stops => Verdict::ReadyWithWarnings,
        Outcome::Ok | Outcome::Skipped | Outcome::NotApplicable => Verdict::Ready,
    };
    root.all().map(of_check).max().unwrap_or(Verdict::Ready)
}

fn wanted(host: &Host<'_>, checks: &[Check]) -> Class {
    let result = |name| checks.iter().find(|check| check.name == name).map(|check| check.result);
    match Class::of(host.config().tee) {
        Some(class @ (Class::Tdx | Class::Snp)) => class,
        _ if result("tdx") == Some(Outcome::Ok) => Class::Tdx,
        _ if result("snp") == Some(Outcome::Ok) => Class::Snp,
        _ => Class::Plain,
    }
}
