//! The policy that decides which calls are served, as kata-agent with its feature `agent-policy` asks it
//! (kata-containers 4.1.0, `src/agent/policy/src/policy.rs` and `src/agent/src/policy.rs`).

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use agent_client::proto::agent::CopyFileRequest;
use regorus::{Engine, PolicyLengthConfig, Value as Rego};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Where PID 1 says which file it is.
const FILE: &str = "KATA_AGENT_POLICY_FILE";
/// What the rules may change.
const STATE: &str = r#"{"pstate": {}}"#;
/// The file's type in a mode (`stat.h`).
const FILE_TYPE: u32 = 0o170_000;

/// How long a policy may be.
const LIMITS: PolicyLengthConfig = PolicyLengthConfig {
    max_col: NonZeroU32::MIN.saturating_add((64 << 10) - 1),
    max_file_bytes: NonZeroUsize::MIN.saturating_add((16 << 20) - 1),
    max_lines: NonZeroUsize::MIN.saturating_add(200_000 - 1),
};

/// The policy, where there is one; without, everything is served, as by an agent without the feature.
#[derive(Debug, Default)]
pub struct Policy(Option<Mutex<Engine>>);

/// What a rule may answer instead of a truth value.
#[derive(Debug, Deserialize)]
struct Answer {
    allowed: bool,
    ops: Option<json_patch::Patch>,
}

/// A copy as the rules see it: without the data, and with the kind of file in words.
#[derive(Debug, Serialize)]
struct Copy<'a> {
    path: &'a str,
    file_type: &'static str,
    symlink_target: Option<&'a str>,
    file_size: i64,
    file_mode: u32,
    dir_mode: u32,
    uid: i32,
    gid: i32,
    offset: i64,
}

impl Policy {
    /// The policy that the environment names.
    pub fn of_environment() -> Result<Self> {
        match std::env::var_os(FILE).filter(|path| !path.is_empty()) {
            Some(path) => Self::read(Path::new(&path)),
            None => Ok(Self::default()),
        }
    }

    fn read(path: &Path) -> Result<Self> {
        let refused = |error| Error::refused(format!("policy {}: {error:#}", path.display()));
        let mut engine = Engine::new();
        engine.set_policy_length_config(LIMITS);
        engine.set_strict_builtin_errors(false);
        engine.set_gather_prints(true);
        engine.add_data(Rego::from_json_str(STATE).map_err(refused)?).map_err(refused)?;
        engine.add_policy_from_file(path).map_err(refused)?;
        Ok(Self(Some(Mutex::new(engine))))
    }

    /// Refuses what the policy does not allow; `request` is the message's name.
    pub fn check(&self, request: &str, input: &impl Serialize) -> Result<()> {
        let Some(engine) = &self.0 else { return Ok(()) };
        let broken = |error| Error::Policy(format!("{request}: internal error {error}"));
        let input = serde_json::to_string(input).map_err(|error| broken(error.into()))?;
        let mut engine = engine.lock().unwrap_or_else(PoisonError::into_inner);
        let allowed = evaluate(&mut engine, request, &input).map_err(broken)?;
        let prints = engine.take_prints().unwrap_or_default().join(" ");
        if allowed { Ok(()) } else { Err(Error::Denied(format!("{request} is blocked by policy: {prints}"))) }
    }

    /// [`Self::check`] for a copy, which is asked for in a form of its own.
    pub fn check_copy(&self, request: &CopyFileRequest) -> Result<()> {
        let (file_type, symlink_target) = match request.file_mode & FILE_TYPE {
            0o100_000 => ("Regular", None),
            0o040_000 => ("Directory", None),
            0o120_000 => {
                let target = str::from_utf8(&request.data);
                ("Symlink", Some(target.map_err(|_| Error::refused("invalid symlink content"))?))
            }
            _ => ("Unknown", None),
        };
        let CopyFileRequest { path, file_size, file_mode, dir_mode, uid, gid, offset, .. } = request;
        let copy = Copy {
            path,
            file_type,
            symlink_target,
            file_size: *file_size,
            file_mode: *file_mode,
            dir_mode: *dir_mode,
            uid: *uid,
            gid: *gid,
            offset: *offset,
        };
        self.check("CopyFileRequest", &copy)
    }
}

