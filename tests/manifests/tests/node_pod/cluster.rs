//! The part of Kubernetes' API that kubectl needs for the installer's calls: discovery, a node with its status, events. What
//! is allowed is what deploy/base/rbac.yaml says. Paths and answers: Kubernetes API reference, "API Concepts".

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use k8s_openapi::api::core::v1::{Event, NodeCondition};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::installer::NODE;

/// The server. It serves until the test's end.
pub(crate) struct Cluster {
    address: SocketAddr,
    dir: TempDir,
    state: Arc<Mutex<State>>,
}

struct State {
    /// Of the whole cluster.
    rules: Vec<PolicyRule>,
    /// Of the namespace `default`.
    in_default: Vec<PolicyRule>,
    node: Value,
    events: Vec<Event>,
    /// Verb and resource of each call that asked for a right.
    asked: Vec<(String, String)>,
    /// Where each change is told, in turn with what is done on the node.
    log: PathBuf,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let (rules, in_default) = rules();
        Self::with(rules, in_default)
    }

    /// One whose installer lacks a right.
    pub(crate) fn without(verb: &str, what: &str) -> Self {
        let (mut rules, mut in_default) = rules();
        for rule in rules.iter_mut().chain(&mut in_default) {
            if rule.resources.iter().flatten().any(|resource| resource == what) {
                rule.verbs.retain(|other| other != verb);
            }
        }
        Self::with(rules, in_default)
    }

    /// One that does not answer.
    pub(crate) fn away() -> Self {
        let mut cluster = Self::new();
        // Nobody has this port any more.
        cluster.address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        cluster
    }

    fn with(rules: Vec<PolicyRule>, in_default: Vec<PolicyRule>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, dir) = (listener.local_addr().unwrap(), tempfile::tempdir().unwrap());
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": NODE, "labels": { "kubernetes.io/arch": "amd64" } },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        });
        let log = dir.path().join("log");
        let state = State { rules, in_default, node, events: vec![], asked: vec![], log };
        let state = Arc::new(Mutex::new(state));
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { address, dir, state }
    }

    pub(crate) fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// What was changed, here and on the node, in its order.
    pub(crate) fn told(&self) -> Vec<String> {
        fs::read_to_string(self.log()).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    pub(crate) fn asked(&self) -> Vec<(String, String)> {
        self.state.lock().unwrap().asked.clone()
    }

    /// Verbs and resources of all rules.
    pub(crate) fn allowed(&self) -> Vec<(String, String)> {
        let state = self.state.lock().unwrap();
        let mut all = Vec::new();
        for rule in state.rules.iter().chain(&state.in_default) {
            assert_eq!(rule.api_groups.as_deref(), Some(&[String::new()][..]), "the core's group only");
            for resource in rule.resources.iter().flatten() {
                all.extend(rule.verbs.iter().map(|verb| (verb.clone(), resource.clone())));
            }
        }
        all.sort();
        all
    }

    /// Sets a label, as somebody has before.
    pub(crate) fn label(&self, label: &str) {
        self.state.lock().unwrap().node["metadata"]["labels"][label] = json!("true");
    }

    /// The node's labels of ours.
    pub(crate) fn labels(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let labels = state.node["metadata"]["labels"].as_object().unwrap();
        let ours = labels.iter().filter(|(label, value)| label.starts_with("coffer") && **value == "true");
        ours.map(|(label, _)| label.clone()).collect()
    }

    /// The node's condition of ours.
    pub(crate) fn condition(&self) -> NodeCondition {
        let state = self.state.lock().unwrap();
        let conditions: Vec<NodeCondition> =
            serde_json::from_value(state.node["status"]["conditions"].clone()).unwrap();
        assert!(
            conditions.iter().any(|condition| condition.type_ == "Ready"),
            "somebody else's condition is lost"
        );
        conditions.into_iter().find(|condition| condition.type_ == "CofferReady").unwrap()
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.state.lock().unwrap().events.clone()
    }
}

