//! Files that the host copies in.

use ::agent::proto::agent::CopyFileRequest;
use serde_json::Value;

use crate::engine::Agent;
use crate::requests::{WEB, copy, web};

const SHARED: &str = "/run/kata-containers/shared/containers";
const FILE: u32 = 0o100_644;
const DIRECTORY: u32 = 0o040_755;
const SYMLINK: u32 = 0o120_777;

fn request(path: &str, mode: u32, data: &str) -> Value {
    copy(&CopyFileRequest {
        path: path.to_owned(),
        file_mode: mode,
        dir_mode: DIRECTORY,
        data: data.as_bytes().to_vec(),
        ..Default::default()
    })
}

/// Below the place of the container's file or tree of this name.
fn at(name: &str) -> String {
    format!("{SHARED}/{WEB}-0000000000000003-{name}")
}

#[test]
fn the_pods_own_are_allowed() {
    let mut agent = Agent::strict();
    let tree = at("app");
    for (path, mode, data) in [
        (at("resolv.conf"), FILE, ""),
        (at("hosts"), FILE, ""),
        (at("hostname"), FILE, ""),
        (at("termination-log"), FILE, ""),
        (at("token"), FILE, ""),
        (tree.clone(), DIRECTORY, ""),
        (format!("{tree}/..2026_11_25_08_00_00.1"), DIRECTORY, ""),
        (format!("{tree}/..2026_11_25_08_00_00.1/a.conf"), FILE, ""),
        (format!("{tree}/..data"), SYMLINK, "..2026_11_25_08_00_00.1"),
        (format!("{tree}/a.conf"), SYMLINK, "..data/a.conf"),
        (at("serviceaccount"), DIRECTORY, ""),
    ] {
        assert!(agent.allows("CopyFileRequest", &request(&path, mode, data)), "{path}");
    }
}

#[test]
fn every_copy_of_the_shims_has_its_place() {
    let mut agent = Agent::strict();
    let mut copies = 0;
    for mount in web()["OCI"]["Mounts"].as_array().unwrap() {
        let source = mount["source"].as_str().unwrap();
        if source.starts_with(SHARED) {
            let mode = if mount["destination"] == "/etc/app" || source.ends_with("serviceaccount") {
                DIRECTORY
            } else {
                FILE
            };
            assert!(agent.allows("CopyFileRequest", &request(source, mode, "")), "{source}");
            copies += 1;
        }
    }
    assert_eq!(copies, 7);
}

#[test]
fn others_are_refused() {
    let mut agent = Agent::strict();
    let tree = at("app");
    for (path, mode, data) in [
        ("/etc/shadow".to_owned(), FILE, ""),
        (format!("{SHARED}/../{WEB}/rootfs/bin/sh"), FILE, ""),
        (format!("{tree}/../../../c0ffee02/rootfs/bin/sh"), FILE, ""),
        (format!("{tree}/.."), DIRECTORY, ""),
        (format!("{tree}//x"), FILE, ""),
        (format!("{SHARED}/x"), FILE, ""),
        (format!("{SHARED}/{WEB}/rootfs/bin/sh"), FILE, ""),
        (format!("{SHARED}/{WEB}-3-hosts"), FILE, ""),
        (at("passwd"), FILE, ""),
        (at("hosts"), DIRECTORY, ""),
        (at("hosts"), SYMLINK, "x"),
        (format!("{}/x", at("hosts")), FILE, ""),
        (tree.clone(), FILE, ""),
        (tree.clone(), SYMLINK, "x"),
        (format!("{tree}/x"), SYMLINK, "/etc"),
        (format!("{tree}/x"), SYMLINK, "../../x"),
        (format!("{tree}/x"), SYMLINK, "a/../../x"),
        (format!("{tree}/x"), SYMLINK, ""),
        (format!("{tree}/x"), 0o060_600, ""),
        (format!("{tree}/x"), 0o020_600, ""),
    ] {
        assert!(!agent.allows("CopyFileRequest", &request(&path, mode, data)), "{path} {mode:o} {data}");
    }
}
