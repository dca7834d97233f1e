//! Every document of a text.

use std::sync::Arc;

use crate::claims::Claims;
use crate::template::{Template, templates};
use crate::yaml::{self, Node, SyntaxError};

/// Largest text that is read, in bytes: what a whole chart comes to.
pub const MAX_FILE: usize = 16 << 20;

/// One object, or a list of objects, of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// All of it.
    pub root: Node,
    /// `kind`; empty where it has none.
    pub kind: String,
    /// What its whole text says of claims.
    pub claims: Arc<Claims>,
}

/// A document, or what is wrong with it.
pub type Found = Result<Document, SyntaxError>;

/// The documents of a text in their order; empty ones are left out.
pub fn documents(text: &str) -> impl Iterator<Item = Found> + '_ {
    let claims = Arc::new(Claims::of(text));
    yaml::documents(text).map(move |found| {
        let root = found?;
        let kind = root.get("kind").and_then(Node::text).unwrap_or("(none)").to_owned();
        Ok(Document { root, kind, claims: claims.clone() })
    })
}

impl Document {
    /// The pods that are described in it.
    pub fn templates(&self) -> Vec<Template> {
        templates(self)
    }

    /// The objects of it by their kind: itself, or the items of a list.
    pub fn objects(&self) -> impl Iterator<Item = (&str, &Node)> {
        let items = if crate::template::is_list(&self.root) { Some(self.root.get("items")) } else { None };
        let objects: Vec<&Node> = match items.flatten() {
            Some(items) => items.items().iter().collect(),
            None => vec![&self.root],
        };
        objects
            .into_iter()
            .map(|object| (object.get("kind").and_then(Node::text).unwrap_or_default(), object))
    }
}
