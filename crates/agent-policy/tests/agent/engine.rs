//! What kata-agent does with a policy (kata-containers 4.1.0, `src/agent/policy/src/policy.rs` and `src/agent/src/policy.rs`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use agent_policy::{Image, ImageConfig, Options, Permission, generate};
use pod_manifest::spec::PodSpec;
use regorus::{Engine, Value as Rego};
use serde::Serialize;
use serde_json::{Value, json};
use shared_types::{EmptyDirectory, ScratchSize};
use verity::RootHash;

use crate::coverage;

/// The file with the rules; what comes before them in a policy is the pod's.
pub(crate) const POLICY: &str = "agent_policy";
const WEB: &str = include_str!("../pods/web.yaml");

/// What the image of the container `prepare` has at `/var/data`. At `/var/new` it has nothing.
pub(crate) const DATA: EmptyDirectory = EmptyDirectory { uid: 999, gid: 998, mode: 0o1770 };

static COUNT: AtomicUsize = AtomicUsize::new(0);

pub(crate) struct Agent {
    /// Which of all engines it is, in what is written down.
    number: usize,
    engine: Engine,
    policy: String,
    /// The answers' texts, for tests of what a refusal says.
    pub(crate) said: RefCell<String>,
}

/// The root hash of a layer of the tests' images.
pub(crate) fn layer(byte: u8) -> RootHash {
    RootHash::from_bytes([byte; 32])
}

fn configuration(part: &str) -> ImageConfig {
    let mut config = json!({ "architecture": "amd64", "os": "linux", "rootfs": {} });
    let part: Value = serde_json::from_str(part).unwrap();
    config.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
    ImageConfig::parse(config.to_string().as_bytes()).unwrap()
}

pub(crate) fn image(layers: &[u8], config: &str) -> Image {
    Image {
        config: configuration(config),
        layers: layers.iter().copied().map(layer).collect(),
        passwd: Some("root:x:0:0::/root:/bin/sh\nserve:x:1000:1000::/srv:/bin/sh\n".to_owned()),
        group: Some("root:x:0:\nserve:x:1000:\nmedia:x:44:serve\n".to_owned()),
        empty_volumes: [("/var/data/".to_owned(), DATA), ("/var/new".to_owned(), EmptyDirectory::NEW)].into(),
    }
}

impl Agent {
    /// With the policy of `pods/web.yaml`.
    pub(crate) fn of_web(exec: Permission, logs: Permission) -> Self {
        Self::of_text(WEB, Options { exec, logs, ..Options::default() })
    }

    /// The same with a part of its manifest, which is there once, replaced.
    pub(crate) fn of_web_with(part: &str, by: &str) -> Self {
        assert_eq!(WEB.matches(part).count(), 1);
        Self::of_text(&WEB.replace(part, by), Options::default())
    }

    /// The same, where the guest pulls the images.
    pub(crate) fn pulling() -> Self {
        Self::of_text(WEB, Options { pulled: true, ..Options::default() })
    }

    /// With the policy of the same pod with a scratch disk, whose first container has an emptyDir in memory besides.
    pub(crate) fn of_scratch() -> Self {
        let mut text = WEB.to_owned();
        for (before, after) in [
            (
                "  namespace: default\n",
                format!("  namespace: default\n  annotations: {{{}: 1Gi}}\n", ScratchSize::ANNOTATION),
            ),
            ("  volumes:\n", "  volumes:\n    - {name: quick, emptyDir: {medium: Memory}}\n".to_owned()),
            (
                "volumeMounts: [{name: cache, mountPath: /cache}]\n",
                "volumeMounts: [{name: cache, mountPath: /cache}, {name: quick, mountPath: /quick}]\n"
                    .to_owned(),
            ),
        ] {
            assert!(text.contains(before));
            text = text.replacen(before, &after, 1);
        }
        Self::of_text(&text, Options::default())
    }

