//! The golden command lines of `vmm-config`, and how they are read.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// A golden command line.
#[derive(Debug, Clone)]
pub struct Line {
    /// The golden file's name.
    pub name: String,
    /// Options with their values.
    pub args: Vec<(String, String)>,
}

impl Line {
    /// All that are committed.
    pub fn all() -> Vec<Self> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vmm-config/src");
        let folders = ["snapshots", "golden/snapshots"].map(|folder| source.join(folder));
        let files = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap());
        let mut files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
        files.retain(|file| file.to_str().is_some_and(|name| name.contains("__golden__")));
        files.sort();
        files.iter().map(|file| Self::read(file)).collect()
    }

    fn read(file: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap();
        let (_, line) = text.split_once("\n---\n").unwrap();
        let args = line.trim().lines().map(|line| line.split_once(' ').unwrap_or((line, "")));
        Self {
            name: file.file_stem().unwrap().to_str().unwrap().to_owned(),
            args: args.map(|(option, value)| (option.to_owned(), value.to_owned())).collect(),
        }
    }

    /// The values of an option.
    pub fn values(&self, option: &str) -> impl Iterator<Item = &str> {
        self.args.iter().filter(move |(name, _)| name == option).map(|(_, value)| value.as_str())
    }

    /// Whether an option has a value with this in it.
    pub fn has(&self, option: &str, part: &str) -> bool {
        self.values(option).any(|value| value.contains(part))
    }
}

/// The type that an option's value begins with, and the names of the properties that follow.
pub fn parse(value: &str) -> (String, Vec<String>) {
    if value.starts_with('{') {
        let json: Value = serde_json::from_str(value).unwrap();
        let json = json.as_object().unwrap();
        let kind = json.get("qom-type").or_else(|| json.get("driver")).unwrap().as_str().unwrap();
        let names = json.keys().filter(|key| !["qom-type", "driver"].contains(&key.as_str()));
        return (kind.to_owned(), names.cloned().collect());
    }
    let mut parts = value.split(',');
    let kind = parts.next().unwrap().to_owned();
    (kind, parts.filter_map(|part| part.split_once('=')).map(|(name, _)| name.to_owned()).collect())
}

/// An object of the command line as the monitor takes it.
pub fn as_json(value: &str) -> Value {
    if value.starts_with('{') {
        return serde_json::from_str(value).unwrap();
    }
    let mut parts = value.split(',');
    let mut object = Map::new();
    object.insert("qom-type".to_owned(), parts.next().unwrap().into());
    for (name, value) in parts.map(|part| part.split_once('=').unwrap()) {
        let hexadecimal = value.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let value = match (hexadecimal.or_else(|| value.parse().ok()), value) {
            (Some(number), _) => number.into(),
            (None, "on" | "off") => (value == "on").into(),
            (None, text) => text.into(),
        };
        object.insert(name.to_owned(), value);
    }
    object.into()
}
