//! The installer's pod: its own script with real kubectl. The node behind nsenter is played.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// The one node.
pub(crate) const NODE: &str = "node-1";
const STATUS: &str =
    "instance     default\\nversion      1.0-abc\\nhandler      coffer\\nhandler      coffer-snp\\n";
/// Of each class.
pub(crate) const LABELS: [&str; 3] =
    ["coffer.internal/coffer", "coffer.internal/coffer-snp", "coffer.internal/coffer-tdx"];

/// Every call of the installer that asks for a right, in all that it does.
pub(crate) const CALLS: [(&str, &str); 5] = [
    ("create", "events"),
    ("get", "nodes"),
    ("get", "nodes/status"),
    ("patch", "nodes"),
    ("patch", "nodes/status"),
];

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// kubectl, as the installer's image has it.
pub(crate) fn kubectl() -> PathBuf {
    let found = Command::new(repository().join("tools/kubectl")).output().unwrap();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    PathBuf::from(String::from_utf8(found.stdout).unwrap().trim())
}

/// The pod, beside a node that is played.
pub(crate) struct Pod {
    dir: TempDir,
}

impl Pod {
    /// `server` are kubectl's options by which it finds the API server; in a pod it finds it by itself. `on_node` are words of a
    /// shell that stand for the node; they have what is to be run as `$*`, and it is told in `log`.
    pub(crate) fn new(server: &str, log: &Path, on_node: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for made in ["bin", "bundle/bin", "run"] {
            fs::create_dir_all(dir.path().join(made)).unwrap();
        }
        for file in ["VERSION", "bin/coffer"] {
            fs::write(dir.path().join("bundle").join(file), "1\n").unwrap();
        }
        let program = |name: &str, script: &str| {
            let path = dir.path().join("bin").join(name);
            fs::write(&path, format!("#!/bin/bash\n{script}\n")).unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        };
        program("kubectl", &format!("exec {} {server} \"$@\"", kubectl().display()));
        program(
            "nsenter",
            &format!(
                "tr '\\n' ' ' <<<\"node: $*\" >>{0}; echo >>{0}\ncat >/dev/null\n{on_node}",
                log.display()
            ),
        );
        Self { dir }
    }

    pub(crate) fn run(&self, verb: &str) -> Output {
        let at = |name: &str| self.dir.path().join(name);
        Command::new(repository().join("deploy/image/coffer-node"))
            .arg(verb)
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", at("bin").display()))
            .env("NODE_NAME", NODE)
            .env("COFFER_BUNDLE", at("bundle"))
            .env("COFFER_RUN", at("run"))
            .env("COFFER_ONCE", "1")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    pub(crate) fn is_done(&self) -> bool {
        self.dir.path().join("run/done").exists()
    }
}

/// A node on which all goes well; its status exits so.
pub(crate) fn status_of(exit: u8) -> String {
    format!("case \"$*\" in *status*) printf '{STATUS}'; exit {exit} ;; esac")
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
