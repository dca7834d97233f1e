//! `coffer install` and `coffer uninstall` as an operator meets them: what is refused, in which words, and that nothing is
//! changed by it.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const MAIN: &str = "etc/containerd/config.toml";
const SHIM: &str = "bin/containerd-shim-coffer-v2";

/// A node, as far as files make it, and a bundle.
struct Node {
    dir: TempDir,
}

impl Node {
    fn new(files: &[(&str, &str)]) -> Self {
        let node = Self { dir: tempfile::tempdir().unwrap() };
        for directory in ["etc", "opt", "proc", "usr"] {
            fs::create_dir_all(node.at("root").join(directory)).unwrap();
        }
        files.iter().for_each(|(path, text)| write(&node.at("root").join(path), text.as_bytes()));
        node.bundle(b"#!/bin/sh\n");
        node
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A bundle with this shim.
    fn bundle(&self, shim: &[u8]) {
        let bundle = self.at("bundle");
        write(&bundle.join("VERSION"), b"1\n");
        write(&bundle.join(SHIM), shim);
        fs::set_permissions(bundle.join(SHIM), Permissions::from_mode(0o755)).unwrap();
        let sums = Command::new("sha256sum").args(["VERSION", SHIM]).current_dir(&bundle).output().unwrap();
        write(&bundle.join("SHA256SUMS"), &sums.stdout);
    }

    /// A containerd that reads the main file only. `chroot`, by which the node's programs are run, plays it.
    fn with_containerd(self) -> Self {
        write(&self.at("root/usr/bin/containerd"), b"");
        let chroot = format!(
            "#!/bin/sh\nshift\ncase \"$*\" in\n'containerd config default') echo 'version = 3' ;;\n\
             'containerd --version') echo 'containerd github.com/containerd/containerd/v2 2.1.9' ;;\n\
             'containerd --config /etc/containerd/config.toml config dump') cat '{}' ;;\n*) exit 1 ;;\nesac\n",
            self.at("root").join(MAIN).display()
        );
        write(&self.at("bin/chroot"), chroot.as_bytes());
        fs::set_permissions(self.at("bin/chroot"), Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn coffer(&self, verb: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
        command.env("PATH", format!("{}:/usr/bin:/bin", self.at("bin").display()));
        command.arg(verb).arg("--root").arg(self.at("root"));
        if verb == "install" {
            command.arg("--bundle").arg(self.at("bundle"));
        }
        command.output().unwrap()
    }

    fn tree(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut tree = BTreeMap::new();
        walk(&self.at("root"), &mut tree);
        tree
    }
}

fn write(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn walk(directory: &Path, tree: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tree.insert(path.clone(), Vec::new());
            walk(&path, tree);
        } else {
            tree.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
}

/// Fails with the word that docs/node.md explains, and changes nothing.
#[track_caller]
fn refused(node: &Node, verb: &str, code: &str, words: &[&str]) {
    let before = node.tree();
    let output = node.coffer(verb);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with(&format!("coffer: [{code}]: ")) && said.lines().count() == 1, "{said}");
    assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
    assert_eq!(node.tree(), before, "{said}");
}

#[test]
fn nodes_that_are_refused_are_told_why_and_stay_as_they_are() {
    refused(&Node::new(&[]), "install", "no-engine", &["install one of them first"]);
    refused(
        &Node::new(&[(MAIN, "version = [\n")]),
        "install",
        "syntax",
        &["/etc/containerd/config.toml", "does not parse"],
    );
    refused(&Node::new(&[(MAIN, "version = 7\n")]), "install", "schema", &["schema 7", "2, 3 and 4"]);
    // Its program is missing: what it reads is not known.
    refused(&Node::new(&[(MAIN, "version = 3\n")]), "install", "daemon", &["there is no program containerd"]);
    let both = [(MAIN, "version = 3\n"), ("etc/crio/crio.conf", "")];
    refused(&Node::new(&both), "install", "many-engines", &["--engine"]);
}

/// Each class is left out with its own reason, and what is wrong with the GPUs is said as well.
#[test]
fn a_node_without_kvm_iommu_and_qemu_is_told_all_of_it() {
    let node = Node::new(&[
        (MAIN, "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\nruntime_type = 'io.containerd.runc.v2'\n"),
        ("proc/cpuinfo", "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R)\nflags\t\t: vmx aes\n"),
    ])
    .with_containerd();
    for (name, text) in [
        ("vendor", "0x10de\n"),
        ("device", "0x2330\n"),
        ("class", "0x030200\n"),
        ("subsystem_device", "0x16c1\n"),
        ("resource", "0x0000380000000000 0x0000380000ffffff 0x000000000014220c\n"),
    ] {
        write(&node.at("root/sys/bus/pci/devices/0000:41:00.0").join(name), text.as_bytes());
    }
    let before = node.tree();
    let output = node.coffer("install");
    let (told, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{told}{said}");
    let line = |begin: &str| {
        told.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("{begin}: {told}{said}"))
    };
    assert!(line("coffer ").contains("left out: "), "{told}");
    // KVM's absence stops what is confidential; plain pods would be emulated.
    assert!(!line("coffer ").contains("KVM"), "{told}");
    for class in ["coffer-snp ", "coffer-tdx "] {
        assert!(line(class).contains("left out: KVM: /dev/kvm "), "{told}");
    }
    assert_eq!(
        line("GPUs "),
        "GPUs         not ready: GPUs: IOMMU: the kernel uses no IOMMU; switch on VT-d in the firmware's setup, and boot with intel_iommu=on"
    );
    assert!(said.starts_with("coffer: [nothing-to-register]: ") && said.lines().count() == 1, "{said}");
    assert_eq!(node.tree(), before, "{told}{said}");
}

#[test]
fn a_bundle_that_is_not_the_one_that_was_made_is_refused() {
    let node = Node::new(&[(MAIN, "version = 3\n")]);
    write(&node.at("bundle").join(SHIM), b"#!/bin/sh\nexit 1\n");
    refused(&node, "install", "checksum", &[SHIM, "get the bundle again"]);
    let machine = if cfg!(target_arch = "aarch64") { 62 } else { 183 };
    node.bundle(&[&[0x7f, b'E', b'L', b'F', 2, 1, 1][..], &[0; 11], &[machine, 0, 0, 0]].concat());
    refused(&node, "install", "architecture", &[SHIM, "this node is"]);
    fs::remove_file(node.at("bundle/SHA256SUMS")).unwrap();
    refused(&node, "install", "bundle", &["SHA256SUMS"]);
}

#[test]
fn while_one_installer_works_no_other_does() {
    let node = Node::new(&[(MAIN, "version = 3\n")]);
    let lock = node.at("root/var/lib/coffer/install/lock");
    write(&lock, b"process 7 of worker-1");
    let other = File::open(&lock).unwrap();
    other.try_lock().unwrap();
    for verb in ["install", "uninstall"] {
        refused(&node, verb, "locked", &["process 7 of worker-1", "wait for it"]);
    }
    drop(other);
    // What everybody can open, anybody may have locked.
    let stranger = File::open(node.at("root/etc")).unwrap();
    stranger.try_lock().unwrap();
    let output = node.coffer("uninstall");
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("not installed"));
}
