//! Changes of a manifest's text: digests and the annotation come in, and every other byte stays.

use std::ops::Range;

use pod_manifest::yaml::{Node, Path, Step, Style, Value};
use pod_manifest::{Document, Template};

use super::seal::{ANNOTATION, Sealed, containers};

/// Other bytes for some of the text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Edit {
    start: usize,
    end: usize,
    text: String,
}

/// A change that cannot be: line, field, why.
type Refused = (usize, Path, String);

/// What has to change for a pod; nothing where all is as it should be.
pub(super) fn changes(
    text: &str,
    document: &Document,
    template: &Template,
    sealed: &Sealed,
    class: &str,
) -> Result<Vec<Edit>, Refused> {
    let root = template.node(document);
    let mut edits = Vec::new();
    for (path, container) in containers(&sealed.spec) {
        let path = path.then(Step::field("image"));
        let Some(node) = root.at(&path) else { continue };
        if node.text() != Some(&container.image) {
            edits.push(scalar(text, node, &container.image));
        }
    }
    if let Some(spec) = root.get("spec")
        && spec.get("runtimeClassName").and_then(Node::text).is_none_or(str::is_empty)
    {
        let at = template.path.then(Step::field("spec"));
        edits.push(put(text, spec, "runtimeClassName", class).map_err(|why| (spec.line, at, why))?);
    }
    let annotations = root.get("metadata").and_then(|metadata| metadata.get("annotations"));
    if let Some(node) = annotations.and_then(|all| all.get(ANNOTATION)) {
        if node.text() != Some(&sealed.annotation) {
            edits.push(scalar(text, node, &sealed.annotation));
        }
        return Ok(edits);
    }
    let path = |steps: &str| template.path.join(&Path::of(steps));
    let value = &sealed.annotation;
    let edit = match (root.get("metadata"), annotations) {
        (Some(_), Some(all)) if is_open(all) => {
            put(text, all, ANNOTATION, value).map_err(|why| (all.line, path("metadata.annotations"), why))
        }
        (Some(metadata), Some(all)) => {
            fill(text, metadata, "annotations", all, &format!("{{{ANNOTATION:?}: {value:?}}}"))
                .map_err(|why| (all.line, path("metadata.annotations"), why))
        }
        (Some(metadata), None) if is_open(metadata) => put_map(text, metadata, &["annotations"], value)
            .map_err(|why| (metadata.line, path("metadata"), why)),
        (Some(metadata), None) => fill(
            text,
            root,
            "metadata",
            metadata,
            &format!("{{\"annotations\": {{{ANNOTATION:?}: {value:?}}}}}"),
        )
        .map_err(|why| (metadata.line, path("metadata"), why)),
        (None, _) => put_map(text, root, &["metadata", "annotations"], value)
            .map_err(|why| (root.line, path("metadata"), why)),
    }?;
    edits.push(edit);
    Ok(edits)
}

/// A mapping with fields of its own, before the first of which another can be put.
fn is_open(node: &Node) -> bool {
    !node.fields().is_empty() && node.style != Style::Alias
}

/// Another text in the place of one, in its manner.
fn scalar(text: &str, node: &Node, value: &str) -> Edit {
    let Range { start, end } = node.span.clone();
    let value = match node.style {
        Style::Enclosed if text[start..].starts_with('"') => format!("{value:?}"),
        Style::Enclosed => format!("'{value}'"),
        Style::Lines => format!("{value}\n"),
        Style::Plain | Style::Alias if start == end => format!(" {value}"),
        Style::Plain | Style::Alias => value.to_owned(),
    };
    Edit { start, end, text: value }
}

/// A field before the first one of a mapping.
fn put(text: &str, map: &Node, name: &str, value: &str) -> Result<Edit, String> {
    let at = first(map)?;
    let text = if map.style == Style::Enclosed {
        format!("{name:?}: {value:?}, ")
    } else {
        format!("{name}: {value}\n{}", indent(text, at))
    };
    Ok(Edit { start: at, end: at, text })
}

/// Mappings in each other with the annotation, before the first field of a mapping.
fn put_map(text: &str, map: &Node, names: &[&str], value: &str) -> Result<Edit, String> {
    let at = first(map)?;
    if map.style == Style::Enclosed {
        let open: String = names.iter().map(|name| format!("{name:?}: {{")).collect();
        let text = format!("{open}{ANNOTATION:?}: {value:?}{}, ", "}".repeat(names.len()));
        return Ok(Edit { start: at, end: at, text });
    }
    let indent = indent(text, at);
    let mut out = String::new();
    for (depth, name) in names.iter().enumerate() {
        out.push_str(&format!("{}{name}:\n{indent}", "  ".repeat(depth)));
    }
    out.push_str(&format!("{}{ANNOTATION}: {value}\n{indent}", "  ".repeat(names.len())));
    Ok(Edit { start: at, end: at, text: out })
}

/// A value in the place of one that is empty.
fn fill(text: &str, parent: &Node, name: &str, empty: &Node, value: &str) -> Result<Edit, String> {
    if empty.style == Style::Alias || (matches!(empty.value, Value::Map(_)) && !empty.fields().is_empty()) {
        return Err(shared());
    }
    if !empty.span.is_empty() {
        return Ok(Edit { start: empty.span.start, end: empty.span.end, text: value.to_owned() });
    }
    // Nothing is written there: behind the colon.
    let field = parent.fields().iter().find(|field| field.name == name);
    let end = field.map(|field| field.at.end).ok_or_else(shared)?;
    let colon = text[end..].find(':').map(|colon| end + colon + 1).ok_or_else(shared)?;
    Ok(Edit { start: colon, end: colon, text: format!(" {value}") })
}

fn shared() -> String {
    "it is written elsewhere (an alias), where others have it as well: write it out here".to_owned()
}

/// Where the first own field of a mapping begins.
fn first(map: &Node) -> Result<usize, String> {
    if map.style == Style::Alias {
        return Err(shared());
    }
    let own = map.fields().iter().filter(|field| map.span.contains(&field.at.start));
    own.map(|field| field.at.start).min().ok_or_else(shared)
}

/// Blanks as far as a place is from the beginning of its line.
fn indent(text: &str, at: usize) -> String {
    let line = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    " ".repeat(text[line..at].chars().count())
}

/// The text with all changes. Pods that share a text by anchors may want the same of it, and nothing else.
pub(super) fn apply(text: &str, mut edits: Vec<Edit>) -> Result<String, (usize, String)> {
    edits.sort();
    edits.dedup();
    let mut out = String::with_capacity(text.len() + edits.iter().map(|edit| edit.text.len()).sum::<usize>());
    let mut done = 0;
    let mut last: Option<&Edit> = None;
    for edit in &edits {
        let is_same_place =
            last.is_some_and(|last| (last.start, last.end) == (edit.start, edit.end) && !is_field(edit));
        if edit.start < done || is_same_place {
            let line = text[..edit.start].matches('\n').count() + 1;
            return Err((
                line,
                format!(
                    "several pods have this text, by an anchor or <<, and need another one each: {}",
                    shared()
                ),
            ));
        }
        out.push_str(&text[done..edit.start]);
        out.push_str(&edit.text);
        done = edit.end;
        last = Some(edit);
    }
    out.push_str(&text[done..]);
    Ok(out)
}

/// Whether it puts a field before others, of which there may be several at one place: the annotation's differ.
fn is_field(edit: &Edit) -> bool {
    edit.start == edit.end && !edit.text.contains(ANNOTATION)
}
