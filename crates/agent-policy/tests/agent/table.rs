//! Each field of each request, as the messages' definitions have them: an honest value, and forged ones that are refused.
//!
//! A field that is not in [`ROWS`] is forged by its type. So a new field that the rules do not look at fails the test, and
//! so does a row whose field is gone.

use std::collections::BTreeSet;

use agent_policy::Permission::Granted;
use serde_json::{Map, Value, json};

use crate::commands::exec;
use crate::engine::Agent;
use crate::files;
use crate::honest::{boot, initialised, interface, neighbours, of, routes, sandbox, with_web};
use crate::proto::{Messages, messages, requests};
use crate::requests::{EXEC, Engine, WEB, json_of};

/// The test here, for the rules' coverage.
pub(crate) fn all() {
    each_field_of_each_request_is_forged();
}

/// What is known of a field beside its type.
enum Row {
    /// Values to be refused.
    Not(Value),
    /// Any value is as good, and why.
    Any(&'static str),
}
use Row::{Any, Not};

const AMOUNT: &str = "how much of the machine a container gets is the host's to say";

/// Fields by request and path, lists' items as `[]`.
fn rows() -> Vec<(&'static str, &'static str, Row)> {
    vec![
        ("CreateContainerRequest", "OCI.Version", Not(json!(["", "2.0.0", "1.2", "1.2.1; x"]))),
        ("CreateContainerRequest", "OCI.Hostname", Not(json!(["web-1", "localhost"]))),
        ("CreateContainerRequest", "OCI.Process.OOMScoreAdj", Not(json!([-1000, -997, 1, 1000]))),
        (
            "CreateContainerRequest",
            "OCI.Process.Env",
            Not(json!([[], ["PATH=/cache"], ["LD_PRELOAD=/cache/x.so"]])),
        ),
        ("CreateContainerRequest", "OCI.Linux.Resources", Any("without limits there are none")),
        (
            "CreateContainerRequest",
            "OCI.Linux.Resources.Devices",
            Not(json!([[{"Allow": true, "Type": "a",
            "Major": -1, "Minor": -1, "Access": "rwm"}], [{"Allow": true, "Type": "b", "Major": 8, "Minor": 0,
            "Access": "rwm"}]])),
        ),
        ("CreateContainerRequest", "OCI.Linux.Resources.Devices[].Allow", Not(json!([true]))),
        (
            "CreateContainerRequest",
            "OCI.Linux.Resources.Devices[].Type",
            Any("kata-agent sets no rules with cgroup v2"),
        ),
        (
            "CreateContainerRequest",
            "OCI.Linux.Resources.Devices[].Major",
            Any("the first rule denies all devices"),
        ),
        (
            "CreateContainerRequest",
            "OCI.Linux.Resources.Devices[].Minor",
            Any("the first rule denies all devices"),
        ),
        ("CreateContainerRequest", "OCI.Linux.Resources.Memory", Any(AMOUNT)),
        ("CreateContainerRequest", "OCI.Linux.Resources.Memory.Limit", Not(json!([-2]))),
        ("CreateContainerRequest", "OCI.Linux.Resources.Memory.Reservation", Not(json!([-2]))),
        ("CreateContainerRequest", "OCI.Linux.Resources.Memory.Swap", Not(json!([-2]))),
        ("CreateContainerRequest", "OCI.Linux.Resources.CPU", Any(AMOUNT)),
        ("CreateContainerRequest", "OCI.Linux.Resources.CPU.Quota", Not(json!([-2]))),
        ("CreateContainerRequest", "OCI.Linux.Resources.Pids", Any(AMOUNT)),
        ("CreateContainerRequest", "OCI.Linux.Resources.Pids.Limit", Not(json!([-2, 1_u64 << 40]))),
        (
            "CreateContainerRequest",
            "OCI.Linux.Resources.BlockIO",
            Not(json!([{}, { "Weight": 500, "LeafWeight": 0 }])),
        ),
        (
            "CreateContainerRequest",
            "OCI.Linux.Devices",
            Not(json!([[{ "Path": "/dev/null", "Type": "c", "Major": 1, "Minor": 3, "FileMode": 438 }]])),
        ),
        ("CreateContainerRequest", "OCI.Linux.Seccomp.Architectures", Not(json!([[], ["SCMP_ARCH_X86_64"]]))),
        (
            "CreateContainerRequest",
            "OCI.Linux.Seccomp.Syscalls",
            Not(json!([[], [{"Names": ["setuid"],
            "Action": "SCMP_ACT_ERRNO", "errnoret": 0, "Args": []}]])),
        ),
        ("CreateContainerRequest", "OCI.Linux.RootfsPropagation", Not(json!(["shared", "rshared"]))),
        // The last one, which is the service account's, depends on the cluster.
        ("CreateContainerRequest", "OCI.Mounts", Not(json!([[], Value::Null]))),
        ("CreateContainerRequest", "OCI.Mounts[].options", Not(json!([[], ["bind"], ["nosuid"]]))),
        ("CopyFileRequest", "file_size", Not(json!([-1, (4 << 20) + 1]))),
        (
            "CopyFileRequest",
            "file_mode",
            Not(json!([0, 0o644, 0o104_755, 0o102_755, 0o101_755, 0o020_600, 0o140_755, 1 << 20])),
        ),
        ("CopyFileRequest", "offset", Not(json!([-1, 1]))),
        ("CopyFileRequest", "uid", Not(json!([1, -1, 65534]))),
        ("CopyFileRequest", "gid", Not(json!([1, -1, 65534]))),
        ("ReadStreamRequest", "len", Any("the agent reads before it asks")),
        ("WriteStreamRequest", "data", Any("whoever may write may write anything")),
        ("TtyWinResizeRequest", "row", Not(json!([65_536]))),
        ("TtyWinResizeRequest", "column", Not(json!([65_536]))),
        ("RemoveContainerRequest", "timeout", Not(json!([0, 1, 9]))),
        ("SignalProcessRequest", "signal", Not(json!([0, 1, 6, 10, 11, 12, 18, 19, 34, 64, 66]))),
        ("UpdateInterfaceRequest", "interface.IPAddresses", Any("the network is the host's")),
        ("UpdateInterfaceRequest", "interface.mtu", Not(json!([0, 67, 65_536]))),
        ("UpdateInterfaceRequest", "interface.raw_flags", Not(json!([1, 8, 129]))),
        ("UpdateInterfaceRequest", "interface.IPAddresses[].mask", Not(json!(["", "0", "7", "x"]))),
        ("UpdateRoutesRequest", "routes.Routes", Any("the network is the host's")),
        ("UpdateRoutesRequest", "routes.Routes[].gateway", Not(json!(["127.0.0.1", "::1", "x"]))),
        (
            "UpdateRoutesRequest",
            "routes.Routes[].source",
            Not(json!(["127.0.0.1", "127.0.0.1/0", "::1/0", "10.4.0.5/8", "/0", "x"])),
        ),
        ("UpdateRoutesRequest", "routes.Routes[].device", Not(json!(["lo", ""]))),
        ("UpdateRoutesRequest", "routes.Routes[].mtu", Not(json!([65_536]))),
        ("UpdateRoutesRequest", "routes.Routes[].flags", Not(json!([1, 2, 8]))),
        ("AddARPNeighborsRequest", "neighbors.ARPNeighbors", Any("the network is the host's")),
        ("AddARPNeighborsRequest", "neighbors.ARPNeighbors[].device", Not(json!(["lo", ""]))),
    ]
}

/// An engine that has come as far as a request needs, and honest requests of that kind, one of which has each field.
fn scene(request: &str) -> Option<Vec<(Agent, Value)>> {
    let strict = |prepare: &dyn Fn(&mut Agent)| {
        let mut agent = Agent::strict();
        prepare(&mut agent);
        agent
    };
    let granted = || {
        let mut agent = Agent::of_web(Granted, Granted);
        with_web(&mut agent);
        agent
    };
    let engine = Engine::Containerd2;
    Some(match request {
        "UpdateInterfaceRequest" => vec![(Agent::strict(), json_of(&interface()))],
        "UpdateRoutesRequest" => vec![(Agent::strict(), json_of(&routes()))],
        "AddARPNeighborsRequest" => vec![(Agent::strict(), json_of(&neighbours()))],
        "CreateSandboxRequest" => vec![(Agent::strict(), json_of(&sandbox()))],
        "UpdateEphemeralMountsRequest" => vec![(strict(&boot), json_of(&guest_spec::shm_remount(4096)))],
        "GuestDetailsRequest" => {
            vec![(strict(&boot), json!({ "mem_block_size": false, "mem_hotplug_probe": false }))]
        }
        "CopyFileRequest" => vec![(strict(&boot), files::honest())],
        "CreateContainerRequest" => vec![
            (strict(&|agent| initialised(agent, engine)), engine.web()),
            (strict(&|agent| initialised(agent, engine)), engine.gpu()),
            (strict(&boot), engine.pause()),
        ],
        "StartContainerRequest" => {
            let mut agent = strict(&|agent| initialised(agent, engine));
            agent.accept("CreateContainerRequest", &engine.web());
            vec![(agent, json!({ "container_id": WEB }))]
        }
        "RemoveContainerRequest" => {
            vec![(strict(&with_web), json!({ "container_id": WEB, "timeout": 30 }))]
        }
        "ExecProcessRequest" => vec![(strict(&with_web), exec(&["/bin/drain"]))],
        "SignalProcessRequest" => {
            vec![(strict(&with_web), json!({ "container_id": WEB, "exec_id": EXEC, "signal": 15 }))]
        }
        "WaitProcessRequest" | "CloseStdinRequest" => vec![(strict(&with_web), of(WEB))],
        "StatsContainerRequest" => vec![(strict(&with_web), json!({ "container_id": WEB }))],
        "TtyWinResizeRequest" => {
            vec![(granted(), json!({ "container_id": WEB, "exec_id": EXEC, "row": 24, "column": 80 }))]
        }
        "ReadStreamRequest" => {
            vec![(granted(), json!({ "container_id": WEB, "exec_id": EXEC, "len": 4096 }))]
        }
        "WriteStreamRequest" => {
            vec![(granted(), json!({ "container_id": WEB, "exec_id": EXEC, "data": [1] }))]
        }
        "GetDiagnosticDataRequest" => {
            vec![(granted(), json!({ "container_id": WEB, "log_type": "termination_log" }))]
        }
        // Without fields.
        "DestroySandboxRequest" | "GetOOMEventRequest" => return None,
        refused => {
            let mut agent = granted();
            assert!(!agent.allows(refused, &json!({})), "{refused} needs a scene");
            return None;
        }
    })
}

/// Every path of a request, by the messages' definitions: of what no honest request has, only the place where it would be.
fn paths(
    messages: &Messages,
    message: &str,
    prefix: &str,
    honest: &[&Value],
    out: &mut Vec<(String, String)>,
) {
    for field in &messages[message] {
        let path = format!("{prefix}{}", field.name);
        let found: Vec<&Value> = honest.iter().filter_map(|value| value.get(&field.name)).collect();
        let items: Vec<&Value> = match field.is_list {
            true => found.iter().flat_map(|list| list.as_array().into_iter().flatten()).collect(),
            false => found.into_iter().filter(|value| value.is_object()).collect(),
        };
        let kind = if field.is_list { format!("[{}]", field.kind) } else { field.kind.clone() };
        out.push((path.clone(), if field.is_map { "map".to_owned() } else { kind }));
        if messages.contains_key(&field.kind) && !items.is_empty() {
            let list = if field.is_list { "[]." } else { "." };
            paths(messages, &field.kind, &format!("{path}{list}"), &items, out);
        }
    }
}

/// The value at a path, of a list in the first item that has the rest of it.
fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    let (part, rest) = path.split_once('.').map_or((path, None), |(part, rest)| (part, Some(rest)));
    let deeper = |value: &'a Value| rest.map_or(Some(value), |rest| at(value, rest));
    match part.strip_suffix("[]") {
        Some(name) => value.get(name)?.as_array()?.iter().find_map(deeper),
        None => deeper(value.get(part)?),
    }
}

