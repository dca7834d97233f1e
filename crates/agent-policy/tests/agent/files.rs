//! Files that the host copies in.

use agent_client::proto::agent::CopyFileRequest;
use serde_json::{Value, json};

use crate::engine::Agent;
use crate::honest::{boot, removal, with_web};
use crate::requests::{GPU, SANDBOX, WEB, copy};

const SHARED: &str = "/run/kata-containers/shared/containers";
const FILE: u32 = 0o100_644;
const DIRECTORY: u32 = 0o040_755;
const SYMLINK: u32 = 0o120_777;

/// The tests here, for the rules' coverage.
pub(crate) fn all() {
    the_pods_own_are_allowed();
    others_are_refused();
    later_only_volumes_that_change();
    there_is_an_end_to_it();
    a_containers_copies_go_with_it();
    what_is_copied_in_counts_until_the_container_is_made();
}

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
fn at(id: &str, name: &str) -> String {
    format!("{SHARED}/{id}-0000000000000003-{name}")
}

/// One of everything, for the table.
pub(crate) fn honest() -> Value {
    request(&at(GPU, "hosts"), FILE, "")
}

/// Copies in what a container's mounts name, each of which has its place, but for directories of its own.
pub(crate) fn copy_in(agent: &mut Agent, create: &Value) {
    for mount in create["OCI"]["Mounts"].as_array().unwrap() {
        let source = mount["source"].as_str().unwrap();
        if source.starts_with(SHARED) && !source.contains("-volume") {
            let is_tree = source.ends_with("-app") || source.ends_with("serviceaccount");
            agent.accept("CopyFileRequest", &request(source, if is_tree { DIRECTORY } else { FILE }, ""));
        }
    }
}

#[test]
fn the_pods_own_are_allowed() {
    let mut agent = Agent::strict();
    boot(&mut agent);
    let tree = at(WEB, "app");
    for (path, mode, data) in [
        (at(WEB, "resolv.conf"), FILE, ""),
        (at(WEB, "hosts"), FILE, ""),
        (at(WEB, "hostname"), FILE, ""),
        (at(WEB, "termination-log"), FILE, ""),
        (at(WEB, "token"), FILE, ""),
        (tree.clone(), 0o043_777, ""),
        (format!("{tree}/..2026_11_25_08_00_00.1"), DIRECTORY, ""),
        (format!("{tree}/..2026_11_25_08_00_00.1/a.conf"), FILE, ""),
        (format!("{tree}/..data"), SYMLINK, "..2026_11_25_08_00_00.1"),
        (format!("{tree}/a.conf"), SYMLINK, "..data/a.conf"),
        (at(WEB, "serviceaccount"), DIRECTORY, ""),
    ] {
        agent.accept("CopyFileRequest", &request(&path, mode, data));
    }
    let mut chunk = request(&at(WEB, "hosts"), FILE, "");
    (chunk["file_size"], chunk["offset"]) = ((4 << 20).into(), (1 << 20).into());
    (chunk["uid"], chunk["gid"]) = (1000.into(), 2000.into());
    agent.accept("CopyFileRequest", &chunk);
}

