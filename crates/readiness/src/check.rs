//! A check, and what came of it.

use std::fmt;

use serde::Serialize;
use vmm_config::config::Tee;

use crate::host::Host;

/// A runtime class: which kind of VM a pod gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Class {
    /// A VM that the host can read.
    #[serde(rename = "coffer")]
    Plain,
    /// A VM in an Intel TDX trust domain.
    #[serde(rename = "coffer-tdx")]
    Tdx,
    /// A VM with AMD SEV-SNP.
    #[serde(rename = "coffer-snp")]
    Snp,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Tdx, Self::Snp];

    /// The class of the configuration's key `tee`; `None` where that leaves the choice to the host.
    #[must_use]
    pub const fn of(tee: Tee) -> Option<Self> {
        match tee {
            Tee::None => Some(Self::Plain),
            Tee::Tdx => Some(Self::Tdx),
            Tee::Snp => Some(Self::Snp),
            Tee::Auto => None,
        }
    }

    /// The name of its RuntimeClass and of its handler in containerd.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "coffer",
            Self::Tdx => "coffer-tdx",
            Self::Snp => "coffer-snp",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whose business a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Another machine is needed.
    Cpu,
    /// A switch in the machine's setup.
    Firmware,
    /// A kernel, its parameters or its modules.
    Kernel,
    /// A permission, a program, a daemon or a file is missing.
    Setup,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "the CPU cannot",
            Self::Firmware => "off in the firmware",
            Self::Kernel => "off in the kernel",
            Self::Setup => "setup is incomplete",
        })
    }
}

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It holds.
    Ok,
    /// Pods run, but not as well as they should.
    Warning,
    /// Pods of some class do not run.
    Failed,
    /// Not asked, or without an answer.
    Skipped,
    /// Has no meaning on this host.
    NotApplicable,
}

impl Outcome {
    /// As the table has it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "WARNING",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
            Self::NotApplicable => "n/a",
        }
    }
}

/// A check with its result, and the checks that depend on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name, which does not change between versions.
    pub name: &'static str,
    /// What it is about, for people.
    pub title: &'static str,
    /// What it came to.
    pub result: Outcome,
    /// What was seen.
    pub evidence: String,
    /// Whose business it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// What to do, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// The checks that depend on this one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
}

impl Check {
    /// This check and all below it.
    pub fn all(&self) -> Box<dyn Iterator<Item = &Self> + '_> {
        Box::new(std::iter::once(self).chain(self.checks.iter().flat_map(Self::all)))
    }
}

/// What a check found.
#[derive(Debug)]
pub(crate) enum Finding {
    /// It holds; what was seen.
    Ok(String),
    /// Holds badly.
    Warning(Problem),
    /// Does not hold.
    Failed(Problem),
    /// Cannot be known. What depends on it is asked all the same.
    Unknown(Problem),
    /// Has no meaning here; why.
    NotApplicable(String),
}

/// What is wrong, whose business it is, and the one line that says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) fault: Fault,
    pub(crate) evidence: String,
    pub(crate) fix: String,
}

impl Problem {
    fn new(fault: Fault, evidence: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { fault, evidence: evidence.into(), fix: fix.into() }
    }
}

impl Finding {
    pub(crate) fn failed(fault: Fault, evidence: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Failed(Problem::new(fault, evidence, fix))
    }

    pub(crate) fn warning(fault: Fault, evidence: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Warning(Problem::new(fault, evidence, fix))
    }

    pub(crate) fn unknown(fault: Fault, evidence: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Unknown(Problem::new(fault, evidence, fix))
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Ok(_) => Outcome::Ok,
            Self::Warning(_) => Outcome::Warning,
            Self::Failed(_) => Outcome::Failed,
            Self::Unknown(_) => Outcome::Skipped,
            Self::NotApplicable(_) => Outcome::NotApplicable,
        }
    }
}

/// A check without a place in the tree: its title, and how it is made.
pub(crate) type Ask = (&'static str, fn(&Host<'_>) -> Finding);

/// A check that can be made, and what depends on it.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) run: fn(&Host<'_>) -> Finding,
    pub(crate) then: &'static [Step],
}

impl Step {
    /// Makes the check and those below it.
    pub(crate) fn make(&self, host: &Host<'_>) -> Check {
        let finding = (self.run)(host);
        let result = finding.outcome();
        let below = |step: &Self| match result {
            Outcome::Failed => step.leave(Outcome::Skipped, format!("needs: {}", self.title)),
            Outcome::NotApplicable => step.leave(Outcome::NotApplicable, String::new()),
            Outcome::Ok | Outcome::Warning | Outcome::Skipped => step.make(host),
        };
        let checks = self.then.iter().map(below).collect();
        let (evidence, fault, fix) = match finding {
            Finding::Ok(evidence) | Finding::NotApplicable(evidence) => (evidence, None, None),
            Finding::Warning(p) | Finding::Failed(p) | Finding::Unknown(p) => {
                (p.evidence, Some(p.fault), Some(p.fix))
            }
        };
        Check { name: self.name, title: self.title, result, evidence, fault, fix, checks }
    }

    fn leave(&self, result: Outcome, evidence: String) -> Check {
        let checks = self.then.iter().map(|step| step.leave(result, evidence.clone())).collect();
        Check { name: self.name, title: self.title, result, evidence, fault: None, fix: None, checks }
    }
}
