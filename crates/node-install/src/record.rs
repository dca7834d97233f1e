//! What an installation has changed, written down before each change.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::bundle::{hex, sha256};
use crate::disk::Disk;
use crate::dropin::HEAD;
use crate::engine::Kind;
use crate::error::{Error, Result};
use crate::import::Edit;
use crate::instance::Instance;
use crate::root::Root;

/// The format that is written.
const FORMAT: u32 = 1;

/// An installation's record: `install.json` in its directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    format: u32,
    /// Whose it is.
    pub instance: Instance,
    /// The engine that was told.
    pub engine: Kind,
    /// The version that new pods get; `None` until there is one.
    pub version: Option<String>,
    /// The handlers that the engine knows.
    pub handlers: Vec<String>,
    /// Whether the engine's files were changed and it has not been seen to serve with them.
    pub unsettled: bool,
    /// Directories that were not there before, outermost first.
    pub(crate) directories: Vec<String>,
    /// Configuration files, each with the digests of all that was ever written there.
    pub(crate) files: BTreeMap<String, Vec<String>>,
    /// Files that tell the engine of the runtimes, in the same form.
    pub(crate) registered: BTreeMap<String, Vec<String>>,
    /// Changes in files of others.
    pub(crate) edits: Vec<Edit>,
}

impl Record {
    /// Where an instance's is.
    #[must_use]
    pub fn path(instance: &Instance) -> String {
        format!("{}/install.json", instance.prefix())
    }

    /// Reads an instance's; `None` where it is not installed.
    ///
    /// # Errors
    /// It cannot be read, or another version wrote it.
    pub fn read(root: &Root, instance: &Instance) -> Result<Option<Self>> {
        let path = Self::path(instance);
        let Some(text) = root.text(&path)? else { return Ok(None) };
        let bad = |reason: String| Error::Record { path: path.clone(), reason };
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        if value["format"] != FORMAT {
            return Err(bad(format!("its format is {}, and known is {FORMAT}", value["format"])));
        }
        let record: Self = serde_json::from_value(value).map_err(|error| bad(error.to_string()))?;
        if record.instance != *instance {
            return Err(bad(format!("it is of the instance {}", record.instance)));
        }
        Ok(Some(record))
    }

    /// A new one, written at once with the directories that it needs.
    pub(crate) fn create(disk: &Disk<'_>, instance: &Instance, engine: Kind) -> Result<Self> {
        let path = Self::path(instance);
        let mut record = Self {
            format: FORMAT,
            instance: instance.clone(),
            engine,
            version: None,
            handlers: Vec::new(),
            unsettled: false,
            directories: Vec::new(),
            files: BTreeMap::new(),
            registered: BTreeMap::new(),
            edits: Vec::new(),
        };
        record.directories = missing(disk.root(), &path);
        disk.write_with_parents(&path, &record.text())?;
        Ok(record)
    }

    pub(crate) fn save(&self, disk: &Disk<'_>) -> Result<()> {
        disk.write(&Self::path(&self.instance), &self.text(), 0o644)
    }

    fn text(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// Whether a file's content is what an installation wrote there.
    pub(crate) fn wrote(&self, path: &str, content: &[u8]) -> bool {
        let digest = sha256(content);
        let of =
            |files: &BTreeMap<String, Vec<String>>| files.get(path).is_some_and(|all| all.contains(&digest));
        of(&self.files) || of(&self.registered)
    }

    /// The files of the engine's that were written or changed.
    pub(crate) fn told_files(&self) -> BTreeSet<&String> {
        self.edits.iter().map(|edit| &edit.path).chain(self.registered.keys()).collect()
    }

    /// Whether a file of ours is one that others add to: an engine's main file or a template, made because there was none.
    pub(crate) fn is_shared(&self, path: &str) -> bool {
        !path.rsplit('/').next().is_some_and(|name| name.contains(&self.instance.file_name()))
    }

    /// A file that others have added to, without what was written there; `None` where that is not in it as it was. What theirs
    /// stands on stays: the schema's version, and the base of a template.
    pub(crate) fn without_written(&self, path: &str, text: &str) -> Option<String> {
        let written = self.written(path, text)?;
        let stays = |line: &&str| line.starts_with("version = ") || line.starts_with("{{");
        let base: String = text[written.clone()].split_inclusive('\n').filter(stays).collect();
        Some(format!("{}{base}{}", &text[..written.start], &text[written.end..]))
    }

    /// Where in a file's text is what an installation wrote there.
    fn written(&self, path: &str, text: &str) -> Option<Range<usize>> {
        let digests = self.registered.get(path)?;
        let heads = text.match_indices(HEAD).map(|(at, _)| at);
        for start in std::iter::once(0).chain(heads) {
            let (mut sum, mut end) = (Sha256::new(), start);
            for line in text[start..].split_inclusive('\n') {
                sum.update(line);
                end += line.len();
                if digests.contains(&hex(&sum.clone().finalize())) {
                    return Some(start..end);
                }
            }
        }
        None
    }

    /// Notes the directories of a file that are not there, so that they may be made.
    pub(crate) fn note_directories(&mut self, root: &Root, path: &str) {
        for directory in missing(root, path) {
            if !self.directories.contains(&directory) {
                self.directories.push(directory);
            }
        }
    }
}

/// The directories of a path that are not there, outermost first.
pub(crate) fn missing(root: &Root, path: &str) -> Vec<String> {
    let ends = path.match_indices('/').map(|(at, _)| &path[..at]).filter(|directory| !directory.is_empty());
    ends.filter(|directory| !root.exists(directory)).map(str::to_owned).collect()
}
