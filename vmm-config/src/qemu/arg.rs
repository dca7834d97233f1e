//! One QEMU argument, and the only place where option values are escaped.

use std::fmt::Display;

/// One option of QEMU's command line, with its value if it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arg {
    option: &'static str,
    value: Option<String>,
}

impl Arg {
    /// An option without value.
    pub(super) const fn bare(option: &'static str) -> Self {
        Self { option, value: None }
    }

    /// An option whose value is a list of properties.
    pub(super) fn new(option: &'static str, value: Options) -> Self {
        Self { option, value: Some(value.0) }
    }

    /// An option whose value QEMU takes as it stands, commas included.
    pub(super) fn verbatim(option: &'static str, value: impl Into<String>) -> Self {
        Self { option, value: Some(value.into()) }
    }

    /// An option in QEMU's JSON form, for properties that are structures.
    pub(super) fn json(option: &'static str, value: &serde_json::Value) -> Self {
        Self { option, value: Some(value.to_string()) }
    }

    /// The words for the process's argument vector.
    pub(crate) fn into_words(self) -> impl Iterator<Item = String> {
        std::iter::once(self.option.to_owned()).chain(self.value)
    }
}

/// `first,key=value,...`: QEMU ends a value at a comma, and reads two commas as one of the value's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options(String);

impl Options {
    /// Starts with the value of the implied key: the driver, the type, the name.
    pub(super) fn new(first: &str) -> Self {
        Self(escape(first))
    }

    /// Adds a property.
    pub(super) fn text(mut self, key: &str, value: &str) -> Self {
        self.0.push(',');
        self.0.push_str(key);
        self.0.push('=');
        self.0.push_str(&escape(value));
        self
    }

    /// Adds a property that is a number or prints as one word.
    pub(super) fn number(self, key: &str, value: impl Display) -> Self {
        self.text(key, &value.to_string())
    }

    /// Adds a switch.
    pub(super) fn flag(self, key: &str, on: bool) -> Self {
        self.text(key, if on { "on" } else { "off" })
    }
}

fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

/// Reads option values back, for tests.
#[cfg(test)]
pub(crate) mod read {
    /// The properties in order; the implied first key is the empty string. Of the JSON form, those that are strings.
    pub(crate) fn properties(value: &str) -> Vec<(String, String)> {
        if let Ok(serde_json::Value::Object(map)) = serde_json::from_str(value) {
            let text = |(key, value): (String, serde_json::Value)| Some((key, value.as_str()?.to_owned()));
            return map.into_iter().filter_map(text).collect();
        }
        let mut parts = vec![String::new()];
        let mut chars = value.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                ',' if chars.next_if_eq(&',').is_some() => parts.last_mut().unwrap().push(','),
                ',' => parts.push(String::new()),
                _ => parts.last_mut().unwrap().push(c),
            }
        }
        let pair = |(i, part): (usize, String)| match part.split_once('=') {
            Some((key, value)) if i > 0 => (key.to_owned(), value.to_owned()),
            _ => (String::new(), part),
        };
        parts.into_iter().enumerate().map(pair).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_in_order() {
        let arg = Arg::new("-device", Options::new("x").flag("a", true).flag("b", false).number("n", 3));
        assert_eq!(arg.into_words().collect::<Vec<_>>(), ["-device", "x,a=on,b=off,n=3"]);
        assert_eq!(Arg::bare("-S").into_words().collect::<Vec<_>>(), ["-S"]);
        assert_eq!(Arg::verbatim("-append", "a,b").into_words().collect::<Vec<_>>(), ["-append", "a,b"]);
    }

    #[test]
    fn commas_are_doubled() {
        let Options(text) = Options::new("file").text("filename", "/a,b,read-only=off");
        assert_eq!(text, "file,filename=/a,,b,,read-only=off");
    }

    proptest! {
        #[test]
        fn a_value_cannot_become_another_property(first in "[^\0]{0,20}", value in "[^\0]{0,40}") {
            let Options(text) = Options::new(&first).text("filename", &value).flag("read-only", true);
            let wanted = [("", first.as_str()), ("filename", &value), ("read-only", "on")];
            let wanted = wanted.map(|(k, v)| (k.to_owned(), v.to_owned()));
            prop_assert_eq!(read::properties(&text), wanted);
        }
    }
}
