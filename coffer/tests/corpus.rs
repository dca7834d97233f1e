//! `coffer bind` on shapes of public manifests, written again and small (`corpus/*.yaml`), each with its source and what
//! has to come of it: and the requests that the shim makes of those that bind, which their policies allow; and one change
//! in any bound field, which they refuse.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]

#[path = "corpus/engine.rs"]
mod engine;
mod image;
#[path = "corpus/kubelet.rs"]
mod kubelet;

use std::collections::BTreeSet;
use std::fs;

use image::FakeImage;
use measurement::initdata::annotation;
use pod_manifest::{Document, Template, documents};
use serde_json::json;

use engine::Agent;
use kubelet::Running;

const CORPUS: [&str; 2] = [include_str!("corpus/workloads.yaml"), include_str!("corpus/accelerated.yaml")];
/// Every image's in these tests.
const CONFIG: &str = r#"{"Entrypoint": ["/app"], "Env": ["PATH=/bin", "MODE=image"], "WorkingDir": "/srv"}"#;
const KEY: &str = "io.katacontainers.config.hypervisor.cc_init_data";

struct Case {
    title: &'static str,
    expected: Vec<(&'static str, &'static str)>,
    text: String,
}

fn cases() -> Vec<Case> {
    let all = CORPUS.iter().flat_map(|file| file.split("### ").skip(1));
    let case = |text: &'static str| {
        let (title, rest) = text.split_once('\n').unwrap();
        let is_expected = |line: &&str| {
            ["# binds", "# left", "# none", "# refused", "# says"].iter().any(|word| line.starts_with(word))
        };
        let expected = rest.lines().take_while(is_expected).map(|line| {
            let line = line.trim_start_matches("# ");
            line.split_once(": ").unwrap_or((line, ""))
        });
        let expected: Vec<_> = expected.collect();
        assert!(!expected.is_empty(), "{title} says nothing of what is expected");
        let text = rest.lines().skip(expected.len()).map(|line| format!("{line}\n")).collect();
        Case { title, expected, text }
    };
    all.map(case).collect()
}

/// All pods of a text.
fn pods(text: &str) -> Vec<(Document, Template)> {
    let all = documents(text).map(Result::unwrap).flat_map(|document| {
        let templates = document.templates();
        templates.into_iter().map(move |template| (document.clone(), template)).collect::<Vec<_>>()
    });
    all.collect()
}

fn images(text: &str) -> BTreeSet<String> {
    let all = documents(text).filter_map(Result::ok).flat_map(|document| {
        let mut found = Vec::new();
        let templates = document.templates();
        for spec in templates.iter().filter_map(|template| template.spec(&document).ok()) {
            let containers = spec.spec.init_containers.iter().chain(&spec.spec.containers);
            found.extend(containers.map(|container| container.image.clone()));
        }
        found
    });
    all.collect()
}

#[test]
fn every_manifest_comes_to_what_is_expected() {
    let fake = FakeImage::new(CONFIG);
    let path = fake.path("case.yaml").display().to_string();
    let (mut wrong, mut bound_pods) = (Vec::new(), Vec::new());
    let all = cases();
    assert!(all.len() >= 60, "{} manifests", all.len());
    for Case { title, expected, text } in &all {
        fs::write(&path, text).unwrap();
        let mut args = vec!["bind".to_owned(), path.clone(), "--class".to_owned(), "coffer-snp".to_owned()];
        for image in images(text) {
            args.extend(["--image".to_owned(), format!("{image}={}", fake.source())]);
        }
        let output = fake.coffer(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let (code, said) =
            (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned());
        let bound = String::from_utf8(output.stdout).unwrap();
        for (what, words) in expected {
            let is_right = match *what {
                "binds" => code == 0 && bound.contains(KEY) && bound.contains("@sha256:"),
                "left" => code == 0 && bound == *text && said.contains("left as it is"),
                "none" => {
                    code == 1 && said.contains("there is no pod in any of the inputs") && said.contains(words)
                }
                "refused" => {
                    code == 1 && bound.is_empty() && said.contains(words) && said.contains("case.yaml:")
                }
                "says" => said.contains(words),
                other => panic!("{title}: {other}"),
            };
            // Their text goes through untouched.
            let is_right = is_right || (*what == "none" && code == 0 && said.contains(words));
            if !is_right {
                wrong.push(format!("{title}: expected {what}: {words}; exit code {code}\n{said}"));
            }
        }
        if code == 0 && expected.iter().any(|(what, _)| *what == "binds") {
            bound_pods.push((*title, bound));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), all.len(), wrong.join("\n"));
    let (mut requests, mut refused) = (0, 0);
    for (title, text) in bound_pods {
        for (document, template) in pods(&text) {
            let (accepted, forged) = runs_and_nothing_else(title, &document, &template, &fake.root_hash());
            requests += accepted;
            refused += forged;
        }
    }
    println!("{} manifests; {requests} requests allowed, {refused} changed ones refused", all.len());
}

/// How many requests of the pod were allowed, and how many changed ones refused.
fn runs_and_nothing_else(
    title: &str,
    document: &Document,
    template: &Template,
    layer: &str,
) -> (usize, usize) {
    let pod = template.pod(document).unwrap();
    let spec = template.spec(document).unwrap();
    let initdata = annotation::decode(&pod.annotations[KEY]).unwrap();
    let running = Running::new(template, &spec, layer);
    let mut agent = Agent::new(&initdata.data()["policy.rego"]);
    agent.accept(title, "CreateSandboxRequest", &running.sandbox());
    agent.accept(title, "CreateContainerRequest", &running.own());
    let own = json!({ "container_id": kubelet::SANDBOX, "exec_id": "" });
    agent.accept(title, "StartContainerRequest", &own);
    let (mut accepted, mut refused) = (3, 0);
    for (index, container) in spec.spec.init_containers.iter().chain(&spec.spec.containers).enumerate() {
        let request = running.container(container, index);
        // The first of a pod meets every change, the others one each.
        let changes =
            kubelet::CHANGES.iter().enumerate().filter(|(rank, _)| index == 0 || rank % 7 == index % 7);
        for (_, (what, change)) in changes {
            let mut forged = request.clone();
            change(&mut forged);
            if forged != request {
                agent.refuse(
                    &format!("{title}, {}, {what}", container.name),
                    "CreateContainerRequest",
                    &forged,
                );
                refused += 1;
            }
        }
        agent.accept(title, "CreateContainerRequest", &request);
        let id = request["container_id"].clone();
        agent.accept(title, "StartContainerRequest", &json!({ "container_id": id, "exec_id": "" }));
        accepted += 2;
        let is_init = index < spec.spec.init_containers.len() && container.restart_policy.is_none();
        if is_init {
            agent.accept(title, "RemoveContainerRequest", &json!({ "container_id": id, "timeout": 30 }));
        }
    }
    let mut other = running;
    "other".clone_into(&mut other.name);
    let mut agent = Agent::new(&initdata.data()["policy.rego"]);
    if !template.names.pattern().contains("{0,251}") {
        agent.refuse(title, "CreateSandboxRequest", &other.sandbox());
        refused += 1;
    }
    (accepted, refused)
}
