//! What the installer's pod does: its own script with real kubectl against a part of Kubernetes' API, which allows what
//! deploy/base/rbac.yaml allows. The node behind nsenter is played.

#![allow(clippy::unwrap_used, reason = "all of it is tests")]

mod cluster;
mod installer;

use cluster::Cluster;
use installer::{CALLS, LABELS, NODE, Pod, said, status_of};

/// The pod in a cluster that is played.
fn pod(cluster: &Cluster, on_node: &str) -> Pod {
    Pod::new(&format!("--server={}", cluster.address()), &cluster.log(), on_node)
}

#[test]
fn labels_go_first_and_come_last() {
    let cluster = Cluster::new();
    let pod = pod(&cluster, &status_of(0));
    // As an earlier version has left it: a class that does not work any more.
    cluster.label(LABELS[2]);
    let output = pod.run("install");
    assert!(output.status.success() && pod.is_done(), "{}", said(&output));
    let told = cluster.told();
    let place = |word: &str| {
        told.iter().position(|line| line.contains(word)).unwrap_or_else(|| panic!("{word}: {told:?}"))
    };
    let (unlabelled, installed) = (place("patch nodes "), place("coffer install"));
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
        let output = pod(&cluster, &on_node).run(verb);
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
        let output = pod(&cluster, &on_node).run("install");
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
        let pod = pod(&cluster, &status_of(0));
        let output = pod.run(verb);
        assert!(!output.status.success() && said(&output).contains("refused"), "{}", said(&output));
        assert!(!pod.is_done() && cluster.told().is_empty(), "{:?}", cluster.told());
    }
}

#[test]
fn a_failure_on_the_node_is_a_condition_and_an_event_and_no_label() {
    let cluster = Cluster::new();
    let pod = pod(&cluster, "echo 'coffer: [no-engine]: there is no \"configuration\"' >&2; exit 1");
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
    let pod = pod(&cluster, "printf 'a\\\\b\"c\\td\\001\\xff%01500d\\n' 7 >&2; exit 1");
    assert!(!pod.run("install").status.success());
    let message = cluster.condition().message.unwrap();
    assert!(message.starts_with("a\\b\"c d") && message.len() <= 1024, "{message}");
    assert_eq!(cluster.events().len(), 1);
}

#[test]
fn a_node_that_is_not_whole_gets_no_label() {
    let cluster = Cluster::new();
    assert!(!pod(&cluster, &status_of(3)).run("install").status.success());
    assert!(cluster.labels().is_empty() && cluster.condition().status == "False");
}

#[test]
fn an_uninstallation_takes_the_labels_first() {
    let cluster = Cluster::new();
    LABELS.iter().for_each(|label| cluster.label(label));
    // The node has no program of Coffer's, as after an uninstallation that was cut short: the bundle's own is run.
    let pod = pod(&cluster, "case \"$*\" in */opt/coffer/*) exit 1 ;; esac");
    let output = pod.run("uninstall");
    assert!(output.status.success() && pod.is_done(), "{}", said(&output));
    let told = cluster.told();
    let place = |word: &str| told.iter().position(|line| line.contains(word)).unwrap();
    assert!(place("patch nodes ") < place("coffer uninstall --wait 3600"), "{told:?}");
    assert!(cluster.labels().is_empty());
    assert_eq!(cluster.condition().reason.as_deref(), Some("Uninstalled"));
}
