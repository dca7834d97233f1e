//! What a pod asks of its VM, checked: sizes from CRI's annotations or a plain container's limits, and
//! the few annotations that may change the VM.
//!
//! The sizing rule:
//!
//! * **vCPUs** = ⌈quota ÷ period⌉ where the pod has a CPU limit; ⌈shares ÷ 1024⌉ where the engine says that
//!   there is none (a negative quota), for so kubelet's static CPU manager speaks of a pod with CPUs of its
//!   own; else the `default_vcpus` annotation, if the node allows it; else the node's `default_vcpus`. Beside
//!   a limit, and where nothing is said of one, CPU shares are a weight and do not count.
//! * **Memory** = limit + `overhead_memory_mib` where the pod has a memory limit; else the
//!   `default_memory` annotation, if allowed; else `default_memory_mib`. Rounded up to 2 MiB, and
//!   never below [`VmMemory::MIN`].
//!
//! A pod's limits are the sums that CRI hands over with the sandbox: containerd in an annotation for each, CRI-O
//! as JSON in one. The limits of a single container count only where there is no CRI, because then the
//! container is the pod.

use std::collections::BTreeMap;

use measurement::initdata::{self, InitData};
use serde::Deserialize;
pub use shared_types::cri::{CRI_CPU_PERIOD, CRI_CPU_QUOTA, CRI_CPU_SHARES, CRI_MEMORY};
use shared_types::cri::{Engine, Member, TwoEngines};
use shared_types::{BadScratchSize, ScratchSize, one_line};

use crate::annotation::AnnotationKey;
use crate::config::NodeConfig;
use crate::units::{BadName, MemorySize, OutOfRange, Vcpus, VmMemory, VmName};

/// CRI-O's sums, as JSON of CRI's `LinuxContainerResources` (CRI-O, `setupSandboxResources` in
/// `server/sandbox_run_linux.go`): the name until 1.34, then the one from 1.35 on. CRI-O filters what a pod's
/// author writes under names that it knows. So the old one counts first: who writes it knows both or writes it itself,
/// and the new one under an old CRI-O is the author's.
const CRIO_RESOURCES: [&str; 2] = ["io.kubernetes.cri-o.PodLinuxResources", "pod-linux-resources.crio.io"];
/// The weight that kubelet gives for one CPU (`SharesPerCPU`).
const SHARES_PER_CPU: u64 = 1024;
/// The kernel's CFS period where none is given, in µs.
const DEFAULT_PERIOD: u64 = 100_000;
/// Annotations below these prefixes are meant for us; others are not worth a log line.
const OUR_PREFIXES: [&str; 2] = ["io.katacontainers.config.", "dev.coffer."];

/// Limits of one container, as numbers of its OCI specification (`linux.resources`), or of a whole pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OciLimits {
    /// `cpu.quota` in µs per period; absent, zero or negative: no limit.
    pub cpu_quota: Option<i64>,
    /// `cpu.period` in µs; absent or zero: the kernel's 100,000.
    pub cpu_period: Option<u64>,
    /// A pod's `cpu.shares`, which count where the quota is negative. A single container's are a weight only.
    pub cpu_shares: Option<u64>,
    /// `memory.limit` in bytes; absent, zero or negative: no limit.
    pub memory_limit: Option<i64>,
}

impl OciLimits {
    fn vcpus(self) -> Option<u64> {
        let period = self.cpu_period.filter(|period| *period > 0).unwrap_or(DEFAULT_PERIOD);
        match self.cpu_quota {
            Some(..0) => {
                self.cpu_shares.filter(|shares| *shares > 0).map(|shares| shares.div_ceil(SHARES_PER_CPU))
            }
            quota => positive(quota).map(|quota| quota.div_ceil(period)),
        }
    }
}

/// CRI-O's sums; fields of no use here are left out.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CrioResources {
    cpu_period: i64,
    cpu_quota: i64,
    cpu_shares: i64,
    memory_limit_in_bytes: i64,
}

impl From<CrioResources> for OciLimits {
    fn from(sums: CrioResources) -> Self {
        Self {
            cpu_quota: Some(sums.cpu_quota),
            cpu_period: u64::try_from(sums.cpu_period).ok(),
            cpu_shares: u64::try_from(sums.cpu_shares).ok(),
            memory_limit: Some(sums.memory_limit_in_bytes),
        }
    }
}

/// What decided a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeSource {
    /// The pod's limit.
    Limit,
    /// The pod's annotation.
    Annotation,
    /// The node's default.
    NodeDefault,
}

impl SizeSource {
    /// For log lines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Annotation => "annotation",
            Self::NodeDefault => "node default",
        }
    }
}

/// An annotation that was meant for us and changed nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoredAnnotation {
    /// Its name.
    pub name: String,
    /// Why it was ignored.
    pub reason: IgnoreReason,
}

