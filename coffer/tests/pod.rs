//! `coffer measure --pod` against what the shim computes: the same pods, once as manifests and once as the annotations
//! that containerd's CRI sends, written by hand.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]

#[path = "../../crates/measurement/tests/image/mod.rs"]
mod image;
#[path = "../../crates/measurement/tests/real/mod.rs"]
mod real;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use image::Image;
use measurement::initdata::{Algorithm, annotation, build};
use measurement::ovmf::{Acceptance, Firmware};
use real::Debian;
use serde_json::{Value, json};
use shared_types::{Cid, KvmTrial, Mac};
use vmm_config::config::NodeConfig;
use vmm_config::expect::{Expectation, expectation};
use vmm_config::image::ImageManifest;
use vmm_config::passthrough::HostDevices;
use vmm_config::plan::{HostFacts, NicFacts, VsockFacts, plan};
use vmm_config::request::{OciLimits, PodRequest};
use vmm_config::tee::{HostTee, SevAddressing};

/// Containers' limits as YAML, init containers first after `!`; then quota, memory as CRI sends them; then GPUs.
const SHAPES: [(&[&str], &str, &str, u64); 20] = [
    (&["{}"], "0", "0", 0),
    (&["{cpu: 1}"], "100000", "0", 0),
    (&["{cpu: 2, memory: 1Gi}"], "200000", "1073741824", 0),
    (&["{memory: 512Mi}"], "0", "536870912", 0),
    (&["{cpu: 500m}"], "50000", "0", 0),
    (&["{cpu: 1m}"], "1000", "0", 0),
    (&["{cpu: 1.5, memory: 1G}"], "150000", "1000000000", 0),
    (&["{cpu: \"4\", memory: 16Gi, nvidia.com/pgpu: 1}"], "400000", "17179869184", 1),
    (&["{cpu: 16, memory: 128Gi, nvidia.com/gpu: 8}"], "1600000", "137438953472", 8),
    (&["{cpu: 64, memory: 1Ti}"], "6400000", "1099511627776", 0),
    (&["{cpu: 1}", "{cpu: 2}"], "300000", "0", 0),
    (&["{cpu: 1}", "{}"], "100000", "0", 0),
    (&["{cpu: 250m}", "{cpu: 250m}", "{cpu: 501m}"], "100100", "0", 0),
    (&["!{cpu: 5}", "{cpu: 1}"], "500000", "0", 0),
    (&["!{memory: 4Gi}", "{cpu: 1, memory: 1Gi}"], "100000", "4294967296", 0),
    (&["!{cpu: 1}", "!{cpu: 3}", "{cpu: 2}", "{cpu: 2}"], "400000", "0", 0),
    (&["{nvidia.com/gpu: 1}", "{nvidia.com/gpu: 1}"], "0", "0", 2),
    (&["{nvidia.com/GH100_H100_SXM5_80GB: 4}"], "0", "0", 4),
    (&["{cpu: 1e1, memory: 1e10}"], "1000000", "10000000000", 0),
    (&["{cpu: 0, memory: 0}"], "0", "0", 0),
];

/// A kernel that both kinds of firmware start: an EFI program.
const KERNEL: &[u8] = include_bytes!("../../crates/measurement/tests/data/kernel.efi");

fn manifest(containers: &[&str], annotations: &[(&str, String)]) -> String {
    let list = |init: bool| -> String {
        let of = containers.iter().filter(|c| c.starts_with('!') == init);
        of.map(|c| format!("  - {{name: c, resources: {{limits: {}}}}}\n", c.trim_start_matches('!')))
            .collect()
    };
    let annotations: String =
        annotations.iter().map(|(name, text)| format!("    {name}: \"{text}\"\n")).collect();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  annotations:\n{annotations}spec:\n  initContainers:\n{}  containers:\n{}",
        list(true),
        list(false)
    )
}

