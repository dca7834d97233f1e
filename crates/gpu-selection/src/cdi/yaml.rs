//! YAML as far as CDI uses it, as a JSON value whose scalars are strings.
//!
//! `saphyr-parser` alone, not a serde front end: the shim stays resident, and its size is bounded. Aliases are
//! refused: no CDI spec has them, and a few lines of them expand to gigabytes.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

const MAX_DEPTH: usize = 32;

/// A collection that is not complete yet.
enum Open {
    List(Vec<Value>),
    /// With the key that waits for its value.
    Map(Map<String, Value>, Option<String>),
}

/// The first document.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let mut open: Vec<Open> = Vec::new();
    for event in Parser::new_from_str(text) {
        let (event, _) = event.map_err(|error| error.to_string())?;
        let value = match event {
            Event::Alias(_) => return Err("aliases are not supported".to_owned()),
            Event::Scalar(text, style, ..) => scalar(text.into_owned(), style),
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                None
            }
            Event::MappingStart(..) => {
                open.push(Open::Map(Map::new(), None));
                None
            }
            Event::SequenceEnd | Event::MappingEnd => open.pop().map(|done| match done {
                Open::List(list) => Value::Array(list),
                Open::Map(map, _) => Value::Object(map),
            }),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => None,
        };
        if open.len() > MAX_DEPTH {
            return Err(format!("more than {MAX_DEPTH} levels"));
        }
        let Some(value) = value else { continue };
        match open.last_mut() {
            None => return Ok(value),
            Some(Open::List(list)) => list.push(value),
            Some(Open::Map(map, key)) => match key.take() {
                Some(name) => {
                    if map.insert(name.clone(), value).is_some() {
                        return Err(format!("key {name:?} is there twice"));
                    }
                }
                None => match value {
                    Value::String(name) => *key = Some(name),
                    _ => return Err("a key is no text".to_owned()),
                },
            },
        }
    }
    Err("it is empty".to_owned())
}

#[expect(clippy::unnecessary_wraps, reason = "an arm of the match above")]
fn scalar(text: String, style: ScalarStyle) -> Option<Value> {
    let null = style == ScalarStyle::Plain && matches!(text.as_str(), "" | "~" | "null");
    Some(if null { Value::Null } else { Value::String(text) })
}
