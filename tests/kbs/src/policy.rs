//! Whether a token may have a resource: Rego, asked as Trustee asks it (`kbs/src/api_server.rs`, `deps/policy-engine`).

use anyhow::Result;
use regorus::{Engine, Value as Rego};
use serde_json::Value;

/// The token is the input, and the question is data.
pub(crate) fn allows(policy: &str, data: &Value, token: &Value) -> Result<bool> {
    let mut engine = Engine::new();
    engine.add_policy("policy.rego".into(), policy.into())?;
    engine.add_data(Rego::from_json_str(&data.to_string())?)?;
    engine.set_input(Rego::from_json_str(&token.to_string())?);
    Ok(engine.eval_rule("data.policy.allow".into())? == Rego::from(true))
}
