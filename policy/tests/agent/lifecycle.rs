//! What the policy remembers, and requests that no pod needs.

use ::agent::proto::{agent as msg, oci};
use guest_spec::process;
use policy::Permission::{Granted, Refused};
use protobuf::MessageField;
use serde_json::{Value, json};

use crate::engine::Agent;
use crate::requests::{PAUSE, WEB, json_of, pause, web, web_of, web_process};

#[test]
fn a_container_lives_once_at_a_time() {
    let mut agent = Agent::strict();
    assert!(!agent.allows("StartContainerRequest", &json!({ "container_id": WEB })));
    assert!(agent.allows("CreateContainerRequest", &web()));
    assert!(!agent.allows("CreateContainerRequest", &web_of("another")), "a second one beside it");
    assert!(!agent.allows("StartContainerRequest", &json!({ "container_id": "another" })));
    assert!(agent.allows("RemoveContainerRequest", &json!({ "container_id": WEB })));
    assert!(
        agent.allows("RemoveContainerRequest", &json!({ "container_id": WEB })),
        "there is none any more"
    );
    assert!(agent.allows("CreateContainerRequest", &web_of("another")), "it starts again");
    assert!(agent.allows("CreateContainerRequest", &pause()));
}

#[test]
fn an_id_is_no_path_into_the_state() {
    let mut agent = Agent::strict();
    for id in ["a/b", "a~1b", "", "..", "-", "a b"] {
        let mut request = web_of(WEB);
        let text = request.to_string().replace(WEB, id);
        request = serde_json::from_str(&text).unwrap();
        assert!(!agent.allows("CreateContainerRequest", &request), "{id}");
    }
}

fn exec(args: &[&str]) -> Value {
    let mut of = web_process();
    of["args"] = json!(args);
    let process: oci::Process = process(&serde_json::from_value(of).unwrap(), &mut Vec::new());
    json_of(&msg::ExecProcessRequest {
        container_id: WEB.to_owned(),
        exec_id: "probe".to_owned(),
        process: MessageField::some(process),
        ..Default::default()
    })
}

#[test]
fn probes_and_hooks_run_and_nothing_else() {
    let mut agent = Agent::strict();
    assert!(!agent.allows("ExecProcessRequest", &exec(&["/bin/check", "8080"])), "before the container");
    assert!(agent.allows("CreateContainerRequest", &web()));
    assert!(agent.allows("ExecProcessRequest", &exec(&["/bin/check", "8080"])));
    assert!(agent.allows("ExecProcessRequest", &exec(&["/bin/drain"])));
    assert!(!agent.allows("ExecProcessRequest", &exec(&["/bin/sh"])));
    assert!(!agent.allows("ExecProcessRequest", &exec(&["/bin/check", "8080", "x"])));

    let mut forged = exec(&["/bin/check", "8080"]);
    forged["process"]["Env"].as_array_mut().unwrap().push("LD_PRELOAD=/cache/x.so".into());
    assert!(!agent.allows("ExecProcessRequest", &forged));
    let mut forged = exec(&["/bin/check", "8080"]);
    forged["process"]["User"]["UID"] = 0.into();
    assert!(!agent.allows("ExecProcessRequest", &forged));
    let mut forged = exec(&["/bin/check", "8080"]);
    forged["stdout_port"] = 9000.into();
    assert!(!agent.allows("ExecProcessRequest", &forged));
}

#[test]
fn where_commands_are_granted_they_run_as_the_container_does() {
    let mut agent = Agent::of_web(Granted, Refused);
    assert!(agent.allows("CreateContainerRequest", &web()));
    assert!(agent.allows("CreateContainerRequest", &pause()));
    assert!(agent.allows("ExecProcessRequest", &exec(&["/bin/sh"])));
    let mut forged = exec(&["/bin/sh"]);
    forged["process"]["Capabilities"]["Effective"] = json!(["CAP_SYS_ADMIN"]);
    assert!(!agent.allows("ExecProcessRequest", &forged));
    let mut forged = exec(&["/pause"]);
    forged["container_id"] = PAUSE.into();
    assert!(!agent.allows("ExecProcessRequest", &forged), "the pause container runs nothing else");
}

#[test]
fn what_no_pod_needs_is_refused_whatever_is_granted() {
    let mut agent = Agent::of_web(Granted, Granted);
    assert!(agent.allows("CreateContainerRequest", &web()));
    let id = json!({ "container_id": WEB });
    for (request, input) in [
        ("SetPolicyRequest", json!({ "policy": "package agent_policy\ndefault SetPolicyRequest := true\n" })),
        ("AllowRequestsFailingPolicy", json!({})),
        ("UpdateContainerRequest", json!({ "container_id": WEB, "resources": null })),
        ("PauseContainerRequest", id.clone()),
        ("ResumeContainerRequest", id.clone()),
        ("ReseedRandomDevRequest", json!({ "data": [0, 0, 0, 0] })),
        ("SetGuestDateTimeRequest", json!({ "Sec": 0, "Usec": 0 })),
        ("AddSwapRequest", json!({ "PCIPath": [1] })),
        ("AddSwapPathRequest", json!({ "path": "/dev/vda" })),
        ("SetIPTablesRequest", json!({ "is_ipv6": false, "data": [] })),
        ("GetIPTablesRequest", json!({ "is_ipv6": false })),
        ("GetMetricsRequest", json!({})),
        ("ListInterfacesRequest", json!({})),
        ("ListRoutesRequest", json!({})),
        ("MemHotplugByProbeRequest", json!({ "memHotplugProbeAddr": [0] })),
        ("OnlineCPUMemRequest", json!({ "wait": false, "nb_cpus": 1, "cpu_only": false })),
        ("MemAgentMemcgConfig", json!({ "disabled": true })),
        ("MemAgentCompactConfig", json!({ "disabled": true })),
        ("ResizeVolumeRequest", json!({ "volume_guest_path": "/cache", "size": 1 })),
        ("VolumeStatsRequest", json!({ "volume_guest_path": "/etc/app" })),
        ("RemoveStaleVirtiofsShareMountsRequest", json!({})),
        ("GetDiagnosticDataRequest", json!({ "container_id": WEB, "log_type": "kernel" })),
    ] {
        assert!(!agent.allows(request, &input), "{request}");
    }
}

/// Requests of the protocol that the policy does not know would have no answer, which the agent reports as a fault of
/// the policy.
#[test]
fn every_request_of_the_protocol_has_an_answer() {
    let proto = include_str!("../../../agent/proto/agent.proto");
    let mut agent = Agent::strict();
    let mut requests = 0;
    for line in proto.lines().filter_map(|line| line.trim().strip_prefix("rpc ")) {
        let of = line.split_once('(').unwrap().1.split_once(')').unwrap().0.trim();
        agent.allows(of, &json!({}));
        requests += 1;
    }
    assert!(requests > 35, "{requests}");
}