fn set(value: &mut Value, path: &str, to: &Value) {
    let (part, rest) = path.split_once('.').map_or((path, None), |(part, rest)| (part, Some(rest)));
    let inner = match part.strip_suffix("[]") {
        Some(name) => {
            let items = value[name].as_array_mut().unwrap();
            items.iter_mut().find(|item| rest.is_none_or(|rest| at(item, rest).is_some())).unwrap()
        }
        None => &mut value[part],
    };
    match rest {
        Some(rest) => set(inner, rest, to),
        None => *inner = to.clone(),
    }
}

/// Forged values by what there is, and by type.
fn forged(honest: &Value, kind: &str) -> Vec<Value> {
    match (honest, kind) {
        (Value::Null, _) => vec![Value::Object(Map::new())],
        (Value::Bool(bool), _) => vec![Value::Bool(!bool)],
        (Value::String(text), _) => {
            vec![format!("{text}x").into(), format!("/{text}/..").into(), Value::Null]
        }
        (Value::Number(number), _) => {
            vec![json!(number.as_i64().unwrap() + 1_000_003), Value::Null, number.to_string().into()]
        }
        (Value::Array(list), kind) => {
            let other = match kind {
                "[string]" => json!("forged"),
                "[uint32]" => json!(31_337),
                _ => list.first().cloned().unwrap_or_else(|| json!({})),
            };
            let longer = [list.clone(), vec![other]].concat();
            let shorter = list.split_last().map(|(_, rest)| Value::Array(rest.to_vec()));
            [Some(Value::Array(longer)), shorter, Some(Value::Null)].into_iter().flatten().collect()
        }
        (Value::Object(object), "map") => {
            let mut longer = object.clone();
            longer.insert("forged".to_owned(), "x".into());
            vec![longer.into()]
        }
        (Value::Object(_), _) => vec![Value::Null],
    }
}

