//! What the measured root has to drive GPUs with: it says so itself, in one file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::driver::Module;
use super::plan::Plan;

/// The file, below the root; an image without it drives none.
pub const FILE: &str = "usr/lib/coffer/gpu/driver.toml";
/// Where the modules are, below the root.
pub const MODULES: &str = "usr/lib/coffer/gpu";

/// A module's name, and its parameters where links are used and where not.
const MODULE: [(&str, &str, &str); 2] = [("nvidia", "", "NVreg_NvLinkDisable=1"), ("nvidia-uvm", "", "")];

/// The driver in this image.
#[derive(Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Installed {
    version: String,
    /// In the order in which they are loaded.
    modules: Vec<String>,
    /// Whether there is a daemon that holds GPUs open.
    persistence: bool,
    /// What containers get of it, by their paths here and there.
    libraries: Vec<Library>,
}

/// A file that containers get.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Library {
    /// Its path in the guest.
    pub path: String,
    /// Its paths in a container: where each kind of system looks for libraries.
    pub places: Vec<String>,
}

/// Why the image's word is not usable.
#[derive(Debug, thiserror::Error)]
pub enum InstalledError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// It is no description of a driver.
    #[error("{} is not usable: {what}", path.display())]
    Form { path: PathBuf, what: String },
}

impl Installed {
    /// Reads it; `None` where there is no driver.
    ///
    /// # Errors
    ///
    /// [`InstalledError`].
    pub fn read(root: &Path) -> Result<Option<Self>, InstalledError> {
        let path = root.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(InstalledError::Read { path, source }),
        };
        Self::parse(&text).map(Some).map_err(|what| InstalledError::Form { path, what })
    }

    /// Reads the file's text.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let installed: Self =
            toml::from_str(text).map_err(|error: toml::de::Error| error.message().to_owned())?;
        let known = |name: &&String| MODULE.iter().any(|(known, ..)| known == name);
        if let Some(name) = installed.modules.iter().find(|name| !known(name)) {
            return Err(format!("there is no module {name:?}"));
        }
        // They go into JSON as they are.
        let is_plain = |path: &String| {
            path.starts_with('/')
                && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._+-".contains(&byte))
        };
        let mut libraries = installed.libraries.iter();
        let bad = libraries.find_map(|Library { path, places }| {
            std::iter::once(path).chain(places).find(|path| !is_plain(path))
        });
        match bad {
            Some(path) => Err(format!("{path:?} is no plain path")),
            None => Ok(installed),
        }
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What a plan loads, in order.
    pub fn modules(&self, plan: &Plan) -> Vec<Module> {
        let known = self.modules.iter().filter_map(|name| MODULE.iter().find(|(known, ..)| known == name));
        let module = |(name, linked, alone): &(&'static str, &'static str, &'static str)| Module {
            name,
            parameters: if plan.links { linked } else { alone },
        };
        known.map(module).collect()
    }

    /// Whether there is this module.
    pub fn has_module(&self, name: &str) -> bool {
        self.modules.iter().any(|module| module == name)
    }

    /// Whether there is a daemon that holds GPUs open.
    pub const fn has_persistence(&self) -> bool {
        self.persistence
    }

    /// What containers get.
    pub fn libraries(&self) -> &[Library] {
        &self.libraries
    }
}
