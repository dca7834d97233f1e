//! What the installer's pod does: its own script with real kubectl against a part of Kubernetes' API, which allows what
//! deploy/base/rbac.yaml allows. The node behind nsenter is played.

#![allow(clippy::unwrap_used, reason = "all of it is tests")]

mod cluster;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use cluster::{Cluster, NODE};
use tempfile::TempDir;

const STATUS: &str =
    "instance     default\\nversion      1.0-abc\\nhandler      coffer\\nhandler      coffer-snp\\n";
const LABELS: [&str; 3] =
    ["coffer.internal/coffer", "coffer.internal/coffer-snp", "coffer.internal/coffer-tdx"];

/// Every call of the installer that asks for a right, in all that it does.
const CALLS: [(&str, &str); 5] = [
    ("create", "events"),
    ("get", "nodes"),
    ("get", "nodes/status"),
    ("patch", "nodes"),
    ("patch", "nodes/status"),
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The pod, beside a node that is played.
struct Pod {
    dir: TempDir,
}

impl Pod {
    /// `on_node` are words of a shell that stand for the node; they have what is to be run as `$*`.
    fn new(cluster: &Cluster, on_node: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for made in ["bin", "bundle", "run"] {
            fs::create_dir(dir.path().join(made)).unwrap();
        }
        fs::write(dir.path().join("bundle/VERSION"), "1\n").unwrap();
        let found = Command::new(repository().join("tools/kubectl")).output().unwrap();
        assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
        let kubectl = String::from_utf8(found.stdout).unwrap();
        let program = |name: &str, script: &str| {
            let path = dir.path().join("bin").join(name);
            fs::write(&path, format!("#!/bin/bash\n{script}\n")).unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        };
        // In a pod kubectl finds the server by itself.
        program("kubectl", &format!("exec {} --server={} \"$@\"", kubectl.trim(), cluster.address()));
        let log = cluster.log();
        program(
            "nsenter",
            &format!(
                "tr '\\n' ' ' <<<\"node: $*\" >>{0}; echo >>{0}\ncat >/dev/null\n{on_node}",
                log.display()
            ),
        );
        Self { dir }
    }

    fn run(&self, verb: &str) -> Output {
        let at = |name: &str| self.dir.path().join(name);
        Command::new(repository().join("deploy/image/coffer-node"))
            .arg(verb)
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", at("bin").display()))
            .env("NODE_NAME", NODE)
            .env("COFFER_BUNDLE", at("bundle"))
            .env("COFFER_RUN", at("run"))
            .env("COFFER_ONCE", "1")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn is_done(&self) -> bool {
        self.dir.path().join("run/done").exists()
    }
}

fn status_of(exit: u8) -> String {
    format!("case \"$*\" in *status*) printf '{STATUS}'; exit {exit} ;; esac")
}

#[track_caller]
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn labels_go_first_and_come_last() {
    let cluster = Cluster::new();
    let pod = Pod::new(&cluster, &status_of(0));
    // As an earlier version has left it: a class that does not work any more.
    cluster.label(LABELS[2]);
    let output = pod.run("install");
    assert!(output.status.success() && pod.is_done(), "{}", said(&output));
    let told = cluster.told();
    let place = |word: &str| {
        told.iter().position(|line| line.contains(word)).unwrap_or_else(|| panic!("{word}: {told:?}"))
    };
    let (unlabelled, installed) = (place("patch nodes "), place("coffer\" install"));
    let (condition, labelled) = (place("patch nodes/status"), told.len() - 1);
    assert!(unlabelled < installed && installed < condition && condition < labelled, "{told:?}");
    assert!(told[labelled].starts_with("patch nodes ") && told[labelled].contains("true"), "{told:?}");
    assert_eq!(cluster.labels(), LABELS[..2]);
    let condition = cluster.condition();
    assert_eq!((condition.status.as_str(), condition.reason.as_deref()), ("True", Some("Installed")));
    assert_eq!(condition.message.unwrap(), "handlers coffer coffer-snp, version 1.0-abc");
    assert!(cluster.events().is_empty());
}

#[test]
fn the_rights_are_enough_and_no_more() {
    let cluster = Cluster::new();
    let mut used = Vec::new();
    for (verb, on_node, succeeds) in [
        ("install", status_of(0), true),
        ("install", "exit 1".to_owned(), false),
        ("uninstall", String::new(), true),
    ] {
        let output = Pod::new(&cluster, &on_node).run(verb);
        assert_eq!(output.status.success(), succeeds, "{verb}: {}", said(&output));
        assert!(!said(&output).contains("forbidden"), "{}", said(&output));
        used.extend(cluster.asked());
    }
    used.sort();
    used.dedup();
    let wanted: Vec<_> = CALLS.map(|(verb, what)| (verb.to_owned(), what.to_owned())).to_vec();
    assert_eq!(used, wanted, "what is called");
    assert_eq!(cluster.allowed(), wanted, "what deploy/base/rbac.yaml allows");
}

/// Without any one of its rights it fails and says which.
#[test]
fn each_right_is_needed() {
    for (verb, what) in CALLS {
        let cluster = Cluster::without(verb, what);
        // An event is for a failure only.
        cluster.label(LABELS[2]);
        let on_node = if what == "events" { "exit 1".to_owned() } else { status_of(0) };
        let output = Pod::new(&cluster, &on_node).run("install");
        let text = said(&output);
        assert!(!output.status.success() && text.contains("(Forbidden)"), "{verb} {what}: {text}");
        assert!(text.contains(&format!("cannot {verb} resource \"{what}\"")), "{verb} {what}: {text}");
        assert!(!cluster.labels().contains(&LABELS[0].to_owned()), "{verb} {what}");
    }
}

#[test]
fn without_the_api_server_the_node_is_not_touched() {
    let cluster = Cluster::away();
    for verb in ["install", "uninstall"] {
        let pod = Pod::new(&cluster, &status_of(0));
        let output = pod.run(verb);
        assert!(!output.status.success() && said(&output).contains("refused"), "{}", said(&output));
        assert!(!pod.is_done() && cluster.told().is_empty(), "{:?}", cluster.told());
    }
}

#[test]
fn a_failure_on_the_node_is_a_condition_and_an_event_and_no_label() {
    let cluster = Cluster::new();
    let pod = Pod::new(&cluster, "echo 'coffer: [no-engine]: there is no \"configuration\"' >&2; exit 1");
    assert!(!pod.run("install").status.success() && !pod.is_done());
    let condition = cluster.condition();
    let message = "coffer: [no-engine]: there is no \"configuration\"";
    assert_eq!((condition.status.as_str(), condition.message.as_deref()), ("False", Some(message)));
    let events = cluster.events();
    let event = &events[0];
    assert_eq!(
        (events.len(), event.message.as_deref(), event.type_.as_deref()),
        (1, Some(message), Some("Warning"))
    );
    assert_eq!(event.involved_object.name.as_deref(), Some(NODE));
    assert_eq!(event.involved_object.kind.as_deref(), Some("Node"));
    assert!(cluster.labels().is_empty());
}

/// Whatever the node says is one JSON string of a length that Kubernetes takes.
#[test]
fn a_node_that_says_strange_things_is_quoted() {
    let cluster = Cluster::new();
    let pod = Pod::new(&cluster, "printf 'a\\\\b\"c\\td\\001\\xff%01500d\\n' 7 >&2; exit 1");
    assert!(!pod.run("install").status.success());
    let message = cluster.condition().message.unwrap();
    assert!(message.starts_with("a\\b\"c d") && message.len() <= 1024, "{message}");
    assert_eq!(cluster.events().len(), 1);
}

#[test]
fn a_node_that_is_not_whole_gets_no_label() {
    let cluster = Cluster::new();
    assert!(!Pod::new(&cluster, &status_of(3)).run("install").status.success());
    assert!(cluster.labels().is_empty() && cluster.condition().status == "False");
}

#[test]
fn an_uninstallation_takes_the_labels_first() {
    let cluster = Cluster::new();
    LABELS.iter().for_each(|label| cluster.label(label));
    let pod = Pod::new(&cluster, "");
    let output = pod.run("uninstall");
    assert!(output.status.success() && pod.is_done(), "{}", said(&output));
    let told = cluster.told();
    let place = |word: &str| told.iter().position(|line| line.contains(word)).unwrap();
    assert!(place("patch nodes ") < place("coffer uninstall --wait 3600"), "{told:?}");
    assert!(cluster.labels().is_empty());
    assert_eq!(cluster.condition().reason.as_deref(), Some("Uninstalled"));
}
