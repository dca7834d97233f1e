//! What kata-agent does with a policy (4.1.0, `src/agent/policy/src/policy.rs`), in as few lines as a test needs.

use regorus::{Engine, Value as Rego};
use serde_json::Value;

pub(crate) struct Agent(Engine);

impl Agent {
    pub(crate) fn new(policy: &str) -> Self {
        let mut engine = Engine::new();
        engine.set_strict_builtin_errors(false);
        engine.set_gather_prints(true);
        engine.add_data(Rego::from_json_str(r#"{"pstate": {}}"#).unwrap()).unwrap();
        engine.add_policy("agent_policy".to_owned(), policy.to_owned()).unwrap();
        Self(engine)
    }

    /// Whether the request is allowed, and what is said of it.
    fn ask(&mut self, kind: &str, request: &Value) -> (bool, String) {
        self.0.set_input_json(&request.to_string()).unwrap();
        let answer = self.0.eval_query(format!("data.agent_policy.{kind}"), false);
        let said = self.0.take_prints().unwrap().join(" ");
        let answer: Value = match answer {
            Ok(answer) => {
                serde_json::from_str(&answer.result[0].expressions[0].value.to_json_str().unwrap()).unwrap()
            }
            Err(error) => return (false, error.to_string()),
        };
        if answer["allowed"] == true {
            let mut state = serde_json::to_value(self.0.get_data()).unwrap();
            let patch: json_patch::Patch = serde_json::from_value(answer["ops"].clone()).unwrap();
            json_patch::patch(&mut state, &patch).unwrap();
            self.0.clear_data();
            self.0.add_data(Rego::from_json_str(&state.to_string()).unwrap()).unwrap();
            return (true, said);
        }
        (answer == true, said)
    }

    pub(crate) fn accept(&mut self, what: &str, kind: &str, request: &Value) {
        let (is_allowed, said) = self.ask(kind, request);
        assert!(is_allowed, "{what}: {kind} is refused: {said}\n{request:#}");
    }

    #[allow(dead_code, reason = "each test binary uses a part of it")]
    pub(crate) fn refuse(&mut self, what: &str, kind: &str, request: &Value) {
        assert!(!self.ask(kind, request).0, "{what}: {kind} is allowed");
    }
}