/// Why an annotation was ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IgnoreReason {
    /// No annotation of this name exists here.
    NotUnderstood,
    /// The node's `allowed_annotations` does not list it.
    NotAllowed,
    /// The pod has a limit, which counts more.
    LimitDecides,
}

impl IgnoreReason {
    /// For log lines.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NotUnderstood => "not understood",
            Self::NotAllowed => "not in the node's allowed_annotations",
            Self::LimitDecides => "the pod's limit decides",
        }
    }
}

/// What a pod asks of its VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRequest {
    /// The sandbox.
    pub name: VmName,
    /// Virtual CPUs.
    pub vcpus: Vcpus,
    /// What decided their number.
    pub vcpus_from: SizeSource,
    /// The VM's memory, the guest's own needs included.
    pub memory: VmMemory,
    /// What decided it.
    pub memory_from: SizeSource,
    /// Configuration of the guest by the pod's owner. It needs no leave of the node's: the guest's report vouches for it.
    pub initdata: Option<InitData>,
    /// The disk that takes emptyDirs and containers' changes. The node's limit is checked when the VM is claimed.
    pub scratch: Option<ScratchSize>,
    /// Annotations to name in a log line, by name.
    pub ignored: Vec<IgnoredAnnotation>,
}

/// Why no VM can be made for a pod.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The sandbox id has characters that an id cannot have.
    #[error(transparent)]
    Name(#[from] BadName),
    /// Annotations of two engines.
    #[error(transparent)]
    Engines(#[from] TwoEngines),
    /// An annotation's value is not of its type.
    #[error("annotation {name} is {value:?}; it must be {expected}")]
    Malformed {
        /// The annotation.
        name: &'static str,
        /// Its value, shortened.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The pod's initdata cannot be read.
    #[error("annotation {}: {reason}", initdata::annotation::NAME)]
    Initdata {
        /// Why.
        reason: String,
    },
    /// The pod's scratch disk is of no size.
    #[error("annotation {} is {value:?}", ScratchSize::ANNOTATION)]
    Scratch {
        /// Its value, shortened.
        value: String,
        /// What it should be.
        #[source]
        source: BadScratchSize,
    },
    /// The VM would be too small or too large.
    #[error("the pod's {origin} asks for a VM that cannot be")]
    OutOfRange {
        /// Limit, annotation or node default.
        origin: &'static str,
        /// What is out of range.
        #[source]
        source: OutOfRange,
    },
}

impl PodRequest {
    /// Sizes the VM of a pod from the annotations and limits of its sandbox, or of the container that is
    /// the whole pod.
    ///
    /// # Errors
    /// [`RequestError`]; annotations that are not understood or not allowed are no error, whatever
    /// their value.
    pub fn new<'a>(
        config: &NodeConfig,
        sandbox_id: &str,
        annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
        limits: OciLimits,
    ) -> Result<Self, RequestError> {
        let name = VmName::new(sandbox_id)?;
        let annotations = Annotations { all: annotations.into_iter().collect(), config };
        let limits = annotations.pod_limits(limits)?;
        let mut ignored = annotations.not_for_this_node();

        let asked = annotations.number(AnnotationKey::DefaultVcpus)?;
        let (vcpus, vcpus_from) = match (limits.vcpus, asked) {
            (Some(limit), _) => (Vcpus::new(limit), SizeSource::Limit),
            (None, Some(asked)) => (Vcpus::new(asked), SizeSource::Annotation),
            (None, None) => (Ok(config.default_vcpus), SizeSource::NodeDefault),
        };
        let vcpus = vcpus.map_err(|source| RequestError::OutOfRange { origin: vcpus_from.name(), source })?;
        if limits.vcpus.is_some() && asked.is_some() {
            ignored.push(IgnoredAnnotation::overruled(AnnotationKey::DefaultVcpus));
        }

        let asked = annotations.number(AnnotationKey::DefaultMemory)?;
        let (memory, memory_from) = match (limits.memory, asked) {
            (Some(limit), _) => {
                let need = limit.saturating_add(config.overhead_memory_mib).max(VmMemory::MIN);
                (VmMemory::new(need), SizeSource::Limit)
            }
            (None, Some(asked)) => (VmMemory::new(MemorySize::from_mib(asked)), SizeSource::Annotation),
            (None, None) => (Ok(config.default_memory_mib), SizeSource::NodeDefault),
        };
        let memory =
            memory.map_err(|source| RequestError::OutOfRange { origin: memory_from.name(), source })?;
        if limits.memory.is_some() && asked.is_some() {
            ignored.push(IgnoredAnnotation::overruled(AnnotationKey::DefaultMemory));
        }

        ignored.sort_by(|a, b| a.name.cmp(&b.name));
        let initdata = annotations.initdata()?;
        let scratch = annotations.scratch()?;
        Ok(Self { name, vcpus, vcpus_from, memory, memory_from, initdata, scratch, ignored })
    }
}

impl PodRequest {
    /// Whether a limit of the pod decided any size.
    pub fn has_limits(&self) -> bool {
        [self.vcpus_from, self.memory_from].contains(&SizeSource::Limit)
    }
}

impl IgnoredAnnotation {
    fn overruled(key: AnnotationKey) -> Self {
        Self { name: key.name().to_owned(), reason: IgnoreReason::LimitDecides }
    }
}

/// The pod's limits, normalised.
struct PodLimits {
    vcpus: Option<u64>,
    memory: Option<MemorySize>,
}

struct Annotations<'a> {
    all: BTreeMap<&'a str, &'a str>,
    config: &'a NodeConfig,
}

