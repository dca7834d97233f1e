//! Values as terms of Rego, which JSON's are already but for long lines.

use std::fmt::Write as _;

use serde_json::Value;

/// Longest piece of a text in characters; regorus 0.9 takes lines of 1,024, and an escaped one has up to six.
const PIECE: usize = 150;

/// Writes a value, each element on a line of its own.
pub(crate) fn term(value: &Value) -> String {
    let mut out = String::new();
    write(value, 0, &mut out);
    out
}

fn write(value: &Value, depth: usize, out: &mut String) {
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n('\t', depth));
    };
    match value {
        Value::Array(items) if !items.is_empty() => {
            out.push('[');
            for item in items {
                line(out, depth + 1);
                write(item, depth + 1, out);
                out.push(',');
            }
            line(out, depth);
            out.push(']');
        }
        Value::Object(fields) if !fields.is_empty() => {
            out.push('{');
            for (name, item) in fields {
                line(out, depth + 1);
                // A String takes all that is written to it.
                let _ = write!(out, "{}: ", Value::from(name.as_str()));
                write(item, depth + 1, out);
                out.push(',');
            }
            line(out, depth);
            out.push('}');
        }
        Value::String(text) if text.chars().count() > PIECE => {
            let letters: Vec<char> = text.chars().collect();
            out.push_str("concat(\"\", ");
            let pieces = letters.chunks(PIECE).map(|piece| Value::from(piece.iter().collect::<String>()));
            write(&pieces.collect(), depth, out);
            out.push(')');
        }
        plain => {
            let _ = write!(out, "{plain}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn evaluated(value: &Value) -> Value {
        let mut engine = regorus::Engine::new();
        let policy = format!("package p\n\nimport rego.v1\n\nx := {}\n", term(value));
        engine.add_policy("p".to_owned(), policy).unwrap();
        let result = engine.eval_rule("data.p.x".to_owned()).unwrap();
        serde_json::from_str(&result.to_json_str().unwrap()).unwrap()
    }

    #[test]
    fn empty_things_and_long_texts() {
        let value = json!({"a": [], "b": {}, "c": null, "d": "\u{1}\"\\ü".repeat(600), "e": [1, true, ["$(x)", "{y}"]]});
        assert_eq!(evaluated(&value), value);
        assert!(term(&value).lines().all(|line| line.len() < 1024));
    }

    proptest! {
        #[test]
        fn any_text_is_itself(texts: Vec<String>) {
            let value = json!(texts);
            prop_assert_eq!(evaluated(&value), value);
        }
    }
}
