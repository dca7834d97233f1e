//! Which program runs the node's containers, and where it is told of runtimes.
//!
//! containerd: `docs/man/containerd-config.toml.5.md`; `/etc/containerd/conf.d` is read from 2.2 on. k3s and rke2 make their
//! file anew at each start, from a template beside it, and newer ones import the directory `config-v3.toml.d`
//! (docs.k3s.io, "Configuring containerd"). k0s reads `/etc/k0s/containerd.d` (docs.k0sproject.io, "Runtime"), where a file
//! has either CRI's settings or others. CRI-O: `crio.conf.d(5)`.

use std::fmt;

use serde::{Deserialize, Serialize};
use toml::de::{DeTable, DeValue};

use crate::daemon::Runtimes;
use crate::error::{Error, Result};
use crate::root::Root;

/// The kinds of engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// containerd by itself.
    Containerd,
    /// containerd in k3s.
    K3s,
    /// containerd in rke2.
    Rke2,
    /// containerd in k0s.
    K0s,
    /// CRI-O.
    Crio,
}

impl Kind {
    /// All of them; those whose containerd is their own come first.
    pub const ALL: [Self; 5] = [Self::K3s, Self::Rke2, Self::K0s, Self::Containerd, Self::Crio];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::K3s => "k3s",
            Self::Rke2 => "rke2",
            Self::K0s => "k0s",
            Self::Crio => "CRI-O",
        }
    }

    /// What tells that a node has it.
    const fn sign(self) -> &'static str {
        match self {
            Self::Containerd => "/etc/containerd",
            Self::K3s => "/var/lib/rancher/k3s/agent/etc/containerd",
            Self::Rke2 => "/var/lib/rancher/rke2/agent/etc/containerd",
            Self::K0s => "/etc/k0s/containerd.toml",
            Self::Crio => "/etc/crio",
        }
    }

    /// Its main configuration file. Not CRI-O's, which has none that matters here.
    #[must_use]
    pub const fn main_file(self) -> &'static str {
        match self {
            Self::Containerd => "/etc/containerd/config.toml",
            Self::K3s => "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
            Self::Rke2 => "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
            Self::K0s => "/etc/k0s/containerd.toml",
            Self::Crio => "/etc/crio/crio.conf",
        }
    }

    /// systemd's units of which one runs it.
    #[must_use]
    pub const fn units(self) -> &'static [&'static str] {
        match self {
            Self::Containerd => &["containerd"],
            Self::K3s => &["k3s", "k3s-agent"],
            Self::Rke2 => &["rke2-server", "rke2-agent"],
            Self::K0s => &["k0sworker", "k0scontroller"],
            Self::Crio => &["crio"],
        }
    }

    /// Where the engine's containerd is, best first; a name is looked up in PATH.
    #[must_use]
    pub const fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Containerd => &["containerd"],
            Self::K3s => &["/var/lib/rancher/k3s/data/current/bin/containerd"],
            Self::Rke2 => &["/var/lib/rancher/rke2/bin/containerd"],
            Self::K0s => &["/var/lib/k0s/bin/containerd"],
            Self::Crio => &["crio"],
        }
    }

    /// Where it serves CRI.
    #[must_use]
    pub const fn socket(self) -> &'static str {
        match self {
            Self::Containerd => "/run/containerd/containerd.sock",
            Self::K3s | Self::Rke2 => "/run/k3s/containerd/containerd.sock",
            Self::K0s => "/run/k0s/containerd.sock",
            Self::Crio => "/run/crio/crio.sock",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How containerd's configuration is spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Schema {
    /// containerd 1.
    V2,
    /// containerd 2.0 to 2.2.
    V3,
    /// containerd 2.3.
    V4,
}

impl Schema {
    pub(crate) const fn number(self) -> u64 {
        match self {
            Self::V2 => 2,
            Self::V3 => 3,
            Self::V4 => 4,
        }
    }

    fn of(number: u64) -> Option<Self> {
        [Self::V2, Self::V3, Self::V4].into_iter().find(|schema| schema.number() == number)
    }
}

/// The engine of a node, as its files tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// Its kind.
    pub kind: Kind,
    /// The schema of its files; CRI-O's have none.
    pub(crate) schema: Option<Schema>,
    /// The main file's text; `None` where there is none.
    pub(crate) main: Option<String>,
    /// What the main file imports.
    pub(crate) imports: Vec<String>,
    /// Whether the main file says its version.
    pub(crate) has_version: bool,
    /// Its program's version, where that says one.
    pub(crate) version: Option<(u32, u32)>,
}

impl Engine {
    /// Finds the node's engine, or looks at the one that is named. `default_schema` is what the engine's own defaults have
    /// (`containerd config default`), for a node without a file.
    ///
    /// # Errors
    /// None or several, or one whose configuration cannot be read.
    pub fn find(
        root: &Root,
        named: Option<Kind>,
        default_schema: impl Fn(Kind) -> Option<u64>,
    ) -> Result<Self> {
        let kind = match named {
            Some(kind) => kind,
            None => Self::only(root)?,
        };
        if kind == Kind::Crio {
            let (schema, main, imports) = (None, None, Vec::new());
            return Ok(Self { kind, schema, main, imports, has_version: true, version: None });
        }
        let path = kind.main_file();
        let main = root.text(path)?;
        let parsed = parse(path, main.as_deref().unwrap_or_default())?;
        let number = match parsed.version {
            Some(number) => number,
            // Without a version containerd 1 takes a file for schema 1, and containerd 2 for its own.
            None if parsed.has_plugins => {
                return Err(Error::Schema { path: path.to_owned(), found: "none".to_owned() });
            }
            None => default_schema(kind).unwrap_or(2),
        };
        let schema = Schema::of(number)
            .ok_or_else(|| Error::Schema { path: path.to_owned(), found: number.to_string() })?;
        let has_version = parsed.version.is_some();
        let imports = parsed.imports;
        Ok(Self { kind, schema: Some(schema), main, imports, has_version, version: None })
    }