#[test]
fn others_are_refused() {
    let mut agent = Agent::strict();
    boot(&mut agent);
    let tree = at(WEB, "app");
    for (path, mode, data) in [
        ("/etc/shadow".to_owned(), FILE, ""),
        (format!("{SHARED}/../{WEB}/rootfs/bin/sh"), FILE, ""),
        (format!("{tree}/../../../{GPU}/rootfs/bin/sh"), FILE, ""),
        (format!("{tree}/.."), DIRECTORY, ""),
        (format!("{tree}//x"), FILE, ""),
        (format!("{tree}/{}", "x".repeat(256)), FILE, ""),
        (format!("{tree}{}", "/x".repeat(16)), FILE, ""),
        (format!("{SHARED}/x"), FILE, ""),
        (format!("{SHARED}/{WEB}/rootfs/bin/sh"), FILE, ""),
        (format!("{SHARED}/{WEB}-3-hosts"), FILE, ""),
        (format!("{SHARED}/c0ffee-0000000000000003-hosts"), FILE, ""),
        (at(WEB, "passwd"), FILE, ""),
        (at(WEB, "hosts"), DIRECTORY, ""),
        (at(WEB, "hosts"), SYMLINK, "x"),
        (format!("{}/x", at(WEB, "hosts")), FILE, ""),
        (tree.clone(), FILE, ""),
        (tree.clone(), SYMLINK, "x"),
        (format!("{tree}/x"), SYMLINK, "/etc"),
        (format!("{tree}/x"), SYMLINK, "../../x"),
        (format!("{tree}/x"), SYMLINK, "a/../../x"),
        (format!("{SHARED}/{WEB}"), SYMLINK, ""),
        (format!("{SHARED}/x"), SYMLINK, ""),
        (at(WEB, "passwd"), SYMLINK, ""),
        (format!("{tree}/.."), SYMLINK, ""),
        (format!("{tree}/x"), 0o060_600, ""),
        (format!("{tree}/x"), 0o020_600, ""),
    ] {
        assert!(!agent.allows("CopyFileRequest", &request(&path, mode, data)), "{path} {mode:o} {data}");
    }
}

#[test]
fn later_only_volumes_that_change() {
    let mut agent = Agent::strict();
    with_web(&mut agent);
    let update = request(&format!("{}/..data", at(WEB, "app")), SYMLINK, "..2026_11_25_09_00_00.2");
    agent.accept("CopyFileRequest", &update);
    for name in ["hosts", "resolv.conf", "token", "termination-log"] {
        agent.refuse("CopyFileRequest", &request(&at(WEB, name), FILE, ""), "(the time");
    }
    // The volume of another container.
    agent.refuse("CopyFileRequest", &request(&at(SANDBOX, "app"), DIRECTORY, ""), "(the time");
    agent.accept("RemoveContainerRequest", &removal(WEB));
    agent.refuse("CopyFileRequest", &update, "(the time");
}

/// A link to nothing removes what is there (kata-agent 4.1.0).
#[test]
fn a_containers_copies_go_with_it() {
    let mut agent = Agent::strict();
    with_web(&mut agent);
    let remove = |path: &str| request(path, SYMLINK, "");
    let tree = at(WEB, "app");
    // A key that a volume has no more; but nothing else of a container that is there.
    agent.accept("CopyFileRequest", &remove(&format!("{tree}/a.conf")));
    agent.refuse("CopyFileRequest", &remove(&at(WEB, "hosts")), "(the time");
    agent.accept("RemoveContainerRequest", &removal(WEB));
    for path in [at(WEB, "hosts"), at(WEB, "token"), format!("{tree}/x"), tree] {
        agent.accept("CopyFileRequest", &remove(&path));
    }
    agent.refuse("CopyFileRequest", &remove(&format!("{SHARED}/{WEB}")), "path");
}

#[test]
fn what_is_copied_in_counts_until_the_container_is_made() {
    let mut agent = Agent::strict();
    with_web(&mut agent);
    assert_eq!(agent.memory()["pstate"]["sandbox"]["copied"], json!({}), "each of its containers had files");
    agent.accept("CopyFileRequest", &honest());
    assert_eq!(agent.memory()["pstate"]["sandbox"]["copied"], json!({ GPU: 1 }));
}

#[test]
fn there_is_an_end_to_it() {
    let mut agent = Agent::strict();
    agent.refuse("CopyFileRequest", &honest(), "(the time");
    boot(&mut agent);
    agent.set("copied", json!({ GPU: 65_536 }));
    agent.refuse("CopyFileRequest", &honest(), "too many");
    agent.accept("CopyFileRequest", &request(&at(WEB, "hosts"), FILE, ""));
    let others = (0..4096).map(|id: u32| (format!("{id:064x}"), 1.into())).collect::<serde_json::Map<_, _>>();
    agent.set("copied", others.into());
    agent.refuse("CopyFileRequest", &request(&at(WEB, "hosts"), FILE, ""), "too many");
}
