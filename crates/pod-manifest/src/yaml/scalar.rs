//! What a plain word means (`yaml.v2`, `resolve.go`).

use super::Value;

/// The value of a word without quotes.
pub(super) fn plain(word: &str) -> Value {
    match word {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => {
            return Value::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    let is_number = word.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'));
    let number = if is_number { number(&word.replace('_', "")) } else { None };
    number.unwrap_or_else(|| Value::Text(word.to_owned()))
}

fn number(word: &str) -> Option<Value> {
    whole(word).map(Value::Int).or_else(|| fraction(word).map(Value::Float))
}

/// With a sign, and in the base that its beginning says: `0x`, `0o` or `0` alone, `0b`.
fn whole(word: &str) -> Option<i128> {
    let digits = word.strip_prefix(['+', '-']).unwrap_or(word);
    let base = |prefixes: [&str; 2]| prefixes.iter().find_map(|prefix| digits.strip_prefix(prefix));
    let (digits, radix) = if let Some(digits) = base(["0x", "0X"]) {
        (digits, 16)
    } else if let Some(digits) = base(["0b", "0B"]) {
        (digits, 2)
    } else if let Some(digits) = base(["0o", "0O"]) {
        (digits, 8)
    } else if digits.len() > 1 && digits.starts_with('0') {
        (digits, 8)
    } else {
        (digits, 10)
    };
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    let number = i128::from_str_radix(digits, radix).ok()?;
    let number = if word.starts_with('-') { -number } else { number };
    (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&number).then_some(number)
}

fn fraction(word: &str) -> Option<f64> {
    let digits = word.strip_prefix(['+', '-']).unwrap_or(word);
    let starts = digits.starts_with(|c: char| c.is_ascii_digit())
        || (digits.starts_with('.') && digits[1..].starts_with(|c: char| c.is_ascii_digit()));
    let letters = digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    // Rust's grammar of what is left is the one of `yamlStyleFloat`.
    let number = if starts && letters { word.parse::<f64>().ok()? } else { return None };
    number.is_finite().then_some(number)
}

/// A number as Kubernetes writes it into JSON.
pub(super) fn float(number: f64) -> String {
    if number != 0.0 && !(1e-6..1e21).contains(&number.abs()) {
        let text = format!("{number:e}");
        return if number.abs() >= 1.0 { text.replace('e', "e+") } else { text };
    }
    number.to_string()
}
