//! A pod with a scratch disk: which emptyDir is on it and which is not is the manifest's.

use serde_json::{Value, json};

use crate::engine::Agent;
use crate::honest::{boot, start};
use crate::requests::{Engine, PREPARE, SANDBOX};

/// Changes a request.
type Forge = fn(&mut Value);

/// The tests here, for the rules' coverage.
pub(crate) fn all() {
    empty_dirs_are_where_the_manifest_wants_them();
}

fn with_sandbox() -> Agent {
    let mut agent = Agent::of_scratch();
    boot(&mut agent);
    start(&mut agent, SANDBOX, &Engine::Containerd2.pause());
    agent
}

fn dir<'a>(request: &'a mut Value, name: &str) -> &'a mut Value {
    let place = format!("/run/kata-containers/sandbox/ephemeral/{name}");
    let mut storages = request["storages"].as_array_mut().unwrap().iter_mut();
    storages.find(|storage| storage["mount_point"] == place.as_str()).unwrap()
}

#[test]
fn empty_dirs_are_where_the_manifest_wants_them() {
    let honest = Engine::Containerd2.prepare_in_scratch();
    let mut agent = with_sandbox();
    let forged: [(&str, Forge); 6] = [
        ("on the disk what is to be in memory", |r| {
            let quick = json!("/run/kata-containers/sandbox/ephemeral/quick");
            *dir(r, "quick") = dir(r, "cache").clone();
            let mut twice = r["storages"].as_array_mut().unwrap().iter_mut().rev();
            twice.next().unwrap()["mount_point"] = quick;
        }),
        ("in memory what is to be on the disk", |r| {
            let mut memory = dir(r, "quick").clone();
            memory["mount_point"] = dir(r, "cache")["mount_point"].clone();
            *dir(r, "cache") = memory;
        }),
        ("elsewhere", |r| dir(r, "cache")["mount_point"] = "/usr".into()),
        ("with another mode", |r| dir(r, "cache")["options"] = json!(["mode=6777", "fsgid=2000"])),
        ("of another group", |r| dir(r, "cache")["options"] = json!(["mode=0777", "fsgid=0"])),
        ("from a device", |r| dir(r, "cache")["source"] = "/dev/vdc".into()),
    ];
    for (what, forge) in forged {
        let mut request = honest.clone();
        forge(&mut request);
        assert_ne!(request, honest, "{what} changes nothing");
        agent.refuse("CreateContainerRequest", &request, "storages");
    }
    start(&mut agent, PREPARE, &honest);
    // A pod that asks for no disk has none, whatever the host gives its VM.
    let mut agent = Agent::strict();
    boot(&mut agent);
    start(&mut agent, SANDBOX, &Engine::Containerd2.pause());
    assert!(!agent.allows("CreateContainerRequest", &honest));
}