    fn only(root: &Root) -> Result<Kind> {
        let found: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| root.exists(kind.sign())).collect();
        match found.as_slice() {
            [] => Err(Error::NoEngine),
            [kind] => Ok(*kind),
            // k3s, rke2 and k0s bring their own; a directory of containerd's beside it is a leftover or a client's.
            [kind @ (Kind::K3s | Kind::Rke2 | Kind::K0s), Kind::Containerd] => Ok(*kind),
            several => {
                let names: Vec<_> = several.iter().map(|kind| kind.name()).collect();
                Err(Error::ManyEngines { found: names.join(" and ") })
            }
        }
    }

    /// Takes what the main file imports from another text of it.
    pub(crate) fn forget_imports(&mut self, text: &str) -> Result<()> {
        let parsed = parse(self.kind.main_file(), text)?;
        (self.imports, self.has_version) = (parsed.imports, parsed.version.is_some());
        Ok(())
    }

    /// Whether a drop-in's word of a plugin hides all that the main file says of it, CRI's runtimes included (`mergeConfig` in
    /// containerd 1.7's `services/server/config/config.go`). k3s and rke2 have one file, and k0s merges by itself.
    pub(crate) fn replaces_plugins(&self) -> bool {
        // Every containerd reads one file as well; so one that does not say its version gets that.
        let is_old = self.version.is_none_or(|version| version < (2, 0));
        self.kind == Kind::Containerd && self.schema == Some(Schema::V2) && is_old
    }

    /// Whether the main file imports the files of a directory by this pattern.
    pub(crate) fn imports(&self, pattern: &str) -> bool {
        self.imports.iter().any(|import| import == pattern)
    }
}

struct Parsed {
    version: Option<u64>,
    imports: Vec<String>,
    has_plugins: bool,
}

fn parse(path: &str, text: &str) -> Result<Parsed> {
    let table = DeTable::parse(text).map_err(|error| Error::Syntax {
        path: path.to_owned(),
        reason: error.to_string().trim().replace('\n', " "),
    })?;
    let table = table.get_ref();
    let version = table.get("version").and_then(|value| match value.get_ref() {
        DeValue::Integer(digits) => u64::from_str_radix(digits.as_str(), digits.radix()).ok(),
        _ => None,
    });
    let imports = table.get("imports").and_then(|value| value.get_ref().as_array());
    let imports = imports.into_iter().flatten().filter_map(|item| item.get_ref().as_str().map(str::to_owned));
    Ok(Parsed { version, imports: imports.collect(), has_plugins: table.contains_key("plugins") })
}

/// Whether a file has a handler; one that is no TOML, as a template, by the line that its table begins with.
pub(crate) fn has_handler(text: &str, handler: &str) -> bool {
    let begins = |line: &str| {
        let table = line.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let name = table.and_then(|table| table.rsplit_once(".runtimes."));
        name.is_some_and(|(_, name)| name.trim_matches(['"', '\'']) == handler)
    };
    runtimes(text).map_or_else(|_| text.lines().any(begins), |found| found.contains_key(handler))
}

/// The runtimes that a configuration has, each with its type: a file's, or what `containerd config dump` and `crio config` print.
///
/// # Errors
/// Where it is no TOML.
pub fn runtimes(text: &str) -> std::result::Result<Runtimes, String> {
    const PLACES: [&[&str]; 3] = [
        &["plugins", "io.containerd.cri.v1.runtime", "containerd", "runtimes"],
        &["plugins", "io.containerd.grpc.v1.cri", "containerd", "runtimes"],
        &["crio", "runtime", "runtimes"],
    ];
    let table = DeTable::parse(text).map_err(|error| error.to_string().trim().replace('\n', " "))?;
    let below = |path: &&[&str]| {
        path.iter().try_fold(table.get_ref(), |table, key| table.get(*key)?.get_ref().as_table())
    };
    let mut found = Runtimes::new();
    for (name, value) in PLACES.iter().filter_map(below).flat_map(|runtimes| runtimes.iter()) {
        let kind = value.get_ref().as_table().and_then(|t| t.get("runtime_type")?.get_ref().as_str());
        found.insert(name.get_ref().to_string(), kind.unwrap_or_default().to_owned());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::has_handler;

    #[test]
    fn a_handler_is_found_in_each_spelling() {
        let plugin = "plugins.\"io.containerd.grpc.v1.cri\".containerd";
        let cases = [
            (format!("[{plugin}.runtimes.coffer]\n"), true),
            (format!("[{plugin}]\n  runtimes = {{ coffer = {{ runtime_type = 'x' }} }}\n"), true),
            (format!("# [{plugin}.runtimes.coffer]\n"), false),
            (format!("[{plugin}.runtimes.coffer-snp]\n[{plugin}.coffer]\n"), false),
            // No TOML, as a template.
            (format!("{{{{ template \"base\" . }}}}\n  [{plugin}.runtimes.'coffer']\n"), true),
            (format!("{{{{ template \"base\" . }}}}\n[{plugin}.runtimes.coffer-snp]\n# coffer\n"), false),
        ];
        for (text, wanted) in cases {
            assert_eq!(has_handler(&text, "coffer"), wanted, "{text}");
        }
    }
}
