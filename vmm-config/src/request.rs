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
use shared_types::cri::{Engine, Member, TwoEngines};
use shared_types::{BadScratchSize, ScratchSize, one_line};

use crate::annotation::AnnotationKey;
use crate::config::NodeConfig;
use crate::units::{BadName, MemorySize, OutOfRange, Vcpus, VmMemory, VmName};

/// The pod's CPU quota in µs per period; zero or negative: no limit.
pub const CRI_CPU_QUOTA: &str = "io.kubernetes.cri.sandbox-cpu-quota";
/// The quota's period in µs.
pub const CRI_CPU_PERIOD: &str = "io.kubernetes.cri.sandbox-cpu-period";
/// The pod's CPU weight; kubelet gives 1024 for each CPU.
pub const CRI_CPU_SHARES: &str = "io.kubernetes.cri.sandbox-cpu-shares";
/// The pod's memory limit in bytes; zero: no limit.
pub const CRI_MEMORY: &str = "io.kubernetes.cri.sandbox-memory";
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VCPUS: &str = "io.katacontainers.config.hypervisor.default_vcpus";
    const MEMORY: &str = "io.katacontainers.config.hypervisor.default_memory";

    const CRIO: &str = Engine::Crio.names().kind;

    fn allowing() -> NodeConfig {
        NodeConfig { allowed_annotations: AnnotationKey::ALL.to_vec(), ..NodeConfig::default() }
    }

    fn request(config: &NodeConfig, annotations: &[(&str, &str)]) -> Result<PodRequest, RequestError> {
        PodRequest::new(config, "pod", annotations.iter().copied(), OciLimits::default())
    }

    /// A pod of containerd's with more annotations.
    fn cri(config: &NodeConfig, annotations: &[(&str, &str)]) -> Result<PodRequest, RequestError> {
        request(config, &[annotations, &[(Engine::Containerd.names().kind, "sandbox")]].concat())
    }

    fn sizes(r: &PodRequest) -> (u8, u64) {
        (r.vcpus.get(), r.memory.size().mib())
    }

    #[test]
    fn without_limits_the_node_decides() {
        let r = request(&NodeConfig::default(), &[]).unwrap();
        assert_eq!(sizes(&r), (1, 2048));
        assert_eq!((r.vcpus_from, r.memory_from), (SizeSource::NodeDefault, SizeSource::NodeDefault));
        assert!(r.ignored.is_empty() && !r.has_limits());
    }

    #[test]
    fn initdata_needs_no_leave_and_is_checked() {
        use measurement::initdata::{Algorithm, annotation, build};
        let document = build(Algorithm::Sha256, [("aa.toml".to_owned(), String::new())].into()).unwrap();
        let text = annotation::encode(&document).unwrap();
        let r = request(&NodeConfig::default(), &[(annotation::NAME, &text)]).unwrap();
        assert_eq!(r.initdata, Some(document));
        assert!(r.ignored.is_empty());
        for bad in ["", "H4sI*", "AAAA"] {
            let error = request(&NodeConfig::default(), &[(annotation::NAME, bad)]).unwrap_err().to_string();
            assert!(error.contains("cc_init_data"), "{error}");
        }
    }

    #[test]
    fn a_scratch_disk_is_asked_for_by_its_size_or_not_at_all() {
        let of = |value| request(&NodeConfig::default(), &[(ScratchSize::ANNOTATION, value)]);
        let asked = of("100Gi").unwrap();
        assert_eq!(asked.scratch.map(ScratchSize::mib), Some(102_400));
        assert!(asked.ignored.is_empty());
        assert_eq!(request(&NodeConfig::default(), &[]).unwrap().scratch, None);
        for bad in ["", "0", "100", "1Ki", "32Ti", "yes"] {
            let error = one_line(&of(bad).unwrap_err());
            assert!(error.contains(&format!("{bad:?}")) && error.contains("such as 100Gi"), "{error}");
        }
    }

    #[test]
    fn cri_sums_size_the_vm() {
        let pod = [(CRI_CPU_QUOTA, "250000"), (CRI_CPU_PERIOD, "100000"), (CRI_MEMORY, "1073741824")];
        let r = cri(&NodeConfig::default(), &pod).unwrap();
        assert_eq!(sizes(&r), (3, 1024 + 192));
        assert_eq!((r.vcpus_from, r.memory_from), (SizeSource::Limit, SizeSource::Limit));
        assert!(r.has_limits());
    }

    /// Of a pod with CPUs of its own kubelet's static CPU manager takes the quota away
    /// (`DisableCPUQuotaWithExclusiveCPUs`); its shares say how many they are.
    #[test]
    fn without_a_quota_the_shares_size_the_vm() {
        let of = |quota, shares| {
            let pod = [(CRI_CPU_QUOTA, quota), (CRI_CPU_PERIOD, "100000"), (CRI_CPU_SHARES, shares)];
            let r = cri(&NodeConfig::default(), &pod).unwrap();
            (r.vcpus.get(), r.vcpus_from)
        };
        assert_eq!(of("-1", "16384"), (16, SizeSource::Limit));
        assert_eq!(of("-1", "16896"), (17, SizeSource::Limit));
        assert_eq!(of("200000", "16384"), (2, SizeSource::Limit));
        for (quota, shares) in [("0", "16384"), ("0", "2"), ("-1", "0")] {
            assert_eq!(of(quota, shares), (1, SizeSource::NodeDefault), "{quota} {shares}");
        }
    }

    /// Of whole and of broken CPUs: so `coffer measure` need not know what kubelet's CPU manager does.
    #[test]
    fn the_shares_of_a_pod_with_cpus_of_its_own_say_what_its_quota_would() {
        for milli in 2..255_000u64 {
            let quota = i64::try_from(milli * 100).unwrap();
            let with = OciLimits { cpu_quota: Some(quota), ..OciLimits::default() };
            let shares = Some((milli * 1024 / 1000).max(2));
            let without = OciLimits { cpu_quota: Some(-1), cpu_shares: shares, ..OciLimits::default() };
            assert_eq!(with.vcpus(), without.vcpus(), "{milli}m");
        }
    }

    #[test]
    fn crios_sums_size_the_vm() {
        let of = |annotations: &[(&str, &str)]| {
            let pod: Vec<_> = [(CRIO, "sandbox")].iter().chain(annotations).copied().collect();
            request(&NodeConfig::default(), &pod)
        };
        let said = r#"{"cpu_period":100000,"cpu_quota":200000,"cpu_shares":2048,"memory_limit_in_bytes":3221225472,
            "hugepage_limits":[{"page_size":"2MB"}]}"#;
        for name in CRIO_RESOURCES {
            let r = of(&[(name, said)]).unwrap();
            assert_eq!(sizes(&r), (2, 3072 + 192), "{name}");
            assert_eq!((r.vcpus_from, r.memory_from), (SizeSource::Limit, SizeSource::Limit));
            let own = r#"{"cpu_period":100000,"cpu_quota":-1,"cpu_shares":16384}"#;
            assert_eq!(sizes(&of(&[(name, own)]).unwrap()), (16, 2048));
            for none in ["null", "{}", r#"{"cpu_shares":2,"cpu_quota":0}"#] {
                assert_eq!(sizes(&of(&[(name, none)]).unwrap()), (1, 2048), "{none}");
            }
            let error = of(&[(name, "two CPUs")]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("two CPUs"), "{error}");
        }
    }

    /// CRI-O hands on what it does not know: containerd's names, and under an old one the newer name.
    #[test]
    fn under_crio_a_pods_author_does_not_size_its_vm() {
        let [old, new] = CRIO_RESOURCES;
        let pod = [
            (CRIO, "sandbox"),
            (CRI_CPU_QUOTA, "6400000"),
            (CRI_MEMORY, "1099511627776"),
            (new, r#"{"cpu_quota":6400000}"#),
            (old, r#"{"cpu_quota":100000}"#),
        ];
        assert_eq!(sizes(&request(&NodeConfig::default(), &pod).unwrap()), (1, 2048));
        assert_eq!(sizes(&request(&NodeConfig::default(), &pod[..3]).unwrap()), (1, 2048));
    }

    #[test]
    fn zero_and_negative_mean_no_limit() {
        let pod = [(CRI_CPU_QUOTA, "-1"), (CRI_CPU_PERIOD, "0"), (CRI_MEMORY, "0")];
        assert_eq!(sizes(&cri(&NodeConfig::default(), &pod).unwrap()), (1, 2048));
    }

    #[test]
    fn missing_period_is_the_kernels() {
        let r = cri(&NodeConfig::default(), &[(CRI_CPU_QUOTA, "200001")]).unwrap();
        assert_eq!(r.vcpus.get(), 3);
    }

    #[test]
    fn a_plain_container_is_the_pod() {
        let limits = OciLimits {
            cpu_quota: Some(150_000),
            cpu_period: Some(100_000),
            memory_limit: Some(512 << 20),
            ..OciLimits::default()
        };
        let config = NodeConfig::default();
        let r = PodRequest::new(&config, "c1", [], limits).unwrap();
        assert_eq!(sizes(&r), (2, 704));
        // Through CRI the sandbox container's own limits are not the pod's.
        for engine in [Engine::Containerd, Engine::Crio] {
            let r = PodRequest::new(&config, "c1", [(engine.names().kind, "sandbox")], limits).unwrap();
            assert_eq!(sizes(&r), (1, 2048));
        }
    }

    /// CRI-O copies a pod's annotations, whoever's names they have.
    #[test]
    fn a_pod_of_crio_does_not_size_its_vm_by_containerds_names() {
        let kind = (Engine::Crio.names().kind, "sandbox");
        let forged = [kind, (CRI_CPU_QUOTA, "3200000"), (CRI_CPU_PERIOD, "1"), (CRI_MEMORY, "1099511627776")];
        let r = request(&NodeConfig::default(), &forged).unwrap();
        assert_eq!(sizes(&r), (1, 2048));
        assert!(!r.has_limits());
        let error = cri(&NodeConfig::default(), &[kind]).unwrap_err();
        assert_eq!(error, RequestError::Engines(TwoEngines));
        // Nor does a container that is no pod's: its limits are in its specification.
        assert_eq!(sizes(&request(&NodeConfig::default(), &forged[1..]).unwrap()), (1, 2048));
    }

    #[test]
    fn tiny_limit_still_gets_a_vm_that_boots() {
        let config = NodeConfig { overhead_memory_mib: MemorySize::ZERO, ..NodeConfig::default() };
        let r = cri(&config, &[(CRI_MEMORY, "1")]).unwrap();
        assert_eq!(r.memory.size(), VmMemory::MIN);
    }

    #[test]
    fn allowed_annotations_replace_the_defaults() {
        let r = request(&allowing(), &[(VCPUS, "4"), (MEMORY, "4096")]).unwrap();
        assert_eq!(sizes(&r), (4, 4096));
        assert_eq!((r.vcpus_from, r.memory_from), (SizeSource::Annotation, SizeSource::Annotation));
        assert!(r.ignored.is_empty());
    }

    #[test]
    fn a_limit_counts_more_than_an_annotation() {
        let pod = [(VCPUS, "4"), (MEMORY, "4096"), (CRI_CPU_QUOTA, "100000"), (CRI_MEMORY, "1048576")];
        let r = cri(&allowing(), &pod).unwrap();
        assert_eq!(sizes(&r), (1, 194));
        assert_eq!(r.ignored.len(), 2);
        assert!(r.ignored.iter().all(|i| i.reason == IgnoreReason::LimitDecides));
    }

    #[test]
    fn annotations_not_allowed_are_ignored_and_named() {
        let pod = [
            (VCPUS, "not even a number"),
            ("dev.coffer.turbo", "on"),
            ("io.katacontainers.config.hypervisor.kernel_params", "init=/bin/sh"),
            ("io.kubernetes.cri.sandbox-name", "web"),
        ];
        let r = request(&NodeConfig::default(), &pod).unwrap();
        assert_eq!(sizes(&r), (1, 2048));
        let ignored: Vec<_> = r.ignored.iter().map(|i| (i.name.as_str(), i.reason)).collect();
        assert_eq!(
            ignored,
            [
                ("dev.coffer.turbo", IgnoreReason::NotUnderstood),
                (VCPUS, IgnoreReason::NotAllowed),
                ("io.katacontainers.config.hypervisor.kernel_params", IgnoreReason::NotUnderstood),
            ]
        );
    }

    #[test]
    fn malformed_values_of_allowed_annotations_are_errors() {
        for bad in ["", "1.5", "-1", "4 GiB", "99999999999999999999"] {
            let error = request(&allowing(), &[(MEMORY, bad)]).unwrap_err();
            assert!(matches!(error, RequestError::Malformed { name: MEMORY, .. }), "{bad:?}");
        }
        let error = request(&allowing(), &[(VCPUS, "256")]).unwrap_err();
        assert!(matches!(error, RequestError::OutOfRange { origin: "annotation", .. }));
        let error = request(&allowing(), &[(VCPUS, "x")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "annotation io.katacontainers.config.hypervisor.default_vcpus is \"x\"; \
             it must be a whole number from 1 on"
        );
    }

    #[test]
    fn malformed_cri_values_are_errors() {
        let error = cri(&NodeConfig::default(), &[(CRI_MEMORY, "1Gi")]).unwrap_err();
        assert!(error.to_string().ends_with("it must be a whole number of bytes"));
    }

    #[test]
    fn bad_sandbox_id_is_an_error() {
        let error = PodRequest::new(&NodeConfig::default(), "a,b", [], OciLimits::default()).unwrap_err();
        assert!(matches!(error, RequestError::Name(_)));
    }

    proptest! {
        #[test]
        fn no_input_gives_less_cpu_or_memory_than_the_limit(quota in 1i64..25_500_000, memory in 1i64..1 << 43) {
            let limits = OciLimits { cpu_quota: Some(quota), memory_limit: Some(memory), ..OciLimits::default() };
            let r = PodRequest::new(&NodeConfig::default(), "p", [], limits).unwrap();
            prop_assert!(u64::from(r.vcpus.get()) * DEFAULT_PERIOD >= quota.unsigned_abs());
            prop_assert!(r.memory.size().bytes() >= memory.unsigned_abs());
        }

        #[test]
        fn arbitrary_values_never_panic(value in "\\PC{0,30}") {
            let pod = [(VCPUS, value.as_str()), (MEMORY, &value), (CRI_MEMORY, &value), (CRI_CPU_QUOTA, &value)];
            let _ = cri(&allowing(), &pod);
            let _ = request(&allowing(), &[(CRIO, "sandbox"), (CRIO_RESOURCES[0], &value)]);
        }
    }
}