/// A release image.
fn image(dir: &Path) -> ImageManifest {
    fs::write(dir.join("vmlinuz"), KERNEL).unwrap();
    let (hash, salt) = ("ab".repeat(32), "cd".repeat(32));
    let json = json!({
        "format": 1, "name": "test", "profile": "release", "agent": "kata", "agent_sha256": "00".repeat(32),
        "kernel": { "file": "vmlinuz", "sha256": measurement::Sha256Digest::of(KERNEL).to_string(), "release": "7" },
        "root": { "file": "root.img", "sha256": "00".repeat(32), "verity": {
            "algorithm": "sha256", "block_size": 4096, "data_blocks": 100, "hash_start_block": 100,
            "salt": salt, "root_hash": hash } },
        "cmdline": format!("console=null quiet panic=-1 root=/dev/dm-0 rootfstype=erofs ro dm-mod.create=\"coffer-root,,,ro,0 800 \
            verity 1 /dev/vda /dev/vda 4096 4096 100 100 sha256 {hash} {salt} 1 panic_on_corruption\""),
        "packages": {},
    });
    fs::write(dir.join("image.json"), json.to_string()).unwrap();
    ImageManifest::parse(json.to_string().as_bytes()).unwrap()
}

/// A TEE with a firmware, and the host that the shim finds: another than the command makes up, nothing of it may count.
struct Node {
    dir: tempfile::TempDir,
    tee: &'static str,
    config: NodeConfig,
    image: ImageManifest,
    firmware: Vec<u8>,
    host: HostFacts,
}

impl Node {
    fn new(tee: &'static str, firmware: Vec<u8>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = image(dir.path());
        fs::write(dir.path().join("firmware"), &firmware).unwrap();
        let at = dir.path().display();
        let text = format!("tee = \"{tee}\"\nimage = \"{at}\"\nfirmware = \"{at}/firmware\"\n");
        fs::write(dir.path().join("c.toml"), &text).unwrap();
        let nic = NicFacts {
            mac: Mac([2, 0, 0, 0, 0, 0x99]).try_into().unwrap(),
            mtu: 1450,
            queues: 2,
            vhost: false,
        };
        let host = HostFacts {
            kvm: KvmTrial::Works,
            vsock: VsockFacts::Vhost { cid: Cid::new(4711).unwrap() },
            nics: vec![nic, nic],
            memory_budget: None,
            tee: match tee {
                "snp" => HostTee::Snp(SevAddressing::from_cpuid(0x16f).unwrap()),
                _ => HostTee::Tdx,
            },
            firmware: Some(Firmware::parse(&firmware).unwrap().kind().unwrap()),
            acceptance: Acceptance::Unknown,
            passthrough: HostDevices::default(),
        };
        Self { config: NodeConfig::parse(&text, "c").unwrap(), dir, tee, image, firmware, host }
    }

