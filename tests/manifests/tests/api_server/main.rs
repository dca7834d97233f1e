//! deploy/ and examples/ on a real API server, which tools/test-api builds: they are accepted, RuntimeClasses change pods as
//! they are meant to, and the installer's rights are enough and no more.

#![allow(clippy::unwrap_used, reason = "all of it is tests")]

#[path = "../node_pod/installer.rs"]
mod installer;
mod server;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use installer::{CALLS, LABELS, NODE, Pod, repository, said, status_of};
use server::Server;

/// The account of the installer's pod.
const ACCOUNT: &str = "/api/v1/namespaces/coffer-system/serviceaccounts/coffer-node";
/// Each class, with the resources that it adds to a pod.
const CLASSES: [&str; 3] = ["coffer", "coffer-snp", "coffer-tdx"];

#[test]
fn a_real_api_server_agrees() {
    let server = Server::start();
    println!("{}", server.admin(&["version"]));
    manifests_apply(&server);
    classes_are_merged_into_pods(&server);
    let token = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": { "audiences": null } });
    let token = server.post(None, &format!("{ACCOUNT}/token"), &token);
    let token = token["status"]["token"].as_str().unwrap();
    server.created(&json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": NODE } })).unwrap();
    the_rights_are_no_more(&server, token);
    the_rights_are_enough(&server, token);
    each_right_is_needed(&server, token);
}

/// Applied twice, the second time changes nothing.
fn manifests_apply(server: &Server) {
    let at = |path: &str| repository().join(path).display().to_string();
    for directory in
        ["deploy/base", "deploy/overlays/gpu-operator", "deploy/overlays/nfd", "deploy/uninstall"]
    {
        server.admin(&["apply", "--kustomize", &at(directory)]);
        let again = server.admin(&["apply", "--kustomize", &at(directory)]);
        assert!(
            again.lines().count() > 0 && again.lines().all(|line| line.ends_with(" unchanged")),
            "{again}"
        );
        println!("{directory}: {} objects", again.lines().count());
    }
    // The overlays have changed the classes.
    server.admin(&["apply", "--kustomize", &at("deploy/base")]);
    server.admin(&["apply", "--filename", &at("examples/pod.yaml")]);
}

fn pod(name: &str, class: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "default" },
        "spec": { "runtimeClassName": class, "containers": [{ "name": "main", "image": "registry.example.com/app" }] },
    })
}

fn classes_are_merged_into_pods(server: &Server) {
    for class in CLASSES {
        let of_class = server.object(&["runtimeclass", class]);
        server.created(&pod(class, class)).unwrap();
        let spec = &server.object(&["pod", class])["spec"];
        let overhead = &of_class["overhead"]["podFixed"];
        assert!(overhead["memory"] == "384Mi" && spec["overhead"] == *overhead, "{spec}");
        let selector = json!({ format!("coffer.internal/{class}"): "true" });
        assert_eq!(
            (&spec["nodeSelector"], &of_class["scheduling"]["nodeSelector"]),
            (&selector, &selector),
            "{class}"
        );
    }
    let mut other = pod("other", "coffer");
    other["spec"]["nodeSelector"] = json!({ "coffer.internal/coffer": "false" });
    let refused = server.created(&other).unwrap_err();
    assert!(refused.contains("coffer.internal/coffer"), "{refused}");
    let mut cheap = pod("cheap", "coffer");
    cheap["spec"]["overhead"] = json!({ "memory": "1Mi" });
    let refused = server.created(&cheap).unwrap_err();
    assert!(refused.contains("Overhead"), "{refused}");
    let refused = server.created(&pod("unknown", "coffer-sgx")).unwrap_err();
    assert!(refused.contains("coffer-sgx"), "{refused}");
}

/// Verb and resource of all that the account may do in a namespace, beside what everybody may who has logged in.
fn allowed(server: &Server, token: &str, namespace: &str) -> BTreeSet<(String, String)> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": { "namespace": namespace },
    });
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let answer = server.post(Some(token), path, &review);
    assert_eq!(answer["status"]["incomplete"], false, "{answer}");
    let words = |rule: &Value, of: &str| -> Vec<String> {
        let list = rule[of].as_array().cloned().unwrap_or_default();
        list.iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    let rules = answer["status"]["resourceRules"].as_array().unwrap();
    let ours = rules.iter().filter(|rule| words(rule, "apiGroups") != ["authorization.k8s.io"]);
    let pairs = ours.flat_map(|rule| {
        assert_eq!(words(rule, "apiGroups"), [""], "{rule}");
        let resources = words(rule, "resources");
        let of = move |verb: String| resources.clone().into_iter().map(move |what| (verb.clone(), what));
        words(rule, "verbs").into_iter().flat_map(of)
    });
    pairs.collect()
}