impl Annotations<'_> {
    /// The pod's limits: CRI's sums, or `own` where no CRI is involved.
    fn pod_limits(&self, own: OciLimits) -> Result<PodLimits, RequestError> {
        const BYTES: &str = "a whole number of bytes";
        const MICROSECONDS: &str = "a whole number of microseconds";
        let member = Member::of(|name| self.all.get(name).copied())?;
        let limits = match member.map(|member| member.engine) {
            None => own,
            Some(Engine::Crio) => self.crios_sums()?,
            Some(Engine::Containerd) => OciLimits {
                cpu_quota: self.parse(CRI_CPU_QUOTA, MICROSECONDS)?,
                cpu_period: self.parse(CRI_CPU_PERIOD, MICROSECONDS)?,
                cpu_shares: self.parse(CRI_CPU_SHARES, "a whole number")?,
                memory_limit: self.parse(CRI_MEMORY, BYTES)?,
            },
        };
        Ok(PodLimits {
            vcpus: limits.vcpus(),
            memory: positive(limits.memory_limit).map(MemorySize::from_bytes),
        })
    }

    /// What CRI-O says of the pod; containerd's names are its author's there.
    fn crios_sums(&self) -> Result<OciLimits, RequestError> {
        let said = CRIO_RESOURCES.into_iter().find_map(|name| Some((name, self.all.get(name)?)));
        let Some((name, json)) = said else { return Ok(OciLimits::default()) };
        match serde_json::from_str::<Option<CrioResources>>(json) {
            Ok(sums) => Ok(sums.unwrap_or_default().into()),
            Err(_) => {
                let expected = "CRI's LinuxContainerResources as JSON";
                Err(RequestError::Malformed { name, value: json.chars().take(100).collect(), expected })
            }
        }
    }

    /// The value of an annotation that the node allows.
    fn number(&self, key: AnnotationKey) -> Result<Option<u64>, RequestError> {
        if !self.config.allowed_annotations.contains(&key) {
            return Ok(None);
        }
        self.parse(key.name(), "a whole number from 1 on")
    }

    fn parse<T: std::str::FromStr>(
        &self,
        name: &'static str,
        expected: &'static str,
    ) -> Result<Option<T>, RequestError> {
        let Some(value) = self.all.get(name) else { return Ok(None) };
        match value.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => {
                Err(RequestError::Malformed { name, value: value.chars().take(100).collect(), expected })
            }
        }
    }

    fn initdata(&self) -> Result<Option<InitData>, RequestError> {
        let Some(text) = self.all.get(initdata::annotation::NAME) else { return Ok(None) };
        let read = initdata::annotation::decode(text);
        read.map(Some).map_err(|error| RequestError::Initdata { reason: one_line(&error) })
    }

    fn scratch(&self) -> Result<Option<ScratchSize>, RequestError> {
        let Some(text) = self.all.get(ScratchSize::ANNOTATION) else { return Ok(None) };
        let value = || text.chars().take(100).collect();
        text.parse().map(Some).map_err(|source| RequestError::Scratch { value: value(), source })
    }

    fn not_for_this_node(&self) -> Vec<IgnoredAnnotation> {
        self.all
            .keys()
            .filter(|name| OUR_PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
            .filter(|name| ![initdata::annotation::NAME, ScratchSize::ANNOTATION].contains(*name))
            .filter_map(|name| {
                let reason = match AnnotationKey::from_name(name) {
                    None => IgnoreReason::NotUnderstood,
                    Some(key) if !self.config.allowed_annotations.contains(&key) => IgnoreReason::NotAllowed,
                    Some(_) => return None,
                };
                Some(IgnoredAnnotation { name: (*name).to_owned(), reason })
            })
            .collect()
    }
}

fn positive(number: Option<i64>) -> Option<u64> {
    number.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0)
}

#[cfg(test)]
mod tests;
