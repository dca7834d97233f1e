//! Volumes of an image that has nothing in them: directories that the host makes, and nothing else.

use agent_client::proto::agent::CopyFileRequest;
use serde_json::{Value, json};
use shared_types::EmptyDirectory;

use crate::engine::{Agent, DATA};
use crate::honest::{boot, removal, start};
use crate::requests::{ENGINES, Engine, PREPARE, SANDBOX, copy};

const SHARED: &str = "/run/kata-containers/shared/containers";

/// Changes a request.
type Forge = fn(&mut Value);

/// The tests here, for the rules' coverage.
pub(crate) fn all() {
    a_directory_is_made_and_mounted();
    nothing_else_is_mounted_for_it();
    nothing_comes_into_it();
    an_empty_volume_of_a_pulled_image_is_a_directory_only_if_it_is_roots();
}

fn made(path: &str, like: EmptyDirectory) -> CopyFileRequest {
    CopyFileRequest {
        path: path.to_owned(),
        file_mode: 0o040_000 + like.mode,
        dir_mode: 0o040_755,
        uid: like.uid.cast_signed(),
        gid: like.gid.cast_signed(),
        ..Default::default()
    }
}

/// The directory as the image has it.
fn directory(path: &str) -> CopyFileRequest {
    made(path, DATA)
}

fn place() -> String {
    format!("{SHARED}/{PREPARE}-volume0000000000-data")
}

fn with_sandbox(engine: Engine) -> Agent {
    sandbox_in(Agent::strict(), engine)
}

fn sandbox_in(mut agent: Agent, engine: Engine) -> Agent {
    boot(&mut agent);
    start(&mut agent, SANDBOX, &engine.pause());
    agent
}

fn volume(request: &mut Value) -> &mut Value {
    let mut mounts = request["OCI"]["Mounts"].as_array_mut().unwrap().iter_mut();
    mounts.find(|mount| mount["source"].as_str().unwrap().contains("-volume")).unwrap()
}

#[test]
fn a_directory_is_made_and_mounted() {
    for engine in ENGINES {
        let mut agent = with_sandbox(engine);
        let mut request = engine.prepare_with_volume();
        // Its number is that of the copies before it, and CRI-O's files are.
        let (number, name, like) = match engine {
            Engine::Crio => (3, "new", EmptyDirectory::NEW),
            _ => (0, "data", DATA),
        };
        let place = volume(&mut request)["source"].as_str().unwrap().to_owned();
        assert_eq!(place, format!("{SHARED}/{PREPARE}-volume{number:010}-{name}"));
        agent.accept("CopyFileRequest", &copy(&made(&place, like)));
        start(&mut agent, PREPARE, &request);
        agent.accept("RemoveContainerRequest", &removal(PREPARE));
        // Its owner is the one of what was there, as in each removal.
        let gone = CopyFileRequest { file_mode: 0o120_777, ..made(&place, like) };
        agent.accept("CopyFileRequest", &copy(&gone));
    }
    // It need not be there.
    let mut agent = with_sandbox(Engine::Containerd2);
    start(&mut agent, PREPARE, &Engine::Containerd2.prepare());
}

#[test]
fn nothing_else_is_mounted_for_it() {
    let honest = Engine::Containerd2.prepare_with_volume();
    let mut agent = with_sandbox(Engine::Containerd2);
    let forged: [(&str, Forge); 7] = [
        ("where the image has something", |r| volume(r)["destination"] = "/seeded".into()),
        ("where it has no volume", |r| volume(r)["destination"] = "/usr/lib".into()),
        ("a copy of a volume of the pod's", |r| {
            volume(r)["source"] = format!("{SHARED}/{PREPARE}-0000000000000003-data").into();
        }),
        ("another container's", |r| {
            volume(r)["source"] = format!("{SHARED}/{SANDBOX}-volume0000000000-data").into();
        }),
        ("the guest's", |r| volume(r)["source"] = "/etc".into()),
        ("file systems of the kernel", |r| volume(r)["type_"] = "tmpfs".into()),
        ("that others see", |r| volume(r)["options"] = json!(["rbind", "rshared", "rw"])),
    ];
    for (what, forge) in forged {
        let mut request = honest.clone();
        forge(&mut request);
        assert_ne!(request, honest, "{what} changes nothing");
        agent.refuse("CreateContainerRequest", &request, "Mounts");
    }
}

#[test]
fn nothing_comes_into_it() {
    let mut agent = with_sandbox(Engine::Containerd2);
    let honest = directory(&place());
    let inside = |name: &str| format!("{}/{name}", place());
    for (what, forged) in [
        ("a file", CopyFileRequest { path: inside("htpasswd"), file_mode: 0o100_644, ..honest.clone() }),
        ("a directory in it", directory(&inside("deep"))),
        (
            "a link in it",
            CopyFileRequest {
                path: inside("x"),
                file_mode: 0o120_777,
                data: b"y".to_vec(),
                ..honest.clone()
            },
        ),
        ("a file in its place", CopyFileRequest { file_mode: 0o100_644, ..honest.clone() }),
        (
            "a link in its place",
            CopyFileRequest { file_mode: 0o120_777, data: b"y".to_vec(), ..honest.clone() },
        ),
        ("another mode", CopyFileRequest { file_mode: 0o041_777, ..honest.clone() }),
        ("another owner", CopyFileRequest { uid: 0, ..honest.clone() }),
        ("another group", CopyFileRequest { gid: 0, ..honest.clone() }),
        ("another volume", directory(&place().replace("-data", "-seeded"))),
        (
            "the owner of one for a file",
            CopyFileRequest {
                path: format!("{SHARED}/{PREPARE}-0000000000000003-hosts"),
                file_mode: 0o100_644,
                ..honest.clone()
            },
        ),
    ] {
        assert!(!agent.allows("CopyFileRequest", &copy(&forged)), "{what}");
    }
    agent.accept("CopyFileRequest", &copy(&honest));
    start(&mut agent, PREPARE, &Engine::Containerd2.prepare_with_volume());
    // Not taken away either, as long as the container is there.
    let gone = CopyFileRequest { file_mode: 0o120_777, ..honest };
    agent.refuse("CopyFileRequest", &copy(&gone), "(the time");
}

/// Of an image that the guest pulls the engine has nothing: it makes a new directory for each volume.
#[test]
fn an_empty_volume_of_a_pulled_image_is_a_directory_only_if_it_is_roots() {
    for engine in ENGINES {
        let mut agent = sandbox_in(Agent::pulling(), engine);
        let mut others = engine.prepare_pulled_with_volume("/var/data");
        let place = volume(&mut others)["source"].as_str().unwrap().to_owned();
        for like in [EmptyDirectory::NEW, DATA] {
            agent.refuse("CopyFileRequest", &copy(&made(&place, like)), "path");
        }
        agent.refuse("CreateContainerRequest", &others, "Mounts");
        let mut roots = engine.prepare_pulled_with_volume("/var/new");
        let place = volume(&mut roots)["source"].as_str().unwrap().to_owned();
        agent.accept("CopyFileRequest", &copy(&made(&place, EmptyDirectory::NEW)));
        start(&mut agent, PREPARE, &roots);
    }
}
