//! The list of what a pod can have, against the messages of CRI and of Kubernetes' core API, and the page that is made of it.
//!
//! `fields/` has those messages as tables: names and numbers, of the versions that the tables name. `COFFER_API_PROTO=DIRECTORY`
//! compares them with `api.proto` (kubernetes/cri-api, `pkg/apis/runtime/v1`) and `generated.proto` (kubernetes/api, `core/v1`)
//! in that directory; with `COFFER_WRITE_TABLES=1` besides they are written anew.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]

mod proto;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use guest_spec::support::{Class, Field, MESSAGES, Message, POD, document};
use proto::{Messages, read_proto, read_table, table};

struct Api {
    table: &'static str,
    /// Which version, as the table's first line says it.
    version: &'static str,
    file: &'static str,
    roots: &'static [&'static str],
    listed: &'static [Message],
}

const CRI: Api = Api {
    table: "cri",
    version: "kubernetes/cri-api 791729b255f0 (before v0.37.0), pkg/apis/runtime/v1/api.proto",
    file: "api.proto",
    roots: &["PodSandboxConfig", "ContainerConfig"],
    listed: MESSAGES,
};

const CORE: Api = Api {
    table: "core",
    version: "kubernetes/api 10b39a39bcee (before v0.37.0), core/v1/generated.proto",
    file: "generated.proto",
    roots: &["PodSpec"],
    listed: POD,
};

impl Api {
    fn path(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fields").join(self.table)
    }

    fn messages(&self) -> Messages {
        let text = std::fs::read_to_string(self.path()).unwrap();
        assert_eq!(text.lines().next(), Some(format!("# {}", self.version).as_str()));
        read_table(&text)
    }

    fn listed(&self) -> BTreeMap<&'static str, &'static [Field]> {
        let listed: BTreeMap<_, _> =
            self.listed.iter().map(|message| (message.name, message.fields)).collect();
        assert_eq!(listed.len(), self.listed.len(), "a message is there twice");
        listed
    }

    /// Walks from the roots through every field that is carried: what another class says of a field holds for all below it.
    /// Each message on the way has to be listed with exactly its fields, and no other message.
    fn walk(&self) {
        let (messages, listed) = (self.messages(), self.listed());
        let mut reached = BTreeSet::new();
        let mut ahead: VecDeque<String> = self.roots.iter().map(|root| (*root).to_owned()).collect();
        while let Some(name) = ahead.pop_front() {
            if !reached.insert(name.clone()) {
                continue;
            }
            let Some(fields) = listed.get(name.as_str()) else {
                panic!("{}: {name} is not listed", self.table)
            };
            let of_message = fields_of(&messages, &name);
            let names: BTreeSet<&str> = fields.iter().map(|field| field.name).collect();
            assert_eq!(names.len(), fields.len(), "{name}: a field is there twice");
            assert_eq!(names, of_message.keys().map(String::as_str).collect(), "{}: {name}", self.table);
            for field in fields.iter().filter(|field| field.class == Class::Carried) {
                ahead.extend(of_message[field.name].clone().filter(|below| messages.contains_key(below)));
            }
        }
        assert_eq!(reached, listed.keys().map(|name| (*name).to_owned()).collect(), "{}", self.table);
    }
}

/// A message's fields with the messages that they are of, as JSON and YAML have them: what is embedded is there itself. What an
/// ephemeral container has of a container is listed with that.
fn fields_of(messages: &Messages, name: &str) -> BTreeMap<String, Option<String>> {
    const EMBEDDED: [&str; 4] =
        ["volumeSource", "ephemeralContainerCommon", "handler", "localObjectReference"];
    let mut fields = BTreeMap::new();
    for field in &messages[name] {
        match &field.message {
            Some(embedded) if EMBEDDED.contains(&field.name.as_str()) => {
                fields.extend(fields_of(messages, embedded))
            }
            message => drop(fields.insert(field.name.clone(), message.clone())),
        }
    }
    if name == "EphemeralContainer" {
        let container = fields_of(messages, "Container");
        assert!(container.keys().all(|field| fields.contains_key(field)));
        fields.retain(|field, _| !container.contains_key(field));
    }
    fields
}

#[test]
fn every_field_that_the_engine_is_handed_is_in_a_class() {
    CRI.walk();
}

#[test]
fn every_field_of_a_manifest_is_in_a_class() {
    CORE.walk();
}

/// Only where somebody has them.
#[test]
fn the_tables_are_the_messages() {
    let Some(directory) = std::env::var_os("COFFER_API_PROTO") else { return };
    for api in [CRI, CORE] {
        let text = std::fs::read_to_string(Path::new(&directory).join(api.file)).unwrap();
        let table = format!("# {}\n{}", api.version, table(&read_proto(&text), api.roots));
        if std::env::var_os("COFFER_WRITE_TABLES").is_some() {
            std::fs::write(api.path(), &table).unwrap();
        }
        assert_eq!(std::fs::read_to_string(api.path()).unwrap(), table, "{}", api.table);
    }
}

#[test]
fn what_is_not_carried_says_why() {
    for field in MESSAGES.iter().chain(POD).flat_map(|message| message.fields) {
        assert!(field.class == Class::Carried || !field.how.is_empty(), "{}", field.name);
    }
}

/// `COFFER_WRITE_DOCS=1` writes it.
#[test]
fn the_page_is_the_lists() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/support.md");
    if std::env::var_os("COFFER_WRITE_DOCS").is_some() {
        std::fs::write(&page, document()).unwrap();
    }
    assert_eq!(std::fs::read_to_string(page).unwrap(), document());
}
