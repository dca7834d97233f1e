//! `coffer policy check`: what a policy says to requests, and which field it does not like.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use regorus::{Engine, Value as Rego};
use serde::Deserialize;
use serde_json::{Value, json};

use super::engine;
use crate::files::Kind;

/// What the rules print before the names of fields (`crates/agent-policy/src/rules/requests.rego`).
const WRONG: &str = "wrong: ";

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// The policy
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Requests in their order, each as {"kind": "CreateContainerRequest", "request": {...}}, one or more in a file: in the
    /// form of kata-agent's /tmp/policy.jsonl, which Coffer's guests do not keep
    #[arg(required = true, value_name = "REQUEST.json")]
    requests: Vec<PathBuf>,
}

/// A request in the JSON that the agent shows its policy.
#[derive(Debug, Deserialize)]
struct Asked {
    kind: String,
    request: Value,
}

/// Asks the policy as the agent does, and keeps what the policy remembers from one request to the next.
///
/// # Errors
/// A file that cannot be used, and a request that is refused.
pub(crate) fn run(args: &CheckArgs, out: &mut impl Write) -> Result<()> {
    let text = String::from_utf8(Kind::POLICY.read(&args.policy)?)
        .map_err(|error| error.utf8_error())
        .with_context(|| Kind::POLICY.unusable(&args.policy))?;
    let mut agent = Agent::new(text).with_context(|| Kind::POLICY.unusable(&args.policy))?;
    let (mut all, mut refused) = (0_usize, 0_usize);
    for path in &args.requests {
        let content = Kind::REQUESTS.read(path)?;
        for asked in serde_json::Deserializer::from_slice(&content).into_iter::<Asked>() {
            let Asked { kind, request } = asked.with_context(|| Kind::REQUESTS.unusable(path))?;
            if request.get("allowed").is_some() {
                // The agent writes answers down as well.
                continue;
            }
            let answer = agent.ask(&kind, &request).with_context(|| Kind::REQUESTS.unusable(path))?;
            all += 1;
            refused += usize::from(answer.is_some());
            match answer {
                None => writeln!(out, "allowed  {kind}")?,
                Some(why) => writeln!(out, "REFUSED  {kind}: {why}")?,
            }
        }
    }
    ensure!(refused == 0, "{refused} of {all} requests are refused");
    Ok(())
}

/// kata-agent's way with a policy (4.1.0, `src/agent/policy/src/policy.rs`).
struct Agent(Engine);

impl Agent {
    fn new(policy: String) -> Result<Self> {
        let mut engine = engine();
        engine.set_strict_builtin_errors(false);
        engine.set_gather_prints(true);
        engine.add_data(rego(&json!({ "pstate": {} }))?)?;
        engine.add_policy("agent_policy".to_owned(), policy)?;
        Ok(Self(engine))
    }

    /// Why a request is refused; none where it is allowed.
    fn ask(&mut self, kind: &str, request: &Value) -> Result<Option<String>> {
        let is_name = kind.bytes().all(|b| b.is_ascii_alphanumeric())
            && kind.starts_with(|c: char| c.is_ascii_uppercase());
        ensure!(is_name, "{kind:?} is no request's name");
        self.0.set_input(rego(request)?);
        let results = match self.0.eval_query(format!("data.agent_policy.{kind}"), false) {
            Ok(results) => results,
            Err(error) => return Ok(Some(format!("it cannot be compared: {error}"))),
        };
        let said = self.0.take_prints()?.join(" ");
        let Some(result) = results.result.first().and_then(|result| result.expressions.first()) else {
            return Ok(Some("the policy does not know such a request".to_owned()));
        };
        let answer: Value = serde_json::from_str(&result.value.to_json_str()?)?;
        if answer == Value::Bool(true) {
            return Ok(None);
        }
        if answer["allowed"] == true {
            self.keep(&answer["ops"])?;
            return Ok(None);
        }
        let fields = said.split_once(WRONG).map(|(_, fields)| fields.to_owned());
        Ok(Some(fields.unwrap_or_else(|| "no pod needs such a request".to_owned())))
    }

    fn keep(&mut self, patch: &Value) -> Result<()> {
        let patch: json_patch::Patch = serde_json::from_value(patch.clone())?;
        let mut state = serde_json::to_value(self.0.get_data())?;
        json_patch::patch(&mut state, &patch)?;
        self.0.clear_data();
        self.0.add_data(rego(&state)?)
    }
}

fn rego(value: &Value) -> Result<Rego> {
    Rego::from_json_str(&value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"
package agent_policy
import rego.v1
default StartContainerRequest := false
default SetPolicyRequest := false
CreateContainerRequest := {"allowed": true, "ops": [{"op": "add", "path": "/pstate/c", "value": true}]} if input.id == "c"
default CreateContainerRequest := false
StartContainerRequest if data.pstate.c
StartContainerRequest if {
	not data.pstate.c
	print("wrong:", "container_id, the time")
	false
}
"#;

    #[test]
    fn what_the_policy_remembers_counts_and_a_refusal_names_the_field() {
        let mut agent = Agent::new(POLICY.to_owned()).unwrap();
        let (start, create) = (json!({}), json!({ "id": "c" }));
        let wrong = Some("container_id, the time".to_owned());
        assert_eq!(agent.ask("StartContainerRequest", &start).unwrap(), wrong);
        assert_eq!(agent.ask("CreateContainerRequest", &create).unwrap(), None);
        assert_eq!(agent.ask("StartContainerRequest", &start).unwrap(), None);
        let refused = agent.ask("SetPolicyRequest", &start).unwrap().unwrap();
        assert_eq!(refused, "no pod needs such a request");
        let unknown = agent.ask("OtherRequest", &start).unwrap().unwrap();
        assert!(unknown.contains("does not know"), "{unknown}");
        assert!(agent.ask("x]; allow", &start).is_err());
    }
}
