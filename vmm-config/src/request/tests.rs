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
