//! containerd's configuration, as far as it is about our runtime: the main file and its drop-ins.
//!
//! Format: containerd's `docs/cri/config.md`. Version 2 keeps CRI's settings in one plugin, version 3 in two.
//! A drop-in of another version than the main file's loses settings silently, so that is trouble.

use toml::de::{DeTable, DeValue};

use crate::root::Root;

/// Where the file is. k3s, RKE2 and k0s bring a containerd of their own, beside which containerd's own place is a left-over or a
/// client's.
const PLACES: [&str; 4] = [
    "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
    "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
    "/etc/k0s/containerd.toml",
    OWN_PLACE,
];
const OWN_PLACE: &str = "/etc/containerd/config.toml";
/// Read without being asked for by containerd 2.2 and newer.
const DROP_INS: &str = "/etc/containerd/conf.d/*.toml";
/// Our runtime's type.
const TYPE: &str = "io.containerd.coffer.v2";

/// What the files say.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    /// The main file.
    pub(crate) path: String,
    /// Its version.
    pub(crate) version: u64,
    /// Whether it imports the drop-ins itself.
    pub(crate) imports_drop_ins: bool,
    /// What CRI can be asked for.
    pub(crate) handlers: Vec<Handler>,
    /// What unpacks layers, in order.
    pub(crate) differs: Vec<String>,
    /// What containerd would not say aloud.
    pub(crate) trouble: Vec<String>,
}

/// One of CRI's runtimes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Handler {
    pub(crate) name: String,
    pub(crate) runtime_type: String,
    /// The program, where it is not to be found by its type.
    pub(crate) runtime_path: String,
    pub(crate) snapshotter: String,
    /// The file that it is in.
    pub(crate) path: String,
    /// Whether that file is read only because of where it is.
    pub(crate) automatic: bool,
}

impl Handler {
    pub(crate) fn is_ours(&self) -> bool {
        self.runtime_type == TYPE
    }
}

impl Settings {
    /// Reads them; `None` where there is no containerd.
    pub(crate) fn read(root: &Root) -> Result<Option<Self>, String> {
        let Some(path) = PLACES.into_iter().find(|path| root.exists(path)) else { return Ok(None) };
        let mut settings = Self { path: path.to_owned(), ..Self::default() };
        let imports = settings.add(root, path, Import::Main)?;
        settings.imports_drop_ins = imports.iter().any(|pattern| pattern == DROP_INS);
        for pattern in &imports {
            for file in matches(root, pattern, path) {
                settings.add(root, &file, Import::Named)?;
            }
        }
        if path == OWN_PLACE && !settings.imports_drop_ins {
            for file in matches(root, DROP_INS, path) {
                settings.add(root, &file, Import::Automatic)?;
            }
        }
        Ok(Some(settings))
    }

    /// Whether the main file is made anew at each start, with what was put beside it.
    pub(crate) fn is_generated(&self) -> bool {
        self.path != OWN_PLACE
    }

    /// The plugin that has the runtimes, in files of this version.
    pub(crate) fn plugin(&self) -> &'static str {
        plugin(self.version)
    }

    /// Adds what a file says, and returns what it imports.
    fn add(&mut self, root: &Root, path: &str, import: Import) -> Result<Vec<String>, String> {
        let text = root.text(path).map_err(|e| e.to_string())?.unwrap_or_default();
        let file = DeTable::parse(&text).map_err(|e| format!("{path}: {}", e.message()))?;
        let file = file.get_ref();
        // A file without a version is read as version 1 by containerd 1, and as 2 by what came later.
        let version = file.get("version").and_then(|v| integer(v.get_ref())).unwrap_or(2);
        match import {
            Import::Main => self.version = version,
            _ if version != self.version => self.trouble.push(format!(
                "{path} has version {version} and {} has {}: containerd drops settings of one of them",
                self.path, self.version
            )),
            _ => {}
        }
        if let Some(runtimes) = below(file, &["plugins", plugin(version), "containerd", "runtimes"]) {
            for (name, value) in runtimes {
                let text = |key| value.get_ref().as_table().and_then(|t| t.get(key)?.get_ref().as_str());
                self.handlers.push(Handler {
                    name: name.get_ref().to_string(),
                    runtime_type: text("runtime_type").unwrap_or_default().to_owned(),
                    runtime_path: text("runtime_path").unwrap_or_default().to_owned(),
                    snapshotter: text("snapshotter").unwrap_or_default().to_owned(),
                    path: path.to_owned(),
                    automatic: import == Import::Automatic,
                });
            }
        }
        let differs = below(file, &["plugins", "io.containerd.service.v1.diff-service"]);
        if let Some(list) = differs.and_then(|table| table.get("default")) {
            self.differs = strings(list.get_ref());
        }
        Ok(file.get("imports").map(|list| strings(list.get_ref())).unwrap_or_default())
    }
}

/// The plugin that has CRI's runtimes.
fn plugin(version: u64) -> &'static str {
    if version >= 3 { "io.containerd.cri.v1.runtime" } else { "io.containerd.grpc.v1.cri" }
}

/// Why a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Import {
    Main,
    Named,
    Automatic,
}