    /// What the command prints of a pod.
    fn printed(&self, manifest: &str) -> Value {
        let at = |name: &str| self.dir.path().join(name);
        fs::write(at("pod.yaml"), manifest).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_coffer"))
            .args(["measure", "--class", &format!("coffer-{}", self.tee), "-o", "json", "--pod"])
            .arg(at("pod.yaml"))
            .arg("--config")
            .arg(at("c.toml"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{manifest}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The same pod where kubelet's static CPU manager gives it CPUs of its own, and so sends shares and no quota.
    fn compare_exclusive(&self, quota: &str, request: &PodRequest) {
        let shares = quota.parse::<u64>().unwrap() * 1024 / 100_000;
        let shares = shares.max(if quota == "0" { 0 } else { 2 }).to_string();
        let sent = [
            ("io.kubernetes.cri.container-type", "sandbox"),
            ("io.kubernetes.cri.sandbox-cpu-quota", "-1"),
            ("io.kubernetes.cri.sandbox-cpu-shares", &shares),
        ];
        let exclusive = PodRequest::new(&self.config, "0123", sent, OciLimits::default()).unwrap();
        assert_eq!(exclusive.vcpus, request.vcpus, "{quota}");
    }

    /// Holds what the command prints of each shape, with and without initdata, against what the shim computes; returns the
    /// different measurements.
    fn compare(&self) -> BTreeSet<String> {
        let data = [("policy.rego".to_owned(), "package agent_policy\n".to_owned())].into();
        let initdata = annotation::encode(&build(Algorithm::Sha384, data).unwrap()).unwrap();
        let mut measurements = BTreeSet::new();
        for (rank, (containers, quota, memory, gpus)) in SHAPES.into_iter().enumerate() {
            let annotations = if rank % 2 == 0 { vec![(annotation::NAME, initdata.clone())] } else { vec![] };
            let printed = self.printed(&manifest(containers, &annotations));
            let sent = [
                ("io.kubernetes.cri.container-type", "sandbox"),
                ("io.kubernetes.cri.sandbox-id", "0123"),
                ("io.kubernetes.cri.sandbox-cpu-period", "100000"),
                ("io.kubernetes.cri.sandbox-cpu-quota", quota),
                ("io.kubernetes.cri.sandbox-cpu-shares", "2"),
                ("io.kubernetes.cri.sandbox-memory", memory),
            ];
            let sent = sent.into_iter().chain(annotations.iter().map(|(name, text)| (*name, text.as_str())));
            let request = PodRequest::new(&self.config, "0123", sent, OciLimits::default()).unwrap();
            self.compare_exclusive(quota, &request);
            let spec = plan(&self.config, &self.image, &request, &self.host).unwrap();
            let expected = expectation(&spec, &self.firmware, KERNEL).unwrap().unwrap();
            let expected = match expected {
                Expectation::Snp { launch_digest } => json!({ "launch_digest": launch_digest.to_string() }),
                Expectation::Tdx { mrtd, rtmr1, rtmr2 } => json!({
                    "mrtd": mrtd.to_string(), "rtmr1": rtmr1.to_string(), "rtmr2": rtmr2.to_string(),
                }),
            };
            assert_eq!(printed["measurement"], expected, "{containers:?}");
            assert_eq!(printed["vcpus"], request.vcpus.get(), "{containers:?}");
            assert_eq!(printed["memory_bytes"], request.memory.size().bytes(), "{containers:?}");
            assert_eq!(printed["gpus"], gpus, "{containers:?}");
            self.compare_initdata(
                &printed["initdata"],
                &spec.qemu_args().join("\n"),
                !annotations.is_empty(),
            );
            measurements.insert(expected.to_string());
        }
        measurements
    }

    /// Whether QEMU gets for the report what the command prints, zeros being what it leaves out.
    fn compare_initdata(&self, printed: &Value, line: &str, present: bool) {
        let (name, bytes, option) = match self.tee {
            "snp" => ("host_data", 32, "host-data="),
            _ => ("mrconfigid", 48, "\"mrconfigid\":\""),
        };
        assert_eq!(printed["present"], present);
        let digits = printed[name].as_str().unwrap();
        assert_eq!(digits.len(), 2 * bytes);
        let binary: Vec<u8> =
            (0..bytes).map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap()).collect();
        assert_eq!(line.contains(&format!("{option}{}", BASE64_STANDARD.encode(&binary))), present, "{line}");
        assert_eq!(line.contains(option), present, "{line}");
        assert_eq!(binary.iter().all(|byte| *byte == 0), !present);
    }
}

#[test]
fn command_and_shim_agree_on_20_snp_pods() {
    let Some(firmware) = Debian::AmdSev.find() else { return };
    let digests = Node::new("snp", fs::read(firmware).unwrap()).compare();
    assert!(digests.len() >= 6, "the shapes differ in vCPUs, and so must the digests");
}

#[test]
fn command_and_shim_agree_on_20_tdx_pods() {
    let measurements = Node::new("tdx", Image::inteltdx().build()).compare();
    assert_eq!(measurements.len(), 1, "MRTD, RTMR1 and RTMR2 do not depend on the pod");
}

#[test]
fn what_stops_a_pod_is_said() {
    let dir = tempfile::tempdir().unwrap();
    image(dir.path());
    let at = |name: &str, content: &str| {
        fs::write(dir.path().join(name), content).unwrap();
        dir.path().join(name).display().to_string()
    };
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/pod.yaml");
    let tdx = at("tdx.toml", "tee = \"tdx\"\n");
    let plain = at("plain.toml", &format!("image = \"{}\"\n", dir.path().display()));
    let initdata = "apiVersion: v1\nkind: Pod\nmetadata: {annotations: \
        {io.katacontainers.config.hypervisor.cc_init_data: \"%\"}}\nspec: {containers: [{name: a}]}\n";
    let (initdata, cpu) = (at("initdata.yaml", initdata), at("cpu.yaml", &manifest(&["{cpu: many}"], &[])));
    for (pod, config, expected) in [
        (example, &tdx, "the configuration has tee = \"tdx\", and the class coffer-snp needs \"snp\""),
        (example, &plain, "the class coffer-snp needs a firmware made for it"),
        (cpu.as_str(), &plain, "spec.containers[0].resources.limits.cpu: \"many\""),
        (initdata.as_str(), &plain, "annotation io.katacontainers.config.hypervisor.cc_init_data"),
        ("/no/pod.yaml", &plain, "cannot read the pod's manifest /no/pod.yaml"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
        command.args(["measure", "pod", pod, "--class", "coffer-snp", "--config", config.as_str()]);
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && output.stdout.is_empty(), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}
