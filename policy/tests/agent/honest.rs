//! Everything that the shim sends for the pod is allowed.

use ::agent::proto::{agent as msg, types};
use guest_spec::{shm_remount, shm_storage};
use policy::Permission::{Granted, Refused};
use protobuf::MessageField;
use serde_json::json;

use crate::engine::Agent;
use crate::requests::{GPU, PAUSE, PREPARE, WEB, gpu, json_of, pause, prepare, web};

/// As `shim/src/sandbox/guest.rs` makes it.
pub(crate) fn sandbox() -> msg::CreateSandboxRequest {
    msg::CreateSandboxRequest {
        hostname: "web-0".to_owned(),
        storages: vec![shm_storage(64 << 20)],
        sandbox_id: "sandbox-f00d".to_owned(),
        ..Default::default()
    }
}

fn container(id: &str) -> serde_json::Value {
    json!({ "container_id": id, "exec_id": id })
}

#[test]
fn the_whole_pod_runs() {
    let mut agent = Agent::strict();
    let interface = types::Interface {
        device: "eth0".to_owned(),
        name: "eth0".to_owned(),
        IPAddresses: vec![types::IPAddress { address: "10.4.0.5".to_owned(), ..Default::default() }],
        ..Default::default()
    };
    let interface =
        msg::UpdateInterfaceRequest { interface: MessageField::some(interface), ..Default::default() };
    assert!(agent.allows("UpdateInterfaceRequest", &interface));
    let routes = ["", "10.4.0.0/16", "fd00::/64"].map(|dest| types::Route {
        dest: dest.to_owned(),
        device: "eth0".to_owned(),
        ..Default::default()
    });
    let routes = msg::Routes { Routes: routes.to_vec(), ..Default::default() };
    let routes = msg::UpdateRoutesRequest { routes: MessageField::some(routes), ..Default::default() };
    assert!(agent.allows("UpdateRoutesRequest", &routes));
    let neighbour = types::ARPNeighbor { device: "eth0".to_owned(), ..Default::default() };
    let neighbours = msg::ARPNeighbors { ARPNeighbors: vec![neighbour], ..Default::default() };
    let neighbours =
        msg::AddARPNeighborsRequest { neighbors: MessageField::some(neighbours), ..Default::default() };
    assert!(agent.allows("AddARPNeighborsRequest", &neighbours));
    assert!(agent.allows("CreateSandboxRequest", &sandbox()));
    assert!(agent.allows("UpdateEphemeralMountsRequest", &shm_remount(64 << 20)));
    assert!(agent.allows("GuestDetailsRequest", &msg::GuestDetailsRequest::default()));
    assert!(agent.allows("GetOOMEventRequest", &msg::GetOOMEventRequest::default()));

    for (id, request) in [(PAUSE, pause()), (PREPARE, prepare()), (WEB, web()), (GPU, gpu())] {
        assert!(agent.allows("CreateContainerRequest", &request), "{request:#}");
        assert!(agent.allows("StartContainerRequest", &container(id)));
        assert!(agent.allows("WaitProcessRequest", &container(id)));
        assert!(agent.allows("StatsContainerRequest", &container(id)));
        assert!(agent.allows("SignalProcessRequest", &container(id)));
        if id == PREPARE {
            assert!(agent.allows("RemoveContainerRequest", &container(id)));
        }
    }
    assert!(agent.allows("DestroySandboxRequest", &json!({})));
}

#[test]
fn logs_and_commands_as_far_as_they_are_granted() {
    let (output, its_own) =
        (container(WEB), json!({ "container_id": WEB, "exec_id": "sh", "data": [], "len": 16_384 }));
    let words = json!({ "log_type": "termination_log", "container_id": WEB });
    for (exec, logs) in [(Refused, Refused), (Granted, Refused), (Refused, Granted), (Granted, Granted)] {
        let mut agent = Agent::of_web(exec, logs);
        assert!(agent.allows("CreateContainerRequest", &web()));
        assert_eq!(agent.allows("ReadStreamRequest", &output), logs == Granted);
        assert_eq!(agent.allows("GetDiagnosticDataRequest", &words), logs == Granted);
        assert_eq!(agent.allows("ReadStreamRequest", &its_own), exec == Granted || logs == Granted);
        assert_eq!(agent.allows("WriteStreamRequest", &its_own), exec == Granted);
        assert!(!agent.allows("WriteStreamRequest", &output), "the manifest has no stdin");
    }
}

#[test]
fn a_refused_read_is_told_from_nothing_else() {
    // Without an exec id it is the container's own output.
    let mut agent = Agent::of_web(Granted, Refused);
    assert!(agent.allows("CreateContainerRequest", &web()));
    assert!(!agent.allows(
        "ReadStreamRequest",
        &json_of(&msg::ReadStreamRequest { container_id: WEB.to_owned(), ..Default::default() })
    ));
}
