//! YAML as Kubernetes reads it, with the place of every value.
//!
//! Kubernetes' own reader (`sigs.k8s.io/yaml` over `yaml.v2`) speaks YAML 1.1 where that and 1.2 differ: `010` is eight, `yes`
//! is true, `<<` merges. The scanner here is one of YAML 1.2, and what a plain word means is decided in [`scalar`]. Beyond
//! Kubernetes' reader a key that is there twice is an error, as it is one for `kubectl apply`.

mod de;
mod read;
mod scalar;

use std::borrow::Cow;
use std::ops::Range;

pub use de::FieldError;
pub(crate) use de::number;
pub use read::{SyntaxError, documents};

/// A value and where it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What it is.
    pub value: Value,
    /// How it is written.
    pub style: Style,
    /// Its bytes in the whole text: of an alias those of the alias.
    pub span: Range<usize>,
    /// Its line, from 1 on.
    pub line: usize,
    /// Columns before it in its line.
    pub column: usize,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// `true`, `yes`, `on` and their opposites.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Another number.
    Float(f64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// Fields in the order of the text; merged ones last.
    Map(Vec<Field>),
}

/// A field of a mapping.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// Its name; a number or a truth value as Kubernetes writes it.
    pub name: String,
    /// Where the name is; of a merged field it is where the field was first written.
    pub at: Range<usize>,
    /// Its value.
    pub value: Node,
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A word, or a block by indentation.
    Plain,
    /// In quotes, or in braces or brackets.
    Enclosed,
    /// A text of several lines after `|` or `>`.
    Lines,
    /// `*name`: written elsewhere.
    Alias,
}

/// A step into a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// To a field.
    Field(Cow<'static, str>),
    /// To an item.
    Item(usize),
}

impl Step {
    /// To a field.
    pub const fn field(name: &'static str) -> Self {
        Self::Field(Cow::Borrowed(name))
    }
}

/// A way into a document, as in `spec.containers[0].image`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Path(pub Vec<Step>);

impl Path {
    /// One step further.
    #[must_use]
    pub fn then(&self, step: Step) -> Self {
        Self([&self.0[..], &[step]].concat())
    }

    /// Several steps further.
    #[must_use]
    pub fn join(&self, steps: &Self) -> Self {
        Self([&self.0[..], &steps.0].concat())
    }

    /// Reads `spec.containers[0]`; names have neither dots nor brackets.
    pub fn of(text: &str) -> Self {
        let steps = text.split('.').filter(|part| !part.is_empty()).flat_map(|part| {
            let mut pieces = part.split('[');
            let name = pieces.next().filter(|name| !name.is_empty());
            let items: Vec<_> = pieces.filter_map(|item| item.trim_end_matches(']').parse().ok()).collect();
            let name = name.map(|name| Step::Field(Cow::Owned(name.to_owned())));
            name.into_iter().chain(items.into_iter().map(Step::Item))
        });
        Self(steps.collect())
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let is_word = |name: &str| {
            name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')) && !name.is_empty()
        };
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Item(item) => write!(f, "[{item}]")?,
                Step::Field(name) if is_word(name) && index == 0 => write!(f, "{name}")?,
                Step::Field(name) if is_word(name) => write!(f, ".{name}")?,
                Step::Field(name) => write!(f, "[{:?}]", name.chars().take(100).collect::<String>())?,
            }
        }
        Ok(())
    }
}

impl Node {
    /// The value of a field; none where there is no such field, or where this is no mapping.
    pub fn get(&self, name: &str) -> Option<&Self> {
        self.fields().iter().find(|field| field.name == name).map(|field| &field.value)
    }

    /// The fields of a mapping.
    pub fn fields(&self) -> &[Field] {
        match &self.value {
            Value::Map(fields) => fields,
            _ => &[],
        }
    }

    /// The items of a list.
    pub fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// A text.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Whether nothing is there.
    pub const fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// What is at a path; where it ends early, the last value on the way.
    pub fn nearest(&self, path: &Path) -> &Self {
        let mut at = self;
        for step in &path.0 {
            let next = match step {
                Step::Field(name) => at.get(name),
                Step::Item(index) => at.items().get(*index),
            };
            match next {
                Some(next) => at = next,
                None => break,
            }
        }
        at
    }

    /// What is at a path.
    pub fn at(&self, path: &Path) -> Option<&Self> {
        path.0.iter().try_fold(self, |at, step| match step {
            Step::Field(name) => at.get(name),
            Step::Item(index) => at.items().get(*index),
        })
    }
}