fn the_rights_are_no_more(server: &Server, token: &str) {
    let calls = CALLS.map(|(verb, what)| (verb.to_owned(), what.to_owned()));
    assert_eq!(allowed(server, token, "default"), BTreeSet::from(calls.clone()));
    let elsewhere: BTreeSet<_> = calls.into_iter().filter(|(_, what)| what != "events").collect();
    for namespace in ["coffer-system", "kube-system"] {
        assert_eq!(allowed(server, token, namespace), elsewhere, "{namespace}");
    }
}

/// The installer's pod, beside a node that is played, with its account's rights.
fn installer(server: &Server, token: &str, on_node: &str) -> Pod {
    Pod::new(&server.options(token), &server.path().join("node.log"), on_node)
}

/// The labels of ours, and the condition's status and message.
fn node(server: &Server) -> (Vec<String>, String, String) {
    let node = server.object(&["node", NODE]);
    let labels = node["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    let ours = labels.keys().filter(|label| label.starts_with("coffer")).cloned().collect();
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let condition = conditions.iter().find(|one| one["type"] == "CofferReady").unwrap_or(&Value::Null);
    let word = |of: &str| condition[of].as_str().unwrap_or_default().to_owned();
    (ours, word("status"), word("message"))
}

fn the_rights_are_enough(server: &Server, token: &str) {
    let failing = installer(server, token, "echo 'coffer: [no-engine]: none' >&2; exit 1");
    assert!(!failing.run("install").status.success());
    let failed = "coffer: [no-engine]: none".to_owned();
    assert_eq!(node(server), (vec![], "False".to_owned(), failed.clone()));
    let events =
        server.object(&["events", "--namespace=default", "--field-selector=involvedObject.kind=Node"]);
    let events = events["items"].as_array().unwrap();
    assert_eq!((events.len(), &events[0]["message"]), (1, &json!(failed)), "{events:?}");

    let pod = installer(server, token, &status_of(0));
    let output = pod.run("install");
    assert!(output.status.success() && pod.is_done(), "{}", said(&output));
    let message = "handlers coffer coffer-snp, version 1.0-abc".to_owned();
    assert_eq!(
        node(server),
        (LABELS[..2].iter().map(|l| (*l).to_owned()).collect(), "True".to_owned(), message)
    );

    let output = installer(server, token, "").run("uninstall");
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(node(server), (vec![], "False".to_owned(), "Coffer is not installed".to_owned()));
}

/// Without any one of its rights it fails and says which.
fn each_right_is_needed(server: &Server, token: &str) {
    for (verb, what) in CALLS {
        let kind = if what == "events" { "role" } else { "clusterrole" };
        let whole = server.object(&[kind, "coffer-node", "--namespace=default"]);
        let mut rules = whole["rules"].clone();
        rules.as_array_mut().unwrap().retain_mut(|rule| {
            if rule["resources"] != json!([what]) {
                return true;
            }
            let verbs = rule["verbs"].as_array_mut().unwrap();
            verbs.retain(|other| other != verb);
            // A rule without a verb is none.
            !verbs.is_empty()
        });
        let set = |rules: &Value| {
            let patch = json!({ "rules": rules }).to_string();
            server.admin(&[
                "patch",
                kind,
                "coffer-node",
                "--namespace=default",
                "--type=merge",
                "--patch",
                &patch,
            ]);
        };
        set(&rules);
        let on_node = if what == "events" { "exit 1".to_owned() } else { status_of(0) };
        let refused = refusal(server, token, &on_node);
        assert!(refused.contains(&format!("cannot {verb} resource \"{what}\"")), "{verb} {what}: {refused}");
        assert!(!node(server).0.contains(&LABELS[0].to_owned()), "{verb} {what}");
        set(&whole["rules"]);
        println!("without {verb} {what}: {}", refused.lines().last().unwrap_or_default());
    }
}

/// What the installer says when it fails. Its authorizer hears of a change a moment later.
fn refusal(server: &Server, token: &str, on_node: &str) -> String {
    for _ in 0..20 {
        let output = installer(server, token, on_node).run("install");
        let text = said(&output);
        if !output.status.success() && text.contains("(Forbidden)") {
            return text;
        }
        installer(server, token, "").run("uninstall");
    }
    panic!("it is not refused");
}
