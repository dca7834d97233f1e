//! `coffer install` on a node with real containerd: handlers, a pod, an upgrade under it, and the way back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use e2e::{Artefacts, BUSYBOX, BareNode, Cri, OrFail, PodRequest, Process, Victim, import_images, workspace};

/// What is installed.
fn bundle(version: &str) -> PathBuf {
    let directory = PathBuf::from(format!("/run/e2e/bundle-{version}"));
    let artefacts = Artefacts::with_gpus();
    let mut command = Command::new(workspace().join("tools/bundle"));
    command.args([&directory, &artefacts.image]).arg("-");
    command.env("COFFER_BUNDLE_VERSION", version);
    command.env("COFFER_BUNDLE_PROGRAMS", artefacts.shim.parent().or_fail("the programs' directory"));
    let output = command.output().or_fail("tools/bundle");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    directory
}

/// `overhead_memory_mib`: the guest's own part of the overhead, which is the VM's memory.
const GUEST: u64 = 192;

/// The RuntimeClasses' overhead, in MiB.
fn overhead() -> u64 {
    let text =
        fs::read_to_string(workspace().join("deploy/base/runtimeclasses.yaml")).or_fail("the RuntimeClasses");
    let found = text.lines().find_map(|line| line.trim().strip_prefix("memory: ")?.strip_suffix("Mi"));
    found.or_fail("an overhead").parse().or_fail("a number")
}

