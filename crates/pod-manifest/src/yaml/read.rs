//! From a text to its documents.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span, StructureStyle, Tag};

use super::{Field, Node, Style, Value, scalar};

/// Above any object's of Kubernetes, and little enough for code that recurses.
const MAX_DEPTH: usize = 100;
/// Values in one document: aliases of aliases cost no text.
const MAX_VALUES: usize = 200_000;

/// Escaped apostrophes in one document; the text is read again for each.
const MAX_APOSTROPHES: usize = 100;
const BELL: &str = "\\a";

/// A text that is no YAML.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct SyntaxError {
    /// Where, from 1 on.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

/// The documents of a text, each with its first line or what is wrong with it; empty ones are left out.
///
/// They are told apart by lines that begin with `---`, as `kubectl` does it, so that a fault in one hides no other.
pub fn documents(text: &str) -> impl Iterator<Item = Result<Node, SyntaxError>> + '_ {
    let mut start = Some((0, 1));
    std::iter::from_fn(move || {
        let (begin, line) = start?;
        let rest = &text[begin..];
        // A separator at the very beginning is part of the first piece.
        let end = rest.char_indices().find(|(at, c)| *c == '\n' && rest[at + 1..].starts_with("---"));
        let piece = end.map_or(rest, |(at, _)| &rest[..=at]);
        start = end.map(|(at, _)| (begin + at + 1, line + piece.matches('\n').count()));
        Some((piece, begin, line))
    })
    .filter_map(|(piece, begin, line)| match document(piece, begin, line) {
        Ok(node) if node.is_null() => None,
        other => Some(other),
    })
}

fn document(piece: &str, begin: usize, first_line: usize) -> Result<Node, SyntaxError> {
    let reader = |quote| Reader {
        begin,
        line: first_line - 1,
        open: Vec::new(),
        anchors: Vec::new(),
        values: 0,
        quote,
    };
    let mut text = Cow::Borrowed(piece);
    for round in 0..MAX_APOSTROPHES {
        match reader(round > 0).run(&text, piece) {
            Err(Failed { escape: Some(from), .. }) if apostrophe(&text, from).is_some() => {
                let at = apostrophe(&text, from).unwrap_or_default();
                text.to_mut().replace_range(at..at + 2, BELL);
            }
            other => return other.map_err(|failed| failed.error),
        }
    }
    Err(SyntaxError { line: first_line, reason: "too many escapes that YAML has not".to_owned() })
}

/// `\'` in double quotes is an apostrophe for Kubernetes' reader and no escape of YAML 1.2: it is read as another letter,
/// which stands for the apostrophe. Gives its place behind the quote at `from`.
fn apostrophe(text: &str, from: usize) -> Option<usize> {
    let mut letters = text.get(from + 1..)?.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' if letters.next()?.1 == '\'' => return Some(from + 1 + at),
            '"' => return None,
            _ => {}
        }
    }
    None
}

/// Why a text was given up, and the quote of the text whose escape was the reason.
struct Failed {
    error: SyntaxError,
    escape: Option<usize>,
}

impl From<SyntaxError> for Failed {
    fn from(error: SyntaxError) -> Self {
        Self { error, escape: None }
    }
}

struct Reader {
    begin: usize,
    line: usize,
    open: Vec<Open>,
    anchors: Vec<(usize, Node)>,
    values: usize,
    /// Whether bells are apostrophes.
    quote: bool,
}

/// A list or mapping that has not ended.
struct Open {
    node: Node,
    anchor: usize,
    /// A mapping's name that waits for its value.
    name: Option<(String, Range<usize>, bool)>,
    /// Names of its fields.
    names: HashSet<String>,
    /// Names of fields that came by `<<`.
    merged: HashSet<String>,
}

