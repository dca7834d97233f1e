//! Changes in a file that is somebody else's: words put into it, which can be taken out again.

use serde::{Deserialize, Serialize};
use toml::de::{DeTable, DeValue};

use crate::bundle::sha256;
use crate::error::{Error, Result};

/// Words that are put into a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Edit {
    /// The file.
    pub(crate) path: String,
    /// At which byte.
    pub(crate) offset: usize,
    /// The words.
    pub(crate) inserted: String,
    /// SHA-256 of the file without them.
    pub(crate) before: String,
    /// SHA-256 of the file with them.
    pub(crate) after: String,
}

impl Edit {
    fn new(path: &str, text: &str, offset: usize, inserted: String) -> Self {
        let after = with(text, offset, &inserted);
        let (before, after) = (sha256(text.as_bytes()), sha256(after.as_bytes()));
        Self { path: path.to_owned(), offset, inserted, before, after }
    }

    /// Has a file of containerd import those of a pattern; `version` is a line that goes before it, or nothing.
    ///
    /// # Errors
    /// It does not parse, or imports something that is no list.
    pub(crate) fn import(path: &str, text: &str, pattern: &str, version: &str) -> Result<Self> {
        let syntax = |reason: String| Error::Syntax { path: path.to_owned(), reason };
        let table = DeTable::parse(text).map_err(|error| syntax(error.to_string()))?;
        let Some(imports) = table.get_ref().get("imports") else {
            // Before the first table.
            return Ok(Self::new(path, text, 0, format!("{version}imports = [{pattern:?}]\n")));
        };
        let DeValue::Array(items) = imports.get_ref() else {
            return Err(syntax("`imports` is no list".to_owned()));
        };
        let (offset, inserted) = match items.iter().last() {
            Some(last) => (last.span().end, format!(", {pattern:?}")),
            None => (imports.span().start + 1, format!("{pattern:?}")),
        };
        Ok(Self::new(path, text, offset, inserted))
    }

    /// Puts words at a file's beginning.
    pub(crate) fn prepend(path: &str, text: &str, words: &str) -> Self {
        Self::new(path, text, 0, words.to_owned())
    }

    /// Puts words at a file's end.
    pub(crate) fn append(path: &str, text: &str, words: &str) -> Self {
        Self::new(path, text, text.len(), words.to_owned())
    }

    /// The file with the words.
    pub(crate) fn apply(&self, text: &str) -> String {
        with(text, self.offset, &self.inserted)
    }

    /// The file without the words; `None` where they are not in it.
    ///
    /// # Errors
    /// The words are there several times, so that it cannot be told which are ours.
    pub(crate) fn undo(&self, text: &str) -> Result<Option<String>> {
        if sha256(text.as_bytes()) == self.after {
            return Ok(Some(without(text, self.offset, self.inserted.len())));
        }
        let mut places = text.match_indices(&self.inserted);
        match (places.next(), places.next()) {
            (None, _) => Ok(None),
            (Some((at, _)), None) => Ok(Some(without(text, at, self.inserted.len()))),
            _ => Err(Error::Edited { path: self.path.clone(), inserted: self.inserted.trim().to_owned() }),
        }
    }
}

fn with(text: &str, offset: usize, inserted: &str) -> String {
    let (before, after) = text.split_at(offset);
    format!("{before}{inserted}{after}")
}

fn without(text: &str, offset: usize, length: usize) -> String {
    format!("{}{}", &text[..offset], &text[offset + length..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATTERN: &str = "/etc/containerd/conf.d/*.toml";

    fn import(text: &str) -> Edit {
        Edit::import("/c", text, PATTERN, "").unwrap()
    }

    #[test]
    fn an_import_comes_before_all_tables_and_goes_again() {
        let cases = [
            (
                "version = 2\n[a]\nb = 1\n",
                "imports = [\"/etc/containerd/conf.d/*.toml\"]\nversion = 2\n[a]\nb = 1\n",
            ),
            ("", "imports = [\"/etc/containerd/conf.d/*.toml\"]\n"),
            ("imports = []\n[a]\n", "imports = [\"/etc/containerd/conf.d/*.toml\"]\n[a]\n"),
            (
                "imports = ['/x', \"/y\" ,] # z\n",
                "imports = ['/x', \"/y\", \"/etc/containerd/conf.d/*.toml\" ,] # z\n",
            ),
            (
                "imports = [\n  \"/x\" # ]\n]\n",
                "imports = [\n  \"/x\", \"/etc/containerd/conf.d/*.toml\" # ]\n]\n",
            ),
        ];
        for (text, wanted) in cases {
            let edit = import(text);
            assert_eq!(edit.apply(text), wanted);
            DeTable::parse(wanted).unwrap();
            assert_eq!(edit.undo(wanted).unwrap().as_deref(), Some(text));
        }
    }

    #[test]
    fn what_others_write_meanwhile_stays() {
        let text = "imports = []\n[a]\n";
        let edit = import(text);
        let edited = format!("# mine\n{}[b]\n", edit.apply(text));
        assert_eq!(edit.undo(&edited).unwrap().as_deref(), Some("# mine\nimports = []\n[a]\n[b]\n"));
        assert_eq!(edit.undo(text).unwrap(), None);
        let twice = format!("{0}# {0}", edit.apply(text));
        let error = edit.undo(&twice).unwrap_err().to_string();
        assert!(error.contains("remove these words by hand"), "{error}");
    }

    #[test]
    fn imports_that_are_no_list_are_refused() {
        for text in ["imports = \"/x\"\n", "imports = [\n"] {
            assert!(Edit::import("/c", text, PATTERN, "").is_err(), "{text}");
        }
    }
}