    fn of_text(manifest: &str, options: Options) -> Self {
        let pod = PodSpec::parse(manifest).unwrap();
        let prepare = r#"{"config": {"Volumes": {"/var/data/": {}, "/var/new": {}, "/seeded": {}}}}"#;
        let images = [
            ("prepare", image(&[1, 2], prepare)),
            ("proxy", image(&[3], r#"{"config": {"Entrypoint": ["/bin/proxy"], "User": "serve"}}"#)),
            ("web", image(&[4, 5, 6], r#"{"config": {"StopSignal": "SIGQUIT"}}"#)),
            ("gpu", image(&[7], r#"{"config": {"Env": ["MODE=image"]}}"#)),
        ];
        let images: BTreeMap<_, _> = images.map(|(name, image)| (name.to_owned(), image)).into();
        let volumes = [("weights".to_owned(), layer(9))].into();
        Self::new(&generate(&pod, &Options { images, volumes, ..options }).unwrap())
    }

    /// With the policy of `pods/job.yaml`.
    pub(crate) fn of_job() -> Self {
        let pod = PodSpec::parse(include_str!("../pods/job.yaml")).unwrap();
        let images = [("work".to_owned(), image(&[1], "{}"))].into();
        Self::new(&generate(&pod, &Options { images, ..Options::default() }).unwrap())
    }

    pub(crate) fn strict() -> Self {
        Self::of_web(Permission::Refused, Permission::Refused)
    }

    pub(crate) fn new(policy: &str) -> Self {
        let mut engine = Engine::new();
        engine.set_strict_builtin_errors(false);
        engine.set_gather_prints(true);
        engine.set_enable_coverage(coverage::is_collected());
        engine.add_data(Rego::from_json_str(r#"{"pstate": {}}"#).unwrap()).unwrap();
        engine.add_policy(POLICY.to_owned(), policy.to_owned()).unwrap();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        dump(&json!({ "agent": number, "policy": policy }));
        Self { number, engine, policy: policy.to_owned(), said: RefCell::default() }
    }

    /// Asks, and keeps what the answer has to be kept.
    pub(crate) fn allows(&mut self, request: &str, input: &impl Serialize) -> bool {
        let input = serde_json::to_value(input).unwrap();
        let is_allowed = self.ask(request, &input);
        dump(&json!({ "agent": self.number, "kind": request, "request": input, "allowed": is_allowed }));
        is_allowed
    }

    fn ask(&mut self, request: &str, input: &Value) -> bool {
        self.engine.set_input_json(&input.to_string()).unwrap();
        let results = self.engine.eval_query(format!("data.agent_policy.{request}"), false);
        self.said.replace(self.engine.take_prints().unwrap().join(" "));
        let results = match results {
            Ok(results) => results,
            // The agent answers INTERNAL: a value of another type than the protocol's cannot come over it.
            Err(error) => {
                self.said.replace(format!("wrong: {error:#}"));
                return false;
            }
        };
        assert_eq!(results.result.len(), 1, "{request} has no answer");
        match &results.result[0].expressions[0].value {
            Rego::Bool(is_allowed) => *is_allowed,
            object => {
                let answer: Value = serde_json::from_str(&object.to_json_str().unwrap()).unwrap();
                assert_eq!(answer["allowed"], true);
                self.keep(&serde_json::from_value(answer["ops"].clone()).unwrap());
                true
            }
        }
    }

    fn keep(&mut self, patch: &json_patch::Patch) {
        let mut state = self.memory();
        json_patch::patch(&mut state, patch).unwrap();
        self.engine.clear_data();
        self.engine.add_data(Rego::from_json_str(&state.to_string()).unwrap()).unwrap();
    }

    /// What it keeps.
    pub(crate) fn memory(&self) -> Value {
        serde_json::to_value(self.engine.get_data()).unwrap()
    }

    /// Has it keep something else; no other engine can be asked the same from then on.
    pub(crate) fn set(&mut self, place: &str, value: Value) {
        dump(&json!({ "agent": self.number, "end": true }));
        let patch = json!([{ "op": "add", "path": format!("/pstate/sandbox/{place}"), "value": value }]);
        self.keep(&serde_json::from_value(patch).unwrap());
    }

    /// Asserts that a request is allowed, and shows what is wrong with it otherwise.
    #[track_caller]
    pub(crate) fn accept(&mut self, request: &str, input: &impl Serialize) {
        assert!(self.allows(request, input), "{request} is refused; {}", self.said.borrow());
    }

    /// Asserts that a request is refused, and that it says so of `field`.
    #[track_caller]
    pub(crate) fn refuse(&mut self, request: &str, input: &impl Serialize, field: &str) {
        assert!(!self.allows(request, input), "{request} is allowed with a forged {field}");
        let said = self.said.borrow();
        assert!(said.contains(field), "{request} is refused for another reason than {field}: {said}");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if coverage::is_collected() && !std::thread::panicking() {
            coverage::add(&self.policy, &self.engine.get_coverage_report().unwrap());
        }
    }
}

/// With COFFER_DUMP_REQUESTS, every question and its answer go there as well, for the engine of the real agent: a file for
/// each thread, and so for each test.
fn dump(line: &Value) {
    let Some(directory) = std::env::var_os("COFFER_DUMP_REQUESTS") else { return };
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("main").replace("::", "-");
    let path = std::path::Path::new(&directory).join(format!("{name}.jsonl"));
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    writeln!(file, "{line}").unwrap();
}
