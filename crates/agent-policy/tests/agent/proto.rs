//! The agent's messages as their definitions have them: what each request consists of.

use std::collections::BTreeMap;

const AGENT: &str = include_str!("../../../agent-client/proto/agent.proto");
const OTHERS: [&str; 2] = [
    include_str!("../../../agent-client/proto/oci.proto"),
    include_str!("../../../agent-client/proto/types.proto"),
];

/// A field of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    /// Under the name that it has in the policy's JSON.
    pub(crate) name: String,
    /// Without its package.
    pub(crate) kind: String,
    pub(crate) is_list: bool,
    pub(crate) is_map: bool,
}

/// Messages by their names.
pub(crate) type Messages = BTreeMap<String, Vec<Field>>;

/// What the agent asks its policy about: the request of each call, by its message's name.
pub(crate) fn requests() -> Vec<String> {
    let calls = AGENT.lines().filter_map(|line| line.trim().strip_prefix("rpc ")?.split(['(', ')']).nth(1));
    let mut requests: Vec<_> = calls.map(|name| name.trim().to_owned()).collect();
    requests.sort_unstable();
    requests.dedup();
    requests
}

pub(crate) fn messages() -> Messages {
    let mut messages = Messages::new();
    for file in [AGENT].into_iter().chain(OTHERS) {
        let mut current = None;
        for line in file.lines().map(|line| line.split("//").next().unwrap_or_default().trim()) {
            if let Some(name) = line.strip_prefix("message ").and_then(|rest| rest.split([' ', '{']).next()) {
                messages.insert(name.to_owned(), Vec::new());
                current = (!line.ends_with('}')).then(|| name.to_owned());
            } else if line.starts_with('}') {
                current = None;
            } else if let (Some(message), Some(field)) = (&current, field(line)) {
                messages.get_mut(message).unwrap().push(field);
            }
        }
    }
    messages
}

fn field(line: &str) -> Option<Field> {
    let (definition, _) = line.split_once('=')?;
    let (kind, name) = definition.trim().rsplit_once(' ')?;
    let is_list = kind.starts_with("repeated ");
    let kind = kind.trim_start_matches("repeated ").trim_start_matches("optional ").trim();
    // The generated code's name, which its JSON has.
    let name = if name == "type" { "type_" } else { name };
    Some(Field {
        name: name.to_owned(),
        kind: kind.rsplit('.').next()?.to_owned(),
        is_list,
        is_map: kind.starts_with("map<"),
    })
}

#[test]
fn definitions_are_read() {
    let messages = messages();
    assert!(messages.len() > 80, "{}", messages.len());
    let names = |message: &str| messages[message].iter().map(|field| field.name.as_str()).collect::<Vec<_>>();
    assert_eq!(
        names("Storage"),
        ["driver", "driver_options", "source", "fstype", "options", "mount_point", "fs_group", "shared"]
    );
    assert_eq!(names("RemoveContainerRequest"), ["container_id", "timeout"]);
    let mounts = messages["Spec"].iter().find(|field| field.name == "Mounts").unwrap();
    assert_eq!((mounts.kind.as_str(), mounts.is_list), ("Mount", true));
    assert!(messages["Spec"].iter().any(|field| field.name == "Annotations" && field.is_map));
}
