//! What the shim asks before each start of a confidential VM: files and CPUID, in a few system calls.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::Path;

use gpu::Mode;
use gpu::sysfs::Function;
use vmm_config::config::NodeConfig;

use crate::check::{Class, Fault, Finding, Problem};
use crate::checks::{snp, tdx};
use crate::connect::Service;
use crate::host::Host;
use crate::probe::{Now, Probe, Quick, SnpStatus};
use crate::qemu::{Qemu, QemuError};
use crate::root::Root;

/// The host cannot start VMs of a class.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this host cannot start {class} VMs: {title}: {evidence} ({fault}); {fix}")]
pub struct Failed {
    /// The class.
    pub class: Class,
    /// What the check is about.
    pub title: &'static str,
    /// Whose business it is.
    pub fault: Fault,
    /// What was seen.
    pub evidence: String,
    /// What to do.
    pub fix: String,
}

/// The host can start VMs of a class, and something is wrong with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warned {
    /// What the check is about.
    pub title: &'static str,
    /// What was seen.
    pub evidence: String,
    /// What to do.
    pub fix: String,
}

impl fmt::Display for Warned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.title, self.evidence, self.fix)
    }
}

/// Whether this host, whose files are below `root`, can start VMs of a class with this configuration, as far as can be
/// told at once, and what is wrong with them. A plain VM always passes: what it needs is found out, and named, while it is
/// started.
///
/// # Errors
/// The first check that fails, which is the cause of those that would fail after it.
pub fn preflight(root: &Root, config: &NodeConfig, class: Class) -> Result<Vec<Warned>, Failed> {
    preflight_with(root, &Now, config, class)
}

/// [`preflight`] of another host than this.
///
/// # Errors
/// As [`preflight`].
pub fn preflight_with(
    root: &Root,
    answers: &dyn Quick,
    config: &NodeConfig,
    class: Class,
) -> Result<Vec<Warned>, Failed> {
    let checks = match class {
        Class::Plain => return Ok(Vec::new()),
        Class::Tdx => &tdx::PREFLIGHT[..],
        Class::Snp => &snp::PREFLIGHT[..],
    };
    let answers = OnlyQuick(answers);
    let host = Host::configured(root, &answers, Ok(config.clone()), OsStr::new(""));
    let mut warnings = Vec::new();
    for &(title, check) in checks {
        let failed = |Problem { fault, evidence, fix }| Failed { class, title, fault, evidence, fix };
        match check(&host) {
            Finding::Failed(problem) => return Err(failed(problem)),
            Finding::NotApplicable(evidence) => {
                let fix = "use the class that this host's CPU has, or another node".to_owned();
                return Err(failed(Problem { fault: Fault::Cpu, evidence, fix }));
            }
            Finding::Warning(Problem { fault: _, evidence, fix }) => {
                warnings.push(Warned { title, evidence, fix });
            }
            Finding::Ok(_) | Finding::Unknown(_) => {}
        }
    }
    Ok(warnings)
}

/// A host that gives no answer that takes long.
#[derive(Debug)]
struct OnlyQuick<'a>(&'a dyn Quick);

fn not_asked() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "not asked before a start")
}

impl Quick for OnlyQuick<'_> {
    fn cpuid(&self, leaf: u32) -> Option<[u32; 4]> {
        self.0.cpuid(leaf)
    }

    fn open(&self, device: &Path) -> io::Result<()> {
        self.0.open(device)
    }

    fn connect(&self, service: Service<'_>) -> io::Result<()> {
        self.0.connect(service)
    }
}

impl Probe for OnlyQuick<'_> {
    fn msr(&self, _: u32) -> io::Result<u64> {
        Err(not_asked())
    }

    fn vm_types(&self, _: &Path) -> io::Result<u32> {
        Err(not_asked())
    }

    fn trial(&self) -> Result<(), String> {
        Err(not_asked().to_string())
    }

    fn qemu(&self, program: &Path, _: bool) -> Result<Qemu, QemuError> {
        Err(QemuError::Start { program: program.to_owned(), source: not_asked() })
    }

    fn snp_status(&self, _: &Path) -> io::Result<SnpStatus> {
        Err(not_asked())
    }

    fn gpu_mode(&self, _: &Function) -> Result<Mode, String> {
        Err(not_asked().to_string())
    }
}