#[test]
fn each_field_of_each_request_is_forged() {
    let messages = messages();
    let rows = rows();
    let mut used = BTreeSet::new();
    let mut open = Vec::new();
    let (mut fields, mut values, mut free) = (0, 0, 0);
    for request in requests() {
        let Some(mut scenes) = scene(&request) else { continue };
        let honest: Vec<Value> = scenes.iter().map(|(_, honest)| honest.clone()).collect();
        let mut all = Vec::new();
        paths(&messages, &request, "", &honest.iter().collect::<Vec<_>>(), &mut all);
        if request == "CopyFileRequest" {
            // The agent shows these instead of the content.
            all.retain(|(path, _)| path != "data");
            all.extend(["file_type", "symlink_target"].map(|name| (name.to_owned(), "string".to_owned())));
        }
        for (path, kind) in all {
            fields += 1;
            // Where there is something, there is more to forge.
            let has = |honest: &Value| at(honest, &path).map(|value| !is_empty(value));
            let best = scenes.iter().position(|(_, honest)| has(honest) == Some(true));
            let best = best.or_else(|| scenes.iter().position(|(_, honest)| has(honest).is_some()));
            let (agent, honest) =
                &mut scenes[best.unwrap_or_else(|| panic!("no honest {request} has {path}"))];
            let row = rows.iter().position(|(of, field, _)| *of == request && *field == path);
            used.extend(row);
            let current = at(honest, &path).unwrap().clone();
            let wrong = match row.map(|index| &rows[index].2) {
                Some(Any(why)) => {
                    println!("any {request} {path}: {why}");
                    free += 1;
                    continue;
                }
                Some(Not(values)) => values.as_array().unwrap().clone(),
                None => forged(&current, &kind),
            };
            for value in wrong {
                let mut request_of = honest.clone();
                set(&mut request_of, &path, &value);
                assert_ne!(request_of, *honest, "{request} {path}: {value} is the honest value");
                values += 1;
                if agent.allows(&request, &request_of) {
                    open.push(format!("{request} with {path} = {value}"));
                } else {
                    assert!(
                        agent.said.borrow().contains("wrong: "),
                        "{request} {path}: {}",
                        agent.said.borrow()
                    );
                }
            }
        }
        for (agent, honest) in &mut scenes {
            agent.accept(&request, honest);
        }
    }
    assert!(open.is_empty(), "allowed:\n{}", open.join("\n"));
    let unused: Vec<_> =
        (0..rows.len()).filter(|index| !used.contains(index)).map(|index| rows[index].1).collect();
    assert_eq!(unused, Vec::<&str>::new(), "rows without a field");
    println!("policy table: {fields} fields, {values} forged values refused, {free} fields with any value");
    assert!(fields > 150, "{fields}");
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        _ => false,
    }
}