fn below<'a, 'b>(table: &'a DeTable<'b>, path: &[&str]) -> Option<&'a DeTable<'b>> {
    path.iter().try_fold(table, |table, key| table.get(*key)?.get_ref().as_table())
}

fn integer(value: &DeValue<'_>) -> Option<u64> {
    let DeValue::Integer(digits) = value else { return None };
    u64::from_str_radix(digits.as_str(), digits.radix()).ok()
}

fn strings(value: &DeValue<'_>) -> Vec<String> {
    let items = value.as_array().into_iter().flatten();
    items.filter_map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
}

/// The files that an import names: a path whose last part may have one `*`, relative to the importing file.
fn matches(root: &Root, pattern: &str, from: &str) -> Vec<String> {
    let parent = |path: &str| path.rsplit_once('/').map(|(dir, _)| dir.to_owned()).unwrap_or_default();
    let pattern =
        if pattern.starts_with('/') { pattern.to_owned() } else { format!("{}/{pattern}", parent(from)) };
    let dir = parent(&pattern);
    let name = &pattern[dir.len() + 1..];
    let Some((before, after)) = name.split_once('*') else { return vec![pattern] };
    let fits = |name: &String| {
        name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after)
    };
    root.names(&dir).into_iter().filter(fits).map(|name| format!("{dir}/{name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for (path, text) in files {
            fs::create_dir_all(root.path(path).parent().unwrap()).unwrap();
            fs::write(root.path(path), text).unwrap();
        }
        (dir, root)
    }

    const OURS: &str = "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.coffer-snp]\n\
                        runtime_type = 'io.containerd.coffer.v2'\nsnapshotter = 'erofs'\n";

    #[test]
    fn a_handler_is_found_in_the_main_file_and_in_drop_ins() {
        let (_dir, root) = host(&[("/etc/containerd/config.toml", OURS)]);
        let settings = Settings::read(&root).unwrap().unwrap();
        assert_eq!(settings.handlers.len(), 1);
        assert!(settings.handlers[0].is_ours() && !settings.handlers[0].automatic);

        let main = "version = 3\nimports = ['conf.d/*.toml', '/absent/*.toml']\n";
        let (_dir, root) =
            host(&[("/etc/containerd/config.toml", main), ("/etc/containerd/conf.d/a.toml", OURS)]);
        let settings = Settings::read(&root).unwrap().unwrap();
        assert_eq!(settings.handlers[0].path, "/etc/containerd/conf.d/a.toml");

        let (_dir, root) = host(&[
            ("/etc/containerd/config.toml", "version = 3\n"),
            ("/etc/containerd/conf.d/a.toml", OURS),
        ]);
        assert!(Settings::read(&root).unwrap().unwrap().handlers[0].automatic);
    }

    /// k0s merges its drop-ins into a file below /run, which its main file imports (`pkg/component/worker/containerd`).
    #[test]
    fn engines_that_bring_containerd_have_places_of_their_own() {
        let left_over = ("/etc/containerd/config.toml", "version = 2\n");
        let k0s =
            "version = 3\nimports = ['/run/k0s/containerd-cri.toml', '/etc/k0s/containerd.d/layers.toml']\n";
        for (path, main, own) in [
            ("/etc/k0s/containerd.toml", k0s, "/run/k0s/containerd-cri.toml"),
            (PLACES[0], OURS, PLACES[0]),
            (PLACES[1], OURS, PLACES[1]),
        ] {
            let layers = ("/etc/k0s/containerd.d/layers.toml", "version = 3\n[timeouts]\n");
            let (_dir, root) = host(&[left_over, layers, (path, main), (own, OURS)]);
            let settings = Settings::read(&root).unwrap().unwrap();
            assert_eq!((settings.path.as_str(), settings.handlers[0].path.as_str()), (path, own));
            assert!(settings.is_generated() && settings.trouble.is_empty(), "{settings:?}");
        }
    }

    #[test]
    fn versions_that_differ_are_trouble() {
        let (_dir, root) = host(&[
            ("/etc/containerd/config.toml", "version = 2\n"),
            ("/etc/containerd/conf.d/a.toml", OURS),
        ]);
        let settings = Settings::read(&root).unwrap().unwrap();
        assert_eq!(settings.trouble.len(), 1);
        assert!(settings.trouble[0].contains("has version 3 and /etc/containerd/config.toml has 2"));
    }

    #[test]
    fn a_version_2_file_keeps_its_runtimes_elsewhere() {
        let text = OURS.replace("version = 3", "version = 2");
        let (_dir, root) = host(&[("/etc/containerd/config.toml", &text)]);
        assert!(Settings::read(&root).unwrap().unwrap().handlers.is_empty());
        let text = text.replace("io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri");
        let (_dir, root) = host(&[("/etc/containerd/config.toml", &text)]);
        assert_eq!(Settings::read(&root).unwrap().unwrap().handlers.len(), 1);
    }

    #[test]
    fn what_is_no_toml_is_an_error_and_nothing_is_none() {
        let (_dir, root) = host(&[("/etc/containerd/config.toml", "version =\n")]);
        assert!(Settings::read(&root).unwrap_err().starts_with("/etc/containerd/config.toml: "));
        let (_dir, root) = host(&[]);
        assert!(Settings::read(&root).unwrap().is_none());
    }
}
