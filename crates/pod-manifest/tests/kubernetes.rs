//! What YAML means, compared with the answers of Kubernetes' own reader (`kubernetes/main.go` writes them down).

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]

use pod_manifest::yaml::{Node, Value, documents};
use serde_json::{Map, Value as Json};

/// Documents that are read here and not there, or the other way round, and why.
const OTHERWISE: [(&str, &str); 3] = [
    ("\ta: b", "a tab is white space of YAML 1.2"),
    ("a: \"\\/\"", "an escape of YAML 1.2 and of JSON"),
    (
        "%YAML 1.1\n---\na: 1",
        "kubectl cuts at the line with dashes before it reads, so that a directive has no document",
    ),
];

fn json(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(is) => (*is).into(),
        Value::Int(number) => {
            i64::try_from(*number).map_or_else(|_| u64::try_from(*number).unwrap().into(), Json::from)
        }
        Value::Float(number) => (*number).into(),
        Value::Text(text) => text.as_str().into(),
        Value::List(items) => items.iter().map(json).collect(),
        Value::Map(fields) => {
            let fields = fields.iter().map(|field| (field.name.clone(), json(&field.value)));
            Json::Object(fields.collect::<Map<_, _>>())
        }
    }
}

/// Whole numbers as such, since JSON does not tell 1.0 from 1.
fn plain(json: Json) -> Json {
    match json {
        Json::Number(number) => {
            let float = number.as_f64().unwrap();
            if number.is_f64() && float.fract() == 0.0 && float.abs() < 1e15 {
                format!("{float}").parse::<i64>().unwrap().into()
            } else {
                Json::Number(number)
            }
        }
        Json::Array(items) => items.into_iter().map(plain).collect(),
        Json::Object(fields) => fields.into_iter().map(|(name, value)| (name, plain(value))).collect(),
        other => other,
    }
}

#[test]
fn a_document_means_what_kubernetes_reads() {
    let mut wrong = Vec::new();
    for line in include_str!("kubernetes/answers.tsv").lines() {
        let (text, answer) = line.split_once('\t').unwrap();
        let text: String = serde_json::from_str(text).unwrap();
        let found = documents(&text).next();
        let found = match found {
            None => Some(Json::Null),
            Some(Ok(node)) => Some(json(&node)),
            Some(Err(_)) => None,
        };
        let expected = serde_json::from_str::<Json>(answer).ok();
        let differs = found.clone().map(plain) != expected.clone().map(plain);
        let is_known = OTHERWISE.iter().any(|(known, _)| *known == text);
        if differs != is_known {
            wrong.push(format!("{text:?}: here {found:?}, there {answer}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