/// The rules of the installer's roles: the cluster's, and those of the namespace `default`.
fn rules() -> (Vec<PolicyRule>, Vec<PolicyRule>) {
    let text = include_str!("../../../../deploy/base/rbac.yaml");
    let (mut everywhere, mut in_default) = (Vec::new(), Vec::new());
    for node in pod_manifest::yaml::documents(text) {
        let value: Value = node.unwrap().read().unwrap();
        match value["kind"].as_str().unwrap() {
            "ClusterRole" => {
                let role: ClusterRole = serde_json::from_value(value).unwrap();
                everywhere.extend(role.rules.unwrap_or_default());
            }
            "Role" => {
                let role: Role = serde_json::from_value(value).unwrap();
                assert_eq!(role.metadata.namespace.as_deref(), Some("default"));
                in_default.extend(role.rules.unwrap_or_default());
            }
            _ => {}
        }
    }
    (everywhere, in_default)
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        head.push(line.trim_end().to_owned());
    }
    let Some(first) = head.first() else { return };
    let header = |name: &str| {
        let of =
            |line: &String| line.split_once(": ").map(|(key, value)| (key.to_lowercase(), value.to_owned()));
        head.iter().filter_map(of).find(|(key, _)| key == name).map(|(_, value)| value)
    };
    let mut body = vec![0; header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    let words: Vec<&str> = first.split(' ').collect();
    let path = words[1].split('?').next().unwrap();
    let kind = header("content-type").unwrap_or_default();
    let (status, answer) = state.lock().unwrap().answer(words[0], path, &kind, &body);
    let answer = answer.to_string();
    let _ = write!(
        stream,
        "HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{answer}",
        answer.len()
    );
}

impl State {
    fn answer(&mut self, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, Value) {
        // Everybody who has logged in may ask what there is (the role system:discovery).
        match path {
            "/api" => return (200, json!({ "kind": "APIVersions", "versions": ["v1"] })),
            "/apis" => return (200, json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [] })),
            "/api/v1" => return (200, resources()),
            _ => {}
        }
        let verb = match method {
            "GET" => "get",
            "PATCH" => "patch",
            "POST" => "create",
            other => panic!("{other} {path}"),
        };
        let node = format!("/api/v1/nodes/{NODE}");
        let (what, rules) = match path {
            _ if path == node => ("nodes", &self.rules),
            _ if path == format!("{node}/status") => ("nodes/status", &self.rules),
            "/api/v1/namespaces/default/events" => ("events", &self.in_default),
            other => panic!("{method} {other}: the installer asks for more than this test knows"),
        };
        self.asked.push((verb.to_owned(), what.to_owned()));
        let has = |list: &[String], word: &str| list.iter().any(|one| one == word);
        let is_allowed = |rule: &PolicyRule| {
            has(rule.resources.as_deref().unwrap_or_default(), what) && has(&rule.verbs, verb)
        };
        if !rules.iter().any(is_allowed) {
            return (403, forbidden(verb, what));
        }
        if verb == "get" {
            return (200, self.node.clone());
        }
        let sent: Value = serde_json::from_slice(body).unwrap();
        let mut log = OpenOptions::new().append(true).create(true).open(&self.log).unwrap();
        writeln!(log, "{verb} {what} {sent}").unwrap();
        match what {
            "nodes" => {
                assert_eq!(kind, "application/merge-patch+json");
                json_patch::merge(&mut self.node, &sent);
                (200, self.node.clone())
            }
            "nodes/status" => {
                assert_eq!(kind, "application/strategic-merge-patch+json");
                let conditions = self.node["status"]["conditions"].as_array_mut().unwrap();
                for new in sent["status"]["conditions"].as_array().unwrap() {
                    // Their key is the type (`patchMergeKey` of NodeStatus).
                    conditions.retain(|old| old["type"] != new["type"]);
                    conditions.push(new.clone());
                }
                (200, self.node.clone())
            }
            _ => {
                let event: Event = serde_json::from_value(sent.clone()).unwrap();
                let typed = serde_json::to_value(&event).unwrap();
                for (key, value) in sent.as_object().unwrap() {
                    assert_eq!(&typed[key], value, "{key} is unknown to Kubernetes");
                }
                self.events.push(event);
                (201, sent)
            }
        }
    }
}

fn resources() -> Value {
    json!({ "kind": "APIResourceList", "groupVersion": "v1", "resources": [
        { "name": "nodes", "singularName": "node", "namespaced": false, "kind": "Node", "verbs": ["get", "patch"] },
        { "name": "nodes/status", "singularName": "", "namespaced": false, "kind": "Node", "verbs": ["get", "patch"] },
        { "name": "events", "singularName": "event", "namespaced": true, "kind": "Event", "verbs": ["create"] },
    ] })
}

/// As a real server's authorizer refuses.
fn forbidden(verb: &str, what: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Forbidden", "code": 403,
        "message": format!("{what} is forbidden: User \"system:serviceaccount:coffer-system:coffer-node\" cannot {verb} resource \"{what}\" in API group \"\" at the cluster scope") })
}
