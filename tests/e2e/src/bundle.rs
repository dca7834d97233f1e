//! An OCI bundle as an engine lays it out before it calls a shim.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use k8s_cri::v1::Mount;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

use crate::crio;
use crate::images;
use crate::or_fail::OrFail;

/// A bundle directory; removed when dropped.
#[derive(Debug)]
pub struct Bundle {
    /// The container's id.
    pub id: String,
    /// The directory, which is also the working directory of the shim's calls.
    pub path: PathBuf,
    log: File,
}

impl Bundle {
    /// A container that runs `command` from a busybox root of its own.
    pub fn new(id: &str, command: &[&str]) -> Self {
        Self::with_spec(id, &spec(command, json!({})))
    }

    /// A container of CRI-O: the sandbox itself when `sandbox` is its own id.
    pub fn of_crio(id: &str, sandbox: &str, command: &[&str]) -> Self {
        Self::with_spec(id, &crio::spec(id, sandbox, command, &[], &[]))
    }

    /// The same with mounts of files of the node. The pod's UID is `uid-` and its name.
    pub fn of_crio_with(id: &str, sandbox: &str, command: &[&str], mounts: &[Mount]) -> Self {
        Self::with_spec(id, &crio::spec(id, sandbox, command, mounts, &[]))
    }

    /// The same with annotations of the pod's author.
    pub fn of_crio_annotated(id: &str, sandbox: &str, command: &[&str], by: &[(&str, &str)]) -> Self {
        Self::with_spec(id, &crio::spec(id, sandbox, command, &[], by))
    }

    /// A container whose config.json is what the test says, valid or not.
    pub fn with_spec(id: &str, spec: &str) -> Self {
        let path = Path::new("/run/e2e/bundles").join(id);
        fs::create_dir_all(&path).or_fail("make a bundle");
        images::unpack_busybox(&path.join("image"));
        fs::create_dir_all(path.join("rootfs")).or_fail("make a rootfs");
        fs::write(path.join("config.json"), spec).or_fail("write config.json");
        let log = path.join("log");
        mkfifo(&log, Mode::from_bits_truncate(0o700)).or_fail("make the log fifo");
        // Open but not read, unless a test asks: an engine's stalled reader.
        let log = File::options().read(true).write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(log);
        Self { id: id.to_owned(), path, log: log.or_fail("open the log fifo") }
    }

    /// The mounted image, as an engine names it in Create.
    pub fn image(&self) -> PathBuf {
        self.path.join("image")
    }

    /// What the shim logged and nobody read yet.
    pub fn read_log(&mut self) -> String {
        let mut text = Vec::new();
        // Ends with "would block" when the fifo is empty.
        let _ = self.log.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        crio::forget(&self.id);
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The smallest spec that runs `command`.
pub fn spec(command: &[&str], annotations: Value) -> String {
    // Every engine's spec has them: an exec's terminal needs them.
    let devpts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    json!({
        "ociVersion": "1.1.0",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": command,
            "env": ["PATH=/bin"],
            "cwd": "/",
        },
        "root": { "path": "rootfs", "readonly": false },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": devpts },
        ],
        "annotations": annotations,
        "linux": {
            "namespaces": [{ "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, { "type": "network" }],
        },
    })
    .to_string()
}
