//! Messages of Protocol Buffers, as far as their fields' names, numbers and messages go: out of a `.proto` file, and as a table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Each message's fields.
pub type Messages = BTreeMap<String, Vec<Field>>;

/// A field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    pub number: u32,
    /// The message that it is of, one or many.
    pub message: Option<String>,
}

/// A table: a line for each message, with a line for each of its fields below it.
pub fn read_table(text: &str) -> Messages {
    let mut messages = Messages::new();
    let mut current = String::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { continue };
        if !line.starts_with(' ') {
            first.clone_into(&mut current);
            assert!(messages.insert(current.clone(), Vec::new()).is_none(), "{current} is there twice");
            continue;
        }
        let number = words.next().unwrap().parse().unwrap();
        let field = Field { name: first.to_owned(), number, message: words.next().map(str::to_owned) };
        messages.get_mut(&current).unwrap().push(field);
    }
    messages
}

/// The table of what is reached from `roots`.
pub fn table(messages: &Messages, roots: &[&str]) -> String {
    let mut reached = BTreeSet::new();
    let mut ahead: Vec<&str> = roots.to_vec();
    while let Some(name) = ahead.pop() {
        if reached.insert(name) {
            ahead.extend(messages[name].iter().filter_map(|field| field.message.as_deref()));
        }
    }
    let mut text = String::new();
    for name in reached {
        let _ = writeln!(text, "{name}");
        for Field { name, number, message } in &messages[name] {
            let message = message.as_ref().map(|message| format!(" {message}")).unwrap_or_default();
            let _ = writeln!(text, "  {name} {number}{message}");
        }
    }
    text
}

/// A `.proto` file whose messages are not nested, as those of Kubernetes.
pub fn read_proto(text: &str) -> Messages {
    let mut all: BTreeMap<String, Vec<(String, u32, String)>> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        let line = line.split("//").next().unwrap().trim_end();
        if let Some(name) = line.strip_prefix("message ").and_then(|rest| rest.split_whitespace().next()) {
            all.insert(name.to_owned(), Vec::new());
            current = Some(name.to_owned());
        } else if line == "}" {
            current = None;
        } else if let (Some(current), Some((left, right))) = (&current, line.split_once('=')) {
            let number = right.trim().split([';', ' ']).next().unwrap().parse();
            let left: Vec<&str> = left.split_whitespace().collect();
            // A value of an enum within a message has no type.
            if let (Ok(number), [.., typ, name]) = (number, &left[..]) {
                let typ = typ.rsplit([',', ' ']).next().unwrap().trim_end_matches('>');
                all.get_mut(current).unwrap().push(((*name).to_owned(), number, typ.to_owned()));
            }
        }
    }
    let names: BTreeSet<String> = all.keys().cloned().collect();
    let field = |(name, number, typ): (String, u32, String)| Field {
        name,
        number,
        message: Some(typ).filter(|typ| names.contains(typ)),
    };
    all.into_iter().map(|(name, fields)| (name, fields.into_iter().map(field).collect())).collect()
}
