//! Node configuration files for the shim under test.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::artefacts::Artefacts;
use crate::or_fail::OrFail;

/// Where the shim looks when the runtime handler names no file.
const DEFAULT: &str = "/etc/coffer/config.toml";

/// Where pods' scratch disks are.
pub const SCRATCH: &str = "/srv/e2e-scratch";

/// A node configuration (TOML): the rig's artefacts, and what a test changes in it.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    keys: Vec<(String, String)>,
}

impl NodeConfig {
    /// The configuration that makes the rig's artefacts run on any machine.
    pub fn of_rig(artefacts: &Artefacts) -> Self {
        Self { keys: Vec::new() }
            .path("image", &artefacts.image)
            .path("vhost_device_vsock", &artefacts.vhost_device_vsock)
            .set("max_scratch_mib", "1024")
            .path("scratch_directory", Path::new(SCRATCH))
    }

    /// Sets `key` to `value`, which is written as TOML.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.keys.retain(|(name, _)| name != key);
        self.keys.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Sets `key` to a path.
    #[must_use]
    pub fn path(self, key: &str, path: &Path) -> Self {
        self.set(key, &format!("{:?}", path.display().to_string()))
    }

    /// Writes the file a test names on `ctr`'s command line.
    pub fn write(&self, name: &str) -> PathBuf {
        self.write_to(Path::new("/run/e2e").join(name).with_extension("toml"))
    }

    /// Writes the file that the shim reads when nothing else is named.
    pub fn install(&self) -> PathBuf {
        self.write_to(PathBuf::from(DEFAULT))
    }

    fn write_to(&self, path: PathBuf) -> PathBuf {
        let mut text = String::new();
        for (key, value) in &self.keys {
            let _ = writeln!(text, "{key} = {value}");
        }
        fs::create_dir_all(path.parent().or_fail("directory of the configuration"))
            .or_fail("make its directory");
        fs::write(&path, text).or_fail("write the configuration");
        path
    }
}
