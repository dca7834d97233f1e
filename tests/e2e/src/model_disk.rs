//! Model volumes: what a pod's owner makes with `coffer volume`, and the node has as a file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::artefacts::Artefacts;
use crate::key_broker::KeyBroker;
use crate::or_fail::OrFail;

/// A volume in a file of the node, which goes when this is dropped.
#[derive(Debug)]
pub struct ModelDisk {
    directory: PathBuf,
    /// Its name among the pod's volumes.
    pub name: String,
    /// Where the pod has it.
    pub path: String,
    /// Its table of volumes.toml.
    pub table: String,
}

impl ModelDisk {
    /// Makes one of these files, encrypted where a key is given. `name` is unique in the test binary.
    pub fn new(name: &str, path: &str, files: &[(&str, &[u8])], key: Option<&str>) -> Self {
        let directory = Path::new("/run/e2e/models").join(name);
        let content = directory.join("content");
        fs::create_dir_all(&content).or_fail("make a model's directory");
        for (file, bytes) in files {
            fs::write(content.join(file), bytes).or_fail(file);
        }
        let out = directory.join("volume.img");
        let mut command = Command::new(Artefacts::coffer());
        command.args(["volume", "build", "--name", name]).arg(&content).arg("--out").arg(&out);
        if let Some(key) = key {
            let file = directory.join("key");
            fs::write(&file, key).or_fail("key");
            command.arg("--key").arg(file).args(["--resource", &format!("kbs:///{}", KeyBroker::PATH)]);
        }
        let output = command.output().or_fail("run coffer");
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        let table = String::from_utf8(output.stdout).or_fail("a table");
        Self { directory, name: name.to_owned(), path: path.to_owned(), table }
    }

    /// The node's file.
    pub fn file(&self) -> PathBuf {
        self.directory.join("volume.img")
    }
}

impl Drop for ModelDisk {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}
