//! What kata-agent does with a policy (kata-containers 4.1.0, `src/agent/policy/src/policy.rs`).

use pod_manifest::spec::PodSpec;
use policy::{Image, Options, Permission, generate};
use regorus::{Engine, Value as Rego};
use serde::Serialize;
use serde_json::Value;
use verity::RootHash;

pub(crate) struct Agent(Engine);

impl Agent {
    /// With the policy of `pods/web.yaml`.
    pub(crate) fn of_web(exec: Permission, logs: Permission) -> Self {
        let pod = PodSpec::parse(include_str!("../pods/web.yaml")).unwrap();
        let layers = [1, 2, 3].map(|byte| RootHash::from_bytes([byte; 32])).to_vec();
        let image = Image { layers, ..Image::default() };
        let images = ["prepare", "web", "gpu"].map(|name| (name.to_owned(), image.clone())).into();
        Self::new(&generate(&pod, &Options { exec, logs, images }).unwrap())
    }

    pub(crate) fn strict() -> Self {
        Self::of_web(Permission::Refused, Permission::Refused)
    }

    pub(crate) fn new(policy: &str) -> Self {
        let mut engine = Engine::new();
        engine.set_strict_builtin_errors(false);
        engine.add_data(Rego::from_json_str(r#"{"pstate": {}}"#).unwrap()).unwrap();
        engine.add_policy("agent_policy".to_owned(), policy.to_owned()).unwrap();
        Self(engine)
    }

    /// Asks, and keeps what the answer has to be kept.
    pub(crate) fn allows(&mut self, request: &str, input: &impl Serialize) -> bool {
        self.0.set_input_json(&serde_json::to_string(input).unwrap()).unwrap();
        let results = self.0.eval_query(format!("data.agent_policy.{request}"), false).unwrap();
        assert_eq!(results.result.len(), 1, "{request} has no answer");
        match &results.result[0].expressions[0].value {
            Rego::Bool(allowed) => *allowed,
            object => {
                let answer: Value = serde_json::from_str(&object.to_json_str().unwrap()).unwrap();
                assert_eq!(answer["allowed"], true);
                self.keep(&serde_json::from_value(answer["ops"].clone()).unwrap());
                true
            }
        }
    }

    fn keep(&mut self, patch: &json_patch::Patch) {
        let mut state = serde_json::to_value(self.0.get_data()).unwrap();
        json_patch::patch(&mut state, patch).unwrap();
        self.0.clear_data();
        self.0.add_data(Rego::from_json_str(&state.to_string()).unwrap()).unwrap();
    }
}
