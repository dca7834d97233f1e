//! `coffer measure explain`: reports that differ from the pod's in one thing, each of which it must name.
//!
//! The measurements are made by `coffer measure` for another VM; the search is not asked.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]

#[path = "../../crates/measurement/tests/image/mod.rs"]
mod image;
#[path = "../../crates/measurement/tests/volume/mod.rs"]
mod volume;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use image::Image;
use measurement::initdata::{Algorithm, InitData, annotation, build};
use serde_json::{Value, json};

const KERNEL: &[u8] = include_bytes!("../../crates/measurement/tests/data/kernel.efi");

/// A pod and its node, in a directory.
struct Scene {
    dir: tempfile::TempDir,
    tee: &'static str,
}

impl Scene {
    fn new(tee: &'static str) -> Self {
        let scene = Self { dir: tempfile::tempdir().unwrap(), tee };
        let inteltdx = || Image { volumes: volume::section(&volume::PREDICTED), ..Image::inteltdx() };
        let mut firmware = if tee == "snp" { Image::amdsev() } else { inteltdx() }.build();
        scene.write("firmware", &firmware);
        firmware[0x5000] ^= 1;
        scene.write("other-firmware", &firmware);
        scene.image("image", "quiet", "ab", 0);
        // Code that nobody runs, another root, another word.
        scene.image("other-image", "quiet", "ee", 1);
        scene.image("loud-image", "", "ab", 0);
        scene.image("kernel-image", "quiet", "ab", 1);
        scene.config("c.toml", "firmware", "");
        scene.pod("pod.yaml", 4, "4Gi", Some(&document("package agent_policy\n")));
        scene
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.at(name), content).unwrap();
    }

    fn image(&self, name: &str, word: &str, root: &str, code: u8) {
        fs::create_dir(self.at(name)).unwrap();
        let mut kernel = KERNEL.to_vec();
        *kernel.last_mut().unwrap() ^= code;
        let (hash, salt) = (root.repeat(32), "cd".repeat(32));
        let json = json!({
            "format": 1, "name": name, "profile": "release", "agent": "kata", "agent_sha256": "00".repeat(32),
            "kernel": { "file": "vmlinuz", "sha256": measurement::Sha256Digest::of(&kernel).to_string(), "release": "7" },
            "root": { "file": "root.img", "sha256": "00".repeat(32), "verity": {
                "algorithm": "sha256", "block_size": 4096, "data_blocks": 100, "hash_start_block": 100,
                "salt": salt, "root_hash": hash } },
            "cmdline": format!("console=null{} panic=-1 root=/dev/dm-0 rootfstype=erofs ro dm-mod.create=\"coffer-root,,,ro,0 800 \
                verity 1 /dev/vda /dev/vda 4096 4096 100 100 sha256 {hash} {salt} 1 panic_on_corruption\"",
                if word.is_empty() { String::new() } else { format!(" {word}") }),
            "packages": {},
        });
        self.write(&format!("{name}/image.json"), json.to_string().as_bytes());
        self.write(&format!("{name}/vmlinuz"), &kernel);
    }

    fn config(&self, name: &str, firmware: &str, more: &str) {
        let at = self.dir.path().display();
        let text =
            format!("tee = \"{}\"\nimage = \"{at}/image\"\nfirmware = \"{at}/{firmware}\"\n{more}", self.tee);
        self.write(name, text.as_bytes());
    }

    fn pod(&self, name: &str, cpus: u32, memory: &str, initdata: Option<&InitData>) {
        let annotations = initdata.map_or_else(String::new, |document| {
            format!("  annotations:\n    {}: {:?}\n", annotation::NAME, annotation::encode(document).unwrap())
        });
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n{annotations}spec:\n  containers:\n  - {{name: c, image: i, resources: \
             {{limits: {{cpu: {cpus}, memory: {memory}}}}}}}\n"
        );
        self.write(name, text.as_bytes());
    }

    /// What the command prints, and whether it was content.
    fn coffer(&self, words: &[&str]) -> (bool, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
        let output = command.args(words).current_dir(self.dir.path()).output().unwrap();
        let text = [&output.stdout[..], &output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    }

    /// A VM's measurements.
    fn measured(&self, pod: &str, config: &str, more: &[&str]) -> Value {
        let class = format!("coffer-{}", self.tee);
        let words = ["measure", "--class", &class, "-o", "json", "--pod", pod, "--config", config];
        let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
        let output = command.args(words).args(more).current_dir(self.dir.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A report of SNP, or a token of TDX, over these measurements.
    fn report(&self, measured: &Value, change: impl Fn(&mut Vec<u8>, &mut Value)) {
        let initdata = measured["initdata"].as_object().unwrap().values().find_map(Value::as_str).unwrap();
        let mut bytes = vec![0; 1184];
        let mut token = Value::Null;
        if self.tee == "snp" {
            bytes[0] = 3;
            bytes[8..16].copy_from_slice(&0x30000_u64.to_le_bytes());
            bytes[0x90..0xc0]
                .copy_from_slice(&digits(measured["measurement"]["launch_digest"].as_str().unwrap()));
            bytes[0xc0..0xe0].copy_from_slice(&digits(initdata));
        } else {
            let mut body = json!({ "td_attributes": "0000001000000000" });
            for (ours, theirs) in
                [("mrtd", "mr_td"), ("rtmr0", "rtmr_0"), ("rtmr1", "rtmr_1"), ("rtmr2", "rtmr_2")]
            {
                body[theirs] = measured["measurement"][ours].clone();
            }
            token = json!({ "submods": { "cpu0": { "ear.veraison.annotated-evidence": {
                "tdx": { "quote": { "body": body } }, "init_data": initdata,
            } } } });
        }
        change(&mut bytes, &mut token);
        let content = if token.is_null() { bytes } else { token.to_string().into_bytes() };
        self.write("report", &content);
    }

    fn explained(&self, more: &[&str]) -> (bool, String) {
        let class = format!("coffer-{}", self.tee);
        let words =
            ["measure", "explain", "report", "--pod", "pod.yaml", "--class", &class, "--config", "c.toml"];
        self.coffer(&[&words[..], more].concat())
    }

    /// The difference must be named.
    fn names(&self, words: &[&str], more: &[&str]) {
        let (content, said) = self.explained(more);
        assert!(!content, "{said}");
        for word in words {
            assert!(said.contains(word), "{word:?} is not in: {said}");
        }
    }
}

fn digits(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn document(policy: &str) -> InitData {
    build(Algorithm::Sha384, [("policy.rego".to_owned(), policy.to_owned())].into()).unwrap()
}

fn keep(_: &mut Vec<u8>, _: &mut Value) {}

#[test]
fn the_pods_own_report_is_as_it_should_be() {
    for tee in ["snp", "tdx"] {
        let scene = Scene::new(tee);
        scene.report(&scene.measured("pod.yaml", "c.toml", &[]), keep);
        let (content, said) = scene.explained(&[]);
        assert!(content && said.contains("as it should be") && !said.contains("instead"), "{said}");
    }
}

#[test]
fn what_differs_in_an_snp_guest_is_named() {
    let scene = Scene::new("snp");
    let own = document("package agent_policy\n");
    scene.pod("eight.yaml", 8, "4Gi", Some(&own));
    scene.pod("none.yaml", 4, "4Gi", None);
    let other = document("package agent_policy\n\ndefault AllowAll := true\n");
    scene.pod("other.yaml", 4, "4Gi", Some(&other));
    scene.write("other.toml", other.raw());
    scene.config("genoa.toml", "firmware", "snp_cpu = \"EPYC-Genoa\"\n");
    scene.config("firmware.toml", "other-firmware", "");

    scene.report(&scene.measured("eight.yaml", "c.toml", &[]), keep);
    scene.names(&["launch_digest  this is your pod with 8 vCPUs instead of 4"], &[]);
    scene.report(&scene.measured("pod.yaml", "genoa.toml", &[]), keep);
    scene.names(&["with the CPU model EPYC-Genoa", "instead of EPYC-Milan-v2"], &[]);
    scene.report(&scene.measured("eight.yaml", "genoa.toml", &[]), keep);
    scene.names(&["with 8 vCPUs instead of 4, and with the CPU model EPYC-Genoa"], &[]);
    scene.report(&scene.measured("pod.yaml", "c.toml", &["--image", "other-image"]), keep);
    scene.names(&["with the guest image other-image"], &["--other-image", "other-image"]);
    scene.names(&["none of those that were tried", "--other-image"], &[]);
    scene.report(&scene.measured("pod.yaml", "firmware.toml", &[]), keep);
    scene.names(&["with the firmware other-firmware"], &["--other-firmware", "other-firmware"]);
    scene.report(&scene.measured("pod.yaml", "c.toml", &["--image", "loud-image"]), keep);
    scene.names(&["without `quiet` on the kernel's command line"], &[]);
    scene.report(&scene.measured("none.yaml", "c.toml", &[]), keep);
    scene.names(&["launch_digest  as it should be", "started without initdata"], &[]);
    scene.report(&scene.measured("other.yaml", "c.toml", &[]), keep);
    scene.names(&["with the initdata other.toml"], &["--other-initdata", "other.toml"]);
    scene.names(&["none of those that were tried", "--other-initdata"], &[]);
    scene.report(&scene.measured("pod.yaml", "c.toml", &[]), |report, _| report[10] |= 0x08);
    scene.names(&["policy", "it allows debugging"], &[]);
    // By the command for SNP alone.
    let image: Value = serde_json::from_slice(&fs::read(scene.at("image/image.json")).unwrap()).unwrap();
    let (line, mut measured) =
        (image["cmdline"].as_str().unwrap(), scene.measured("pod.yaml", "c.toml", &[]));
    let base = ["measure", "snp", "--firmware", "firmware", "--vcpus", "4", "--cpu", "EPYC-Milan-v2"];
    let kernel = ["--kernel", "image/vmlinuz", "--append", line];
    let mut snp = |words: &[&str]| {
        let (fine, digest) = scene.coffer(&[&base[..], words].concat());
        assert!(fine, "{digest}");
        measured["measurement"]["launch_digest"] = digest.trim().into();
        scene.report(&measured, keep);
    };
    snp(&[&kernel[..], &["--guest-features", "0x21"]].concat());
    scene.names(&["swapped debug registers (0x21)"], &[]);
    snp(&[]);
    scene.names(&["without a measured kernel"], &[]);
    let longer = format!("{line} console=ttyS0");
    snp(&["--kernel", "image/vmlinuz", "--append", &longer]);
    scene.names(&["with `console=ttyS0` added to the kernel's command line"], &[]);
}

#[test]
fn what_differs_in_a_tdx_guest_is_named() {
    let scene = Scene::new("tdx");
    scene.config("firmware.toml", "other-firmware", "");
    scene.report(&scene.measured("pod.yaml", "firmware.toml", &[]), keep);
    scene.names(&["mrtd", "with the firmware other-firmware"], &["--other-firmware", "other-firmware"]);
    scene.report(&scene.measured("pod.yaml", "c.toml", &["--image", "kernel-image"]), keep);
    scene.names(
        &["rtmr1", "with the kernel of the guest image kernel-image", "rtmr2       as it should be"],
        &["--other-image", "kernel-image"],
    );
    scene.report(&scene.measured("pod.yaml", "c.toml", &["--image", "loud-image"]), keep);
    scene.names(&["rtmr1       as it should be", "without `quiet`"], &[]);
    let attributes = |word: &'static str| {
        move |_: &mut Vec<u8>, token: &mut Value| {
            let evidence = &mut token["submods"]["cpu0"]["ear.veraison.annotated-evidence"];
            evidence["tdx"]["quote"]["body"]["td_attributes"] = word.into();
        }
    };
    scene.report(&scene.measured("pod.yaml", "c.toml", &[]), attributes("0000003000000000"));
    scene.names(&["set: MIGRATABLE"], &[]);
    scene.report(&scene.measured("pod.yaml", "c.toml", &[]), attributes("0000000000000000"));
    scene.names(&["not set: SEPT_VE_DISABLE"], &[]);
    let (content, said) = scene.explained(&["--class", "coffer-snp"]);
    assert!(!content, "{said}");
}

#[test]
fn what_is_no_report_is_named() {
    let scene = Scene::new("snp");
    scene.write("report", b"nothing");
    scene.names(&["report", "neither an SNP report"], &[]);
    let tdx = Scene::new("tdx");
    tdx.report(&tdx.measured("pod.yaml", "c.toml", &[]), keep);
    fs::copy(tdx.at("report"), scene.at("report")).unwrap();
    scene.names(&["another class of VM: coffer-tdx"], &[]);
    assert!(Path::new(&scene.at("report")).exists());
}

#[test]
fn two_images_and_two_firmwares_are_compared_part_by_part() {
    let scene = Scene::new("tdx");
    let diff = |one: &str, other: &str| scene.coffer(&["measure", "diff", one, other]);
    let (fine, said) = diff("image", "loud-image");
    assert!(
        fine && said.contains("cmdline quiet: there -> nothing") && !said.contains("kernel sha256"),
        "{said}"
    );
    let (fine, said) = diff("image", "kernel-image");
    assert!(fine && said.contains("kernel sha256: ") && !said.contains("cmdline"), "{said}");
    let (_, said) = diff("image", "other-image");
    assert!(said.contains("root verity root_hash: ") && said.contains("cmdline dm-mod.create: "), "{said}");
    assert_eq!(diff("image", "image"), (true, "nothing differs\n".to_owned()));
    let (fine, said) = diff("firmware", "other-firmware");
    assert!(fine && said.contains("MRTD: ") && said.contains("TDVF section 0 (BootVolume): "), "{said}");
    assert!(!said.contains("ConfigurationVolume") && !said.contains("size"), "{said}");
    let (fine, said) = diff("firmware", "image");
    assert!(!fine && said.contains("not of one kind"), "{said}");
}
