//! A text that is known, or of which a part is known by its shape only.

use pod_manifest::escape;
use serde::{Serialize, Serializer};

/// Plain parts and shapes, one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Text(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Piece {
    Plain(String),
    /// A regular expression.
    Shape(String),
}

impl Text {
    pub(crate) fn plain(text: &str) -> Self {
        Self(vec![Piece::Plain(text.to_owned())])
    }

    pub(crate) fn shape(pattern: &str) -> Self {
        Self(vec![Piece::Shape(pattern.to_owned())])
    }

    pub(crate) fn push(&mut self, text: &str) {
        match self.0.last_mut() {
            Some(Piece::Plain(last)) => last.push_str(text),
            _ => self.0.push(Piece::Plain(text.to_owned())),
        }
    }

    pub(crate) fn append(&mut self, other: &Self) {
        for piece in &other.0 {
            match piece {
                Piece::Plain(text) => self.push(text),
                Piece::Shape(_) => self.0.push(piece.clone()),
            }
        }
    }

    pub(crate) fn is_plain(&self) -> bool {
        self.exact().is_some()
    }

    /// The text, where all of it is known.
    pub(crate) fn exact(&self) -> Option<String> {
        let plain = self.0.iter().map(|piece| match piece {
            Piece::Plain(text) => Some(text.as_str()),
            Piece::Shape(_) => None,
        });
        plain.collect()
    }

    /// A regular expression for it.
    pub(crate) fn pattern(&self) -> String {
        let pieces = self.0.iter().map(|piece| match piece {
            Piece::Plain(text) => escape(text),
            Piece::Shape(pattern) => pattern.clone(),
        });
        format!("^{}$", pieces.collect::<String>())
    }
}

impl Serialize for Text {
    /// A text as such, another as an object with its `shape`.
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.exact() {
            Some(text) => to.serialize_str(&text),
            None => to.collect_map([("shape", self.pattern())]),
        }
    }
}