impl Reader {
    fn run(mut self, text: &str, original: &str) -> Result<Node, Failed> {
        let options = granit_parser::options! {
            block_scalar_eof_without_line_feed: true,
        };
        let mut root = None;
        for next in Parser::new_from_str_with_options(text, options) {
            let (event, span) = next.map_err(|error| Failed {
                escape: (*error.kind() == ErrorKind::UnknownQuotedScalarEscape)
                    .then(|| error.marker().byte_offset())
                    .flatten(),
                error: self.syntax(&error),
            })?;
            let done = match event {
                Event::Scalar(word, style, anchor, tag) => {
                    let node = self.scalar(&word, style, tag.as_deref(), &span, original)?;
                    self.add(node, anchor)?
                }
                Event::Alias(anchor) => {
                    let known = self.anchors.iter().rev().find(|(id, _)| *id == anchor);
                    let Some((_, known)) = known else {
                        return Err(self.error(&span, "an alias within itself").into());
                    };
                    let mut node = known.clone();
                    self.count(size(&node), &span)?;
                    (node.style, node.span) = (Style::Alias, self.range(&span));
                    self.add(node, 0)?
                }
                Event::SequenceStart(style, anchor, _) => {
                    self.open(Value::List(Vec::new()), style, anchor, &span)?
                }
                Event::MappingStart(style, anchor, _) => {
                    self.open(Value::Map(Vec::new()), style, anchor, &span)?
                }
                Event::SequenceEnd | Event::MappingEnd => self.close(&span)?,
                Event::DocumentStart(..) if root.is_some() => {
                    return Err(self.error(&span, "another document begins in the middle of a line").into());
                }
                _ => None,
            };
            root = done.or(root);
        }
        Ok(root.unwrap_or(Node {
            value: Value::Null,
            style: Style::Plain,
            span: 0..0,
            line: self.line + 1,
            column: 0,
        }))
    }

    fn scalar(
        &self,
        word: &str,
        style: ScalarStyle,
        tag: Option<&Tag>,
        span: &Span,
        original: &str,
    ) -> Result<Node, SyntaxError> {
        let range = self.range(span);
        let is_changed = self.quote && style == ScalarStyle::DoubleQuoted;
        let word = if is_changed { word.replace('\u{7}', "'") } else { word.to_owned() };
        let is_plain = style == ScalarStyle::Plain;
        let is_empty = is_plain && original[range.start - self.begin..range.end - self.begin].is_empty();
        let value = match tag.and_then(Tag::core_suffix) {
            // An empty value comes as a tilde without letters.
            Some("str") if is_empty => Value::Text(String::new()),
            _ if is_empty => Value::Null,
            Some("str") => Value::Text(word),
            Some("int" | "float" | "bool" | "null") => scalar::plain(&word),
            Some(other) => return Err(self.error(span, &format!("the tag !!{other} is not read here"))),
            None if is_plain => scalar::plain(&word),
            None => Value::Text(word),
        };
        let style = match style {
            ScalarStyle::Plain => Style::Plain,
            ScalarStyle::Literal | ScalarStyle::Folded => Style::Lines,
            _ => Style::Enclosed,
        };
        Ok(self.node(value, style, span))
    }

    fn node(&self, value: Value, style: Style, span: &Span) -> Node {
        let (line, column) = (self.line + span.start.line(), span.start.col());
        Node { value, style, span: self.range(span), line, column }
    }

