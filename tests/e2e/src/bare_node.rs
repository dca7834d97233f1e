//! A node before anything of Coffer's is installed: containerd by its usual file, run by a systemd that is played.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tokio::runtime::Builder;

use crate::containerd::{BRIDGE, make_bridge, write};
use crate::images::PAUSE;
use crate::leaks::Machine;
use crate::or_fail::OrFail;
use crate::rig::assert_in_rig;

const MAIN: &str = "/etc/containerd/config.toml";
const CNI: &str = "/etc/cni/net.d/10-e2e.conflist";
/// What containerd and the shims of a [`BareNode`] have logged.
pub const LOG: &str = "/run/e2e/bare-containerd.log";
/// Before all others in PATH.
const SYSTEMCTL: &str = "/usr/local/sbin/systemctl";
/// What systemd would do for the one unit that there is. Pods outlive a restart (`KillMode=process`).
const PLAYED: &str = r#"#!/bin/sh
pid=/run/e2e/bare-containerd.pid
case "$1 $2" in
"is-active --quiet") [ "$3" = containerd ] && kill -0 "$(cat $pid)" ;;
"is-enabled --quiet") [ "$3" = containerd ] ;;
"restart containerd" | "stop containerd")
    old=$(cat $pid 2>/dev/null)
    if [ -n "$old" ]; then
        kill "$old" 2>/dev/null
        while kill -0 "$old" 2>/dev/null; do sleep 0.05; done
    fi
    [ "$1" = restart ] || exit 0
    setsid containerd >>/run/e2e/bare-containerd.log 2>&1 </dev/null &
    echo $! >$pid
    ;;
*) exit 1 ;;
esac
"#;

/// A network whose plugin makes nothing and says that it did, for a kernel without bridges: pods have the loopback only.
const NOTHING: &str = r#"{ "cniVersion": "1.0.0", "name": "e2e", "plugins": [{ "type": "e2e-nothing" }] }"#;
/// Where CNI's plugins are.
const NOTHING_PLUGIN: &str = "/usr/lib/cni/e2e-nothing";
const NOTHING_SCRIPT: &str = r#"#!/bin/sh
case $CNI_COMMAND in
ADD)
    echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"'"$CNI_NETNS"'"}],'
    echo '"ips":[{"interface":0,"address":"192.0.2.1/24"}]}'
    ;;
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}' ;;
esac
"#;

/// A node with containerd as Debian's package configures it (schema 2), or in schema 3.
#[derive(Debug)]
pub struct BareNode {
    _private: (),
}

impl BareNode {
    /// Sets the node up, runs a test on it, and compares the machine with what it was.
    #[track_caller]
    pub fn test(schema: u32, test: impl AsyncFnOnce(&mut Self)) {
        assert_in_rig();
        write(CNI, BRIDGE);
        make_bridge();
        Self::run_test(schema, test);
    }

    /// The same in the outer VM, where pods have no network.
    #[track_caller]
    pub fn test_in_outer_vm(schema: u32, test: impl AsyncFnOnce(&mut Self)) {
        assert_in_rig();
        write(CNI, NOTHING);
        program(NOTHING_PLUGIN, NOTHING_SCRIPT);
        Self::run_test(schema, test);
    }

    #[track_caller]
    fn run_test(schema: u32, test: impl AsyncFnOnce(&mut Self)) {
        let runtime = Builder::new_current_thread().enable_all().build().or_fail("runtime");
        program(SYSTEMCTL, PLAYED);
        write(MAIN, &main_file(schema));
        fs::create_dir_all("/run/e2e").or_fail("/run/e2e");
        let _ = fs::remove_file(LOG);
        let mut node = Self { _private: () };
        node.systemctl("restart");
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            runtime.block_on(async {
                let before = Machine::now();
                test(&mut node).await;
                Machine::back_to(&before).await;
            });
        }));
        node.systemctl("stop");
        if let Err(reason) = outcome {
            let log = fs::read_to_string(LOG).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            lines.iter().skip(lines.len().saturating_sub(40)).for_each(|line| eprintln!("{line}"));
            std::panic::resume_unwind(reason);
        }
    }

    fn systemctl(&self, verb: &str) {
        let status = Command::new(SYSTEMCTL).args([verb, "containerd"]).status().or_fail("systemctl");
        assert!(status.success(), "systemctl {verb} containerd: {status}");
    }

    /// A command on the node.
    pub fn run(&self, program: &Path, arguments: &[&str]) -> Output {
        Command::new(program).args(arguments).output().or_fail(program.display())
    }

    /// What an installation may change, to compare: each path below `/etc` and `/opt` with its content's beginning.
    pub fn tree(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut tree = BTreeMap::new();
        for top in ["/etc", "/opt", "/usr/local"] {
            walk(Path::new(top), &mut tree);
        }
        tree
    }
}

fn program(path: &str, script: &str) {
    write(path, script);
    fs::set_permissions(path, Permissions::from_mode(0o755)).or_fail("chmod");
}

fn walk(path: &Path, tree: &mut BTreeMap<PathBuf, Vec<u8>>) {
    let Ok(entry) = fs::symlink_metadata(path) else { return };
    let content = if entry.is_symlink() {
        fs::read_link(path).or_fail("a link").as_os_str().as_encoded_bytes().to_vec()
    } else if entry.is_file() {
        fs::read(path).or_fail(path.display())
    } else {
        Vec::new()
    };
    tree.insert(
        path.to_owned(),
        [format!("{:o} ", entry.permissions().mode()).into_bytes(), content].concat(),
    );
    if entry.is_dir() {
        let names = fs::read_dir(path).or_fail(path.display());
        names.filter_map(Result::ok).for_each(|entry| walk(&entry.path(), tree));
    }
}

/// Debian's file with what the rig needs: its pause image, and the score that a container may not lower.
fn main_file(schema: u32) -> String {
    if schema == 2 {
        return format!(
            "version = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    sandbox_image = \"{PAUSE}\"\n    \
             restrict_oom_score_adj = true\n    [plugins.\"io.containerd.grpc.v1.cri\".cni]\n      bin_dir = \"/usr/lib/cni\"\n      \
             conf_dir = \"/etc/cni/net.d\"\n  [plugins.\"io.containerd.internal.v1.opt\"]\n    path = \"/var/lib/containerd/opt\"\n"
        );
    }
    format!(
        "version = {schema}\n[plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = '{PAUSE}'\n\
         [plugins.'io.containerd.cri.v1.runtime']\nrestrict_oom_score_adj = true\n\
         [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.other]\nruntime_type = 'io.containerd.runc.v2'\n"
    )
}
