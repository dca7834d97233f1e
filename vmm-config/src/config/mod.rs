//! The node's configuration file.
//!
//! One TOML table without sections. Every key is defined once, in [`NodeConfig`]; its doc comment is
//! what `coffer config` prints. A key that is not defined is an error, and all errors of a file are
//! reported together, each with its line.

use std::collections::BTreeMap;

mod keys;
mod parse;
mod tee;
mod values;

pub use crate::path::{AbsolutePath, Program};
pub use keys::NodeConfig;
pub use parse::{ConfigError, ConfigErrors, MAX_FILE, Problem};
pub use tee::{QuoteAddress, QuoteService, Restriction, SnpCpu, SnpPolicy, Tee};
pub use values::{AutoOr, ScratchLimit};

/// Where the file is, unless the engine or a command names another.
pub const FILE: &str = "/etc/coffer/config.toml";

/// Where a configuration value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The file does not set the key.
    Default,
    /// The file sets it on this line, counted from 1.
    File {
        /// Path of the file, as given to [`NodeConfig::parse`].
        path: String,
        /// Line number.
        line: usize,
    },
}

/// Which keys the configuration file sets, and on which lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    path: String,
    lines: BTreeMap<&'static str, usize>,
}

impl Origins {
    fn new(path: &str) -> Self {
        Self { path: path.to_owned(), lines: BTreeMap::new() }
    }

    fn set(&mut self, key: &'static str, line: usize) {
        self.lines.insert(key, line);
    }

    /// Where the key's value came from.
    pub fn of(&self, key: &str) -> Origin {
        match self.lines.get(key) {
            Some(&line) => Origin::File { path: self.path.clone(), line },
            None => Origin::Default,
        }
    }
}

/// One key of the effective configuration, for people and scripts.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key's name.
    pub key: &'static str,
    /// Its value as JSON; absent optional values are null.
    pub value: serde_json::Value,
    /// Where the value came from.
    pub origin: Origin,
    /// What the key means: its doc comment, one line per line.
    pub doc: &'static str,
}

/// Name and meaning of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyDoc {
    /// The key's name.
    pub key: &'static str,
    /// Its doc comment.
    pub doc: &'static str,
}