/// What a pod's processes on the node have beside the guest's memory, in MiB: all of their own, and their part of what is
/// shared. The guest's memory is of the kind that smaps calls Shmem.
fn own_memory() -> u64 {
    let processes =
        [Victim::Shim, Victim::Qemu, Victim::VsockDevice].into_iter().flat_map(|victim| victim.processes());
    let own =
        |process: Process| process.kib("smaps_rollup", "Pss_Anon") + process.kib("smaps_rollup", "Pss_File");
    processes.map(own).sum::<u64>() / 1024
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn install(node: &BareNode, bundle: &Path) -> String {
    let output = node.run(&bundle.join("bin/coffer"), &["install"]);
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

#[test]
fn a_pod_runs_by_what_was_installed_and_the_node_is_as_before_afterwards() {
    BareNode::test(2, async |node| {
        let (first, second) = (bundle("1.0"), bundle("2.0"));
        let coffer = first.join("bin/coffer");
        let before = node.tree();
        assert_eq!(node.run(&coffer, &["status"]).status.code(), Some(4));

        let told = install(node, &first);
        for words in [
            "engine       containerd 2.1",
            "coffer       registered",
            "coffer-snp   left out: ",
            "coffer-tdx   left out: ",
        ] {
            assert!(told.contains(words), "{told}");
        }
        let handlers = Cri::connect().await.handlers().await;
        for handler in ["coffer", "runc"] {
            assert!(handlers.iter().any(|found| found == handler), "{handlers:?}");
        }
        let installed = node.tree();
        let again = install(node, &first);
        assert!(!again.contains("restarted") && node.tree() == installed, "{again}");

        import_images().await;
        let mut pod = PodRequest::new(Cri::connect().await, "installed").start().await;
        let container = pod.run("web", BUSYBOX, &["sleep", "100000"], vec![]).await;
        assert_eq!(container.exec(&["echo", "here"]).await, "here\n");

        let (own, room) = (own_memory(), overhead() - GUEST);
        println!("QEMU, shim and vhost-device-vsock: {own} MiB of the RuntimeClass's {room} MiB");
        assert!(
            own <= room,
            "QEMU, shim and vhost-device-vsock have {own} MiB, and the RuntimeClass has {room} for them"
        );

        let refused = node.run(&coffer, &["uninstall"]);
        assert!(said(&refused).contains("[pods-run]: 1 pods"), "{}", said(&refused));
        let upgraded = install(node, &second);
        assert!(!upgraded.contains("removed"), "{upgraded}");
        assert_eq!(container.exec(&["echo", "still"]).await, "still\n", "its pod keeps the old version");
        let status = said(&node.run(&coffer, &["status"]));
        assert!(status.contains("version      2.0-") && status.contains("1 with version 1.0-"), "{status}");

        pod.remove().await;
        Victim::Shim.gone().await;
        assert!(install(node, &second).contains("removed      version 1.0-"));
        let gone = node.run(&second.join("bin/coffer"), &["uninstall"]);
        assert!(gone.status.success(), "{}", said(&gone));
        assert_eq!(node.tree().keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
        assert!(node.tree() == before, "a file has another content than before");
        let handlers = Cri::connect().await.handlers().await;
        assert!(
            !handlers.iter().any(|found| found == "coffer") && handlers.iter().any(|found| found == "runc")
        );
        for bundle in [first, second] {
            fs::remove_dir_all(bundle).or_fail("remove a bundle");
        }
        // What the shims keep between pods is no part of the installation.
        let _ = fs::remove_dir_all("/var/lib/coffer");
    });
}

#[test]
fn a_file_of_schema_3_keeps_its_runtimes() {
    BareNode::test(3, async |node| {
        let bundle = bundle("3.0");
        let before = node.tree();
        fs::create_dir_all("/var/lib/kubelet").or_fail("kubelet's directory");
        fs::write("/var/lib/kubelet/config.yaml", "kind: KubeletConfiguration\nruntimeRequestTimeout: 2m\n")
            .or_fail("kubelet's configuration");
        let told = install(node, &bundle);
        assert!(told.contains("kubelet      kubelet gives up on a pod's start after 120 s"), "{told}");
        fs::remove_file("/var/lib/kubelet/config.yaml").or_fail("kubelet's configuration");
        let handlers = Cri::connect().await.handlers().await;
        for handler in ["coffer", "runc", "other"] {
            assert!(handlers.iter().any(|found| found == handler), "{handlers:?}");
        }
        let gone = node.run(&bundle.join("bin/coffer"), &["uninstall"]);
        assert!(gone.status.success() && node.tree() == before, "{}", said(&gone));
        fs::remove_dir_all(bundle).or_fail("remove a bundle");
    });
}

/// README.md's "On a node" as it is typed, in another directory and with the rig's parts.
#[test]
fn the_readme_installs() {
    BareNode::test(2, async |node| {
        let (before, artefacts) = (node.tree(), Artefacts::with_gpus());
        let readme = fs::read_to_string(workspace().join("README.md")).or_fail("README.md");
        let section =
            readme.split("\n## ").find(|section| section.starts_with("On a node\n")).or_fail("the section");
        let block = section.split("```console\n").nth(1).or_fail("its commands");
        let typed = block
            .split("```")
            .next()
            .or_fail("its commands")
            .lines()
            .filter_map(|line| line.strip_prefix("# "));
        let mut told = String::new();
        for line in typed {
            let mut line = line.replace("build/bundle", "/run/e2e/bundle-readme");
            if line.starts_with("tools/bundle") {
                line += &format!(" {} -", artefacts.image.display());
            }
            let mut shell = Command::new("sh");
            shell.args(["-c", &line]).current_dir(workspace());
            shell.env("COFFER_BUNDLE_PROGRAMS", artefacts.shim.parent().or_fail("the programs' directory"));
            let output = shell.output().or_fail(&line);
            assert!(output.status.success(), "{line}: {}", said(&output));
            told += &said(&output);
        }
        for words in ["coffer       registered", "coffer-snp   left out: ", "handler      coffer\n"] {
            assert!(told.contains(words), "{words} is not in {told}");
        }
        assert!(Cri::connect().await.handlers().await.iter().any(|handler| handler == "coffer"));
        let gone = node.run(Path::new("/opt/coffer/current/bin/coffer"), &["uninstall"]);
        assert!(gone.status.success() && node.tree() == before, "{}", said(&gone));
        fs::remove_dir_all("/run/e2e/bundle-readme").or_fail("remove the bundle");
    });
}