fn evaluate(engine: &mut Engine, request: &str, input: &str) -> anyhow::Result<bool> {
    engine.set_input_json(input)?;
    let results = engine.eval_query(format!("data.agent_policy.{request}"), false)?;
    let [result] = &results.result[..] else { anyhow::bail!("unexpected eval_query result len {results:?}") };
    let [expression] = &result.expressions[..] else {
        anyhow::bail!("unexpected eval_query result expressions {results:?}")
    };
    match &expression.value {
        Rego::Bool(allowed) => Ok(*allowed),
        object @ Rego::Object(_) => {
            let answer: Answer = serde_json::from_str(&object.to_json_str()?)?;
            if let (true, Some(patch)) = (answer.allowed, &answer.ops) {
                keep(engine, patch)?;
            }
            Ok(answer.allowed)
        }
        _ => anyhow::bail!("unexpected eval_query result type {results:?}"),
    }
}

/// The rules' state, changed as an answer asks.
fn keep(engine: &mut Engine, patch: &json_patch::Patch) -> anyhow::Result<()> {
    let mut state = serde_json::to_value(engine.get_data())?;
    json_patch::patch(&mut state, patch)?;
    engine.clear_data();
    engine.add_data(Rego::from_json_str(&state.to_string())?)
}

#[cfg(test)]
mod tests {
    use agent_client::proto::agent::{StartContainerRequest, StatsContainerRequest};

    use super::*;

    const RULES: &str = r#"package agent_policy
import rego.v1

default StatsContainerRequest := true
default CopyFileRequest := false
default StartContainerRequest := false

CopyFileRequest if {
    input.file_type == "Symlink"
    input.symlink_target == "x"
    not input.data
}

StartContainerRequest := {"allowed": true, "ops": ops} if {
    not data.pstate[input.container_id]
    ops := [{"op": "add", "path": concat("", ["/pstate/", input.container_id]), "value": "started"}]
}
"#;

    fn policy(rules: &str) -> Result<Policy> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), rules).unwrap();
        Policy::read(file.path())
    }

    #[test]
    fn state_is_kept_from_one_call_to_the_next() {
        let policy = policy(RULES).unwrap();
        let start = |id: &str| {
            let request = StartContainerRequest { container_id: id.into(), ..Default::default() };
            policy.check("StartContainerRequest", &request)
        };
        start("a").unwrap();
        start("b").unwrap();
        let error = start("a").unwrap_err();
        assert_eq!(error.code(), ttrpc::Code::PERMISSION_DENIED);
        assert_eq!(error.to_string(), "StartContainerRequest is blocked by policy: ");
        policy.check("StatsContainerRequest", &StatsContainerRequest::default()).unwrap();
    }

    #[test]
    fn a_call_without_a_rule_fails_and_without_a_policy_all_pass() {
        let request = StatsContainerRequest::default();
        let error = policy(RULES).unwrap().check("NoSuchRequest", &request).unwrap_err();
        assert_eq!(error.code(), ttrpc::Code::INTERNAL, "{error}");
        Policy::default().check("NoSuchRequest", &request).unwrap();
        assert!(policy("package agent_policy\n}").is_err());
    }

    #[test]
    fn a_copy_is_shown_without_its_data() {
        let policy = policy(RULES).unwrap();
        let copy = |mode: u32, data: &[u8]| {
            let request = CopyFileRequest { file_mode: mode, data: data.into(), ..Default::default() };
            policy.check_copy(&request)
        };
        copy(0o120_777, b"x").unwrap();
        assert!(matches!(copy(0o120_777, b"y"), Err(Error::Denied(_))));
        assert!(matches!(copy(0o100_644, b"x"), Err(Error::Denied(_))));
        assert!(matches!(copy(0o120_777, b"\xff"), Err(Error::Refused(_))));
    }
}
