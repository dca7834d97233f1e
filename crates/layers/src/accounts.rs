//! `/etc/passwd` and `/etc/group` of an image: who its processes are.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Largest file that is kept. A real one has a few kilobytes.
const MAX_FILE: u64 = 1 << 20;
/// Of a layer. Only names count, so a layer with all of a distribution's test data may have some.
const MAX_FILES: usize = 64;
/// Links that are followed, as many as Linux does for a path.
const MAX_LINKS: usize = 40;
/// The files themselves, without the first slash.
const PASSWD: &str = "etc/passwd";
const GROUP: &str = "etc/group";

/// What a path is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Entry {
    /// A file's text. One that is no UTF-8 is read as far as it goes: nobody has such an account.
    File(String),
    /// Another path of the same layer.
    Hard(Vec<u8>),
    /// A path of the whole image.
    Symbolic(Vec<u8>),
}

/// What one layer does to files called `passwd` and `group`, wherever they are, since links may lead there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Found {
    entries: BTreeMap<String, Entry>,
    /// Paths that the layers below have no more, nor anything in them.
    hidden: BTreeSet<String>,
}

impl Found {
    /// Whether a file's content has to be kept.
    pub(crate) fn wants(&mut self, path: &str, size: u64) -> bool {
        if self.whiteout(path) {
            return false;
        }
        self.other(path);
        relevant(path) && size <= MAX_FILE && self.has_room(path)
    }

    pub(crate) fn file(&mut self, path: String, content: Vec<u8>) {
        let text = String::from_utf8(content);
        let text = text.unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        self.entries.insert(path, Entry::File(text));
    }

    pub(crate) fn link(&mut self, path: String, entry: Entry) {
        self.other(&path);
        let target_fits = match &entry {
            Entry::File(_) => true,
            Entry::Hard(target) | Entry::Symbolic(target) => target.len() <= 4096,
        };
        if relevant(&path) && target_fits && self.has_room(&path) {
            self.entries.insert(path, entry);
        }
    }

    /// Something that is no file of interest: what was there before it, here or below, is gone.
    pub(crate) fn other(&mut self, path: &str) {
        self.entries.remove(path);
        if is_above(path) || relevant(path) {
            self.hidden.insert(path.to_owned());
        }
    }

    /// A directory changes nothing of what is in it.
    pub(crate) fn directory(&mut self, path: &str) {
        self.entries.remove(path);
        if [PASSWD, GROUP].contains(&path) {
            self.hidden.insert(path.to_owned());
        }
    }

    /// Whether it is a whiteout, which is then noted.
    fn whiteout(&mut self, path: &str) -> bool {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let Some(gone) = name.strip_prefix(".wh.") else { return false };
        let gone = match gone {
            // Opaque: everything that the layers below have in the directory.
            ".wh..opq" => directory.to_owned(),
            _ if directory.is_empty() => gone.to_owned(),
            _ => format!("{directory}/{gone}"),
        };
        if gone.is_empty() || is_above(&gone) || relevant(&gone) {
            self.hidden.insert(gone);
        }
        true
    }

    fn has_room(&self, path: &str) -> bool {
        self.entries.len() < MAX_FILES || [PASSWD, GROUP].contains(&path)
    }

    fn hides(&self, path: &str) -> bool {
        let below = |hidden: &String| {
            hidden.is_empty()
                || path
                    .strip_prefix(hidden.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.hidden.iter().any(below)
    }
}

fn relevant(path: &str) -> bool {
    matches!(path.rsplit('/').next(), Some("passwd" | "group"))
}

fn is_above(path: &str) -> bool {
    path == "etc"
}

/// The path without `.`, empty parts and a first slash; `None` for one that leads out, or is no text.
pub(crate) fn normal(path: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    for part in std::str::from_utf8(path).ok()?.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The two files of an image whose layers are given with the top one first.
pub(crate) fn merge(layers: &[&Found]) -> (Option<String>, Option<String>) {
    (resolve(layers, PASSWD), resolve(layers, GROUP))
}

fn resolve(layers: &[&Found], path: &str) -> Option<String> {
    let mut path = path.to_owned();
    // A hard link's other names are of its own layer.
    let mut layers = layers;
    for _ in 0..MAX_LINKS {
        let (from, entry) = lookup(layers, &path)?;
        match entry {
            Entry::File(text) => return Some(text.clone()),
            Entry::Hard(target) => {
                path = normal(target)?;
                layers = layers.get(from..=from)?;
            }
            Entry::Symbolic(target) => {
                let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
                let absolute = target.starts_with(b"/");
                let joined =
                    if absolute { target.clone() } else { [directory.as_bytes(), target].join(&b'/') };
                path = normal(&joined)?;
            }
        }
    }
    None
}

fn lookup<'a>(layers: &[&'a Found], path: &str) -> Option<(usize, &'a Entry)> {
    for (number, layer) in layers.iter().enumerate() {
        if let Some(entry) = layer.entries.get(path) {
            return Some((number, entry));
        }
        if layer.hides(path) {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests;
