//! The jail that this command builds around mkfs.erofs, and a program in it that has been taken over. Needs root.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};

use jail::{Jail, Role, UserRange, Workplace};
use tempfile::TempDir;

const COFFER: &str = env!("CARGO_BIN_EXE_coffer");
/// What is tried is a command; those that succeed are told in the one file that is the program's.
const SCRIPT: &str = r#"#!/bin/sh
try() { "$@" >/dev/null 2>&1 && echo "$*" >>/vm/output; }
sleep 100000 &
try cat /etc/shadow
try cat /etc/hostname
try cat HERE/secret
try ls HERE/others
try ls /proc/self
try touch /x
try touch HERE/x
try touch HERE/tree/x
try rm HERE/tree/roots
try chown 0 /vm/output
try chmod 4755 /usr/bin/id
try kill -0 PID
try mount -t tmpfs none /vm
try umount /usr
try unshare --user true
try unshare --mount true
try chroot /usr true
try cat HERE/tree/roots
try touch /vm/work
try [ "$(id -u) $(id -g)" = "0 0" ]
"#;

/// A directory of root's, with what a program should not get at and a file for it to make.
struct Rig(TempDir);

impl Rig {
    fn new() -> Option<Self> {
        let rig = Self(tempfile::tempdir().unwrap());
        if rig.0.path().metadata().unwrap().uid() != 0 {
            eprintln!("NOT TESTED, it needs root");
            return None;
        }
        for directory in ["others", "tree"] {
            fs::create_dir(rig.path(directory)).unwrap();
        }
        for (file, mode) in [("secret", 0o600), ("tree/roots", 0o600), ("image.tmp", 0o600)] {
            fs::write(rig.path(file), "").unwrap();
            fs::set_permissions(rig.path(file), Permissions::from_mode(mode)).unwrap();
        }
        let script = SCRIPT.replace("HERE", rig.0.path().to_str().unwrap());
        let script = script.replace("PID", &process::id().to_string());
        fs::write(rig.path("taken-over"), script).unwrap();
        fs::set_permissions(rig.path("taken-over"), Permissions::from_mode(0o755)).unwrap();
        Some(rig)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What worked in a jail that is changed in this way.
    fn run(&self, change: impl FnOnce(Jail) -> Jail) -> Vec<String> {
        let image = self.path("image.tmp");
        let user = UserRange::default().of_process(process::id(), Role::ImageBuilder);
        let workplace = Workplace::new(&image, user).unwrap();
        let jail = change(workplace.jail());
        let mut command = jail.command(Path::new(COFFER), &self.path("taken-over")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // It is over when the script is, and not when the process ends that it has left.
        let output = jail::apart(|| command.spawn()).unwrap().unwrap().wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        workplace.finish().unwrap();
        let (meta, here) = (fs::metadata(&image).unwrap(), self.0.path().to_str().unwrap());
        assert_eq!((meta.uid(), self.path("image.tmp.d").exists()), (0, false));
        fs::read_to_string(image).unwrap().lines().map(|line| line.replace(here, "HERE")).collect()
    }
}

/// Inside the jail the program is user 0. mkfs.erofs gives directories that a layer only implies to its own user, so the bytes
/// are the same as outside.
const ROOT: &str = "[ 0 0 = 0 0 ]";

#[test]
fn an_image_builder_that_is_taken_over_has_one_file() {
    let Some(rig) = Rig::new() else { return };
    assert_eq!(rig.run(|jail| jail), ["touch /vm/work", ROOT]);
}

#[test]
fn one_that_reads_a_tree_reads_all_of_it_and_nothing_else() {
    let Some(rig) = Rig::new() else { return };
    let tree = rig.path("tree");
    let worked = rig.run(|jail| Jail { read: vec![tree], reads_all: true, ..jail });
    assert_eq!(worked, ["cat HERE/tree/roots", "touch /vm/work", ROOT]);
}

#[test]
fn a_description_that_is_none_is_an_error_in_one_line() {
    let output = Command::new(COFFER).args(["jail", "{}", "/bin/sh"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.lines().count() == 1 && said.starts_with("coffer: the description"),
        "{said}"
    );
}