    fn open(
        &mut self,
        value: Value,
        style: StructureStyle,
        anchor: usize,
        span: &Span,
    ) -> Result<Option<Node>, SyntaxError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(self.error(span, &format!("more than {MAX_DEPTH} levels")));
        }
        let style = if style == StructureStyle::Flow { Style::Enclosed } else { Style::Plain };
        let node = self.node(value, style, span);
        self.open.push(Open { node, anchor, name: None, names: HashSet::new(), merged: HashSet::new() });
        Ok(None)
    }

    fn close(&mut self, span: &Span) -> Result<Option<Node>, SyntaxError> {
        let Some(Open { mut node, anchor, .. }) = self.open.pop() else { return Ok(None) };
        node.span.end = self.range(span).end;
        self.add(node, anchor)
    }

    /// Puts a value where it belongs; gives it back where that is nowhere.
    fn add(&mut self, node: Node, anchor: usize) -> Result<Option<Node>, SyntaxError> {
        let place = Span::empty(granit_parser::Marker::new(0, node.line - self.line, 0));
        self.count(1, &place)?;
        if anchor != 0 {
            self.anchors.push((anchor, node.clone()));
        }
        let Some(open) = self.open.last_mut() else { return Ok(Some(node)) };
        match (&mut open.node.value, open.name.take()) {
            (Value::List(items), _) => items.push(node),
            (Value::Map(_), None) => {
                let is_merge = node.style == Style::Plain && node.text() == Some("<<");
                let Some(name) = name(&node) else {
                    return Err(
                        self.error(&place, "a field's name has to be a text, a number or true or false")
                    );
                };
                if !is_merge && !open.names.insert(name.clone()) && !open.merged.remove(&name) {
                    let reason = format!("the field {name:?} is there twice");
                    return Err(self.error(&place, &reason));
                }
                open.name = Some((name, node.span, is_merge));
            }
            (Value::Map(_), Some((_, _, true))) => self.merge(&node, &place)?,
            (Value::Map(fields), Some((name, at, false))) => {
                let is_alone = open.names.len() > fields.len();
                put(fields, Field { name, at, value: node }, is_alone);
            }
            _ => {}
        }
        Ok(None)
    }

    /// Fields of another mapping take the place of those before them; those after them take theirs.
    fn merge(&mut self, from: &Node, span: &Span) -> Result<(), SyntaxError> {
        let single = std::slice::from_ref(from);
        let all = if let Value::List(items) = &from.value { items.as_slice() } else { single };
        for from in all.iter().rev() {
            let Value::Map(more) = &from.value else {
                return Err(self.error(span, "only a mapping or a list of them can be merged with <<"));
            };
            self.count(size(from), span)?;
            let Some(Open { node: Node { value: Value::Map(fields), .. }, names, merged, .. }) =
                self.open.last_mut()
            else {
                continue;
            };
            for field in more {
                let is_alone = names.insert(field.name.clone());
                merged.insert(field.name.clone());
                put(fields, field.clone(), is_alone);
            }
        }
        Ok(())
    }

    fn count(&mut self, more: usize, span: &Span) -> Result<(), SyntaxError> {
        self.values = self.values.saturating_add(more);
        if self.values > MAX_VALUES {
            return Err(self.error(span, &format!("more than {MAX_VALUES} values in one document")));
        }
        Ok(())
    }

    fn range(&self, span: &Span) -> Range<usize> {
        let at = |marker: granit_parser::Marker| self.begin + marker.byte_offset().unwrap_or_default();
        at(span.start)..at(span.end)
    }

    fn error(&self, span: &Span, reason: &str) -> SyntaxError {
        SyntaxError { line: self.line + span.start.line(), reason: reason.to_owned() }
    }

    fn syntax(&self, error: &ScanError) -> SyntaxError {
        let reason = match error.kind() {
            ErrorKind::UnknownQuotedScalarEscape => "an escape in double quotes that YAML has not".to_owned(),
            _ => format!("it is no YAML: {}", error.info().trim_end_matches('.')),
        };
        SyntaxError { line: self.line + error.marker().line(), reason }
    }
}

/// Takes a field in, in the place of another of its name unless it is alone.
fn put(fields: &mut Vec<Field>, field: Field, is_alone: bool) {
    if is_alone {
        return fields.push(field);
    }
    if let Some(before) = fields.iter_mut().find(|before| before.name == field.name) {
        *before = field;
    }
}

/// A field's name as Kubernetes writes it into JSON.
fn name(node: &Node) -> Option<String> {
    match &node.value {
        Value::Text(text) => Some(text.clone()),
        Value::Int(number) => Some(number.to_string()),
        Value::Float(number) => Some(scalar::float(*number)),
        Value::Bool(is) => Some(is.to_string()),
        Value::Null | Value::List(_) | Value::Map(_) => None,
    }
}

/// How many values a value has, itself included.
fn size(node: &Node) -> usize {
    let children: usize = node.items().iter().map(size).sum();
    1 + children + node.fields().iter().map(|field| size(&field.value)).sum::<usize>()
}
