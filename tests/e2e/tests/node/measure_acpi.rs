//! `coffer measure acpi` with the real QEMU and our TDX firmware, and RTMR0 of a pod from what it writes.

#![expect(clippy::unwrap_used, reason = "what a helper of a test cannot do fails the test")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use e2e::{Artefacts, workspace};
use serde_json::Value;

fn coffer(args: &[&str]) -> Output {
    Command::new(Artefacts::coffer()).args(args).output().unwrap()
}

/// The options that name a node with our firmware and the development image.
struct Node {
    dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let firmware = workspace().join("build/firmware-tdx/OVMF.fd");
        assert!(firmware.is_file(), "{} is not there: run guest-image/build firmware", firmware.display());
        let image = Artefacts::find().image.canonicalize().unwrap();
        let text = format!(
            "tee = \"tdx\"\nallow_debug_image = true\nimage = {:?}\nfirmware = {:?}\n",
            image.display().to_string(),
            firmware.display().to_string()
        );
        fs::write(dir.path().join("node.toml"), text).unwrap();
        Self { dir }
    }

    fn at(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// A pod with these limits: the tables that the command writes into the directory.
    fn tables(&self, limits: &str, directory: &str) -> Output {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nspec: {{containers: [{{name: c, resources: {{limits: {limits}}}}}]}}\n"
        );
        fs::write(self.dir.path().join("pod.yaml"), pod).unwrap();
        let (pod, config, directory) = (self.at("pod.yaml"), self.at("node.toml"), self.at(directory));
        coffer(&[
            "measure",
            "acpi",
            &pod,
            "--class",
            "coffer-tdx",
            "--config",
            &config,
            "--directory",
            &directory,
        ])
    }

    /// RTMR0 of the last pod.
    fn rtmr0(&self, directory: &str) -> String {
        let (pod, config, acpi) = (self.at("pod.yaml"), self.at("node.toml"), self.at(directory));
        let args = ["measure", "--pod", &pod, "--class", "coffer-tdx", "--config", &config, "--acpi", &acpi];
        let output = coffer(&[&args[..], &["-o", "json"]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
        printed["measurement"]["rtmr0"].as_str().unwrap().to_owned()
    }
}

/// CPUs that the MADT lists (ACPI 6.5, 5.2.12): local APICs, 44 bytes behind the table's start.
fn cpus(directory: &Path) -> usize {
    let tables = fs::read(directory.join("etc/acpi/tables")).unwrap();
    let madt = tables.windows(4).position(|word| word == b"APIC").unwrap();
    let length = u32::from_le_bytes(tables[madt + 4..madt + 8].try_into().unwrap()) as usize;
    let (mut at, mut found) = (madt + 44, 0);
    while at < madt + length {
        found += usize::from(tables[at] == 0);
        at += usize::from(tables[at + 1]);
    }
    found
}

#[test]
fn rtmr0_of_a_pod_from_a_run_of_its_vm() {
    let node = Node::new();
    let mut values = Vec::new();
    for (limits, vcpus, directory) in [
        ("{cpu: 1, memory: 512Mi}", 1, "a"),
        ("{cpu: 1, memory: 512Mi}", 1, "b"),
        ("{cpu: 3, memory: 512Mi}", 3, "c"),
        // More than this machine has: it is not touched.
        ("{cpu: 1, memory: 256Gi}", 1, "d"),
    ] {
        let output = node.tables(limits, directory);
        assert!(output.status.success(), "{limits}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("etc/table-loader ("), "{limits}");
        assert_eq!(cpus(&node.dir.path().join(directory)), vcpus, "{limits}");
        values.push(node.rtmr0(directory));
    }
    assert_eq!(values[0], values[1], "the same VM twice");
    assert_ne!(values[0], values[2], "more vCPUs");
    assert_ne!(values[0], values[3], "more memory");
}

#[test]
fn what_has_no_tables_to_write_is_said() {
    let node = Node::new();
    let output = node.tables("{cpu: 1, nvidia.com/pgpu: 1}", "a");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && error.contains("has GPUs"), "{error}");
    fs::write(node.dir.path().join("node.toml"), {
        let text = fs::read_to_string(node.dir.path().join("node.toml")).unwrap();
        format!("{text}qemu = \"/bin/false\"\n")
    })
    .unwrap();
    let output = node.tables("{cpu: 1}", "a");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && error.contains("/bin/false"), "{error}");
    assert!(!Path::new(&node.at("a")).exists());
}
