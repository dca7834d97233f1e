//! What the policy remembers, and requests that no pod needs.

use agent_policy::Permission::Granted;
use serde_json::{Value, json};

use crate::engine::Agent;
use crate::honest::{boot, initialised, of, removal, sandbox, start, with_web};
use crate::requests::{Engine, GPU, PREPARE, PROXY, SANDBOX, WEB, json_of};

const ENGINE: Engine = Engine::Containerd2;

/// The tests here, for the rules' coverage.
pub(crate) fn all() {
    a_sandbox_is_made_once_and_first();
    an_id_is_used_once();
    a_container_lives_once_at_a_time();
    what_was_to_be_removed_never_runs();
    an_id_is_no_path_into_the_memory();
    containers_come_in_their_order();
    what_the_sandboxs_own_container_brings_is_there_before_others();
    what_no_pod_needs_is_refused_whatever_is_granted();
}

/// The same container under another id, and with its layers where that one has them.
fn renamed(request: &Value, from: &str, to: &str) -> Value {
    let place = |id: &str| format!("/run/l/{id:.10}");
    let text = request.to_string().replace(from, to).replace(&place(from), &place(to));
    serde_json::from_str(&text).unwrap()
}

fn id(byte: u8) -> String {
    format!("{byte:02x}").repeat(32)
}

#[test]
fn a_sandbox_is_made_once_and_first() {
    let mut agent = Agent::strict();
    agent.refuse("CreateContainerRequest", &ENGINE.pause(), "(the time)");
    agent.refuse("CreateContainerRequest", &ENGINE.prepare(), "(the time)");
    boot(&mut agent);
    agent.refuse("CreateSandboxRequest", &sandbox(), "(a second sandbox)");
    start(&mut agent, SANDBOX, &ENGINE.pause());
    agent.refuse("CreateSandboxRequest", &sandbox(), "(a second sandbox)");
    agent.refuse("CreateContainerRequest", &renamed(&ENGINE.pause(), SANDBOX, &id(1)), "(the time)");
}

#[test]
fn an_id_is_used_once() {
    let mut agent = Agent::strict();
    with_web(&mut agent);
    let taken = renamed(&ENGINE.gpu(), GPU, WEB);
    agent.refuse("CreateContainerRequest", &taken, "container_id");
    agent.accept("RemoveContainerRequest", &removal(WEB));
    agent.refuse("CreateContainerRequest", &taken, "container_id");
    agent.refuse("CreateContainerRequest", &ENGINE.web(), "container_id");
    agent.refuse("CreateContainerRequest", &renamed(&ENGINE.gpu(), GPU, PREPARE), "container_id");
    // One that begins like another would have its layers where the other has them.
    for taken in [WEB, SANDBOX] {
        let alike = format!("{}{}", &taken[..10], &GPU[10..]);
        agent.refuse("CreateContainerRequest", &renamed(&ENGINE.gpu(), GPU, &alike), "container_id");
    }
    start(&mut agent, GPU, &ENGINE.gpu());
}

#[test]
fn a_container_lives_once_at_a_time() {
    let mut agent = Agent::strict();
    initialised(&mut agent, ENGINE);
    agent.refuse("StartContainerRequest", &of(WEB), "container_id");
    start(&mut agent, WEB, &ENGINE.web());
    let again = renamed(&ENGINE.web(), WEB, &id(1));
    agent.refuse("CreateContainerRequest", &again, "(the time)");
    agent.refuse("StartContainerRequest", &of(&id(1)), "container_id");
    agent.accept("RemoveContainerRequest", &removal(WEB));
    agent.accept("RemoveContainerRequest", &removal(WEB));
    agent.refuse("RemoveContainerRequest", &removal(GPU), "container_id");
    start(&mut agent, &id(1), &again);
}

/// The agent may still be making it when its removal is asked for.
#[test]
fn what_was_to_be_removed_never_runs() {
    let mut agent = Agent::strict();
    initialised(&mut agent, ENGINE);
    agent.accept("CreateContainerRequest", &ENGINE.web());
    agent.accept("RemoveContainerRequest", &removal(WEB));
    agent.refuse("StartContainerRequest", &of(WEB), "container_id");
    let again = renamed(&ENGINE.web(), WEB, &id(1));
    start(&mut agent, &id(1), &again);
    agent.refuse("StartContainerRequest", &of(&id(1)), "container_id");
    agent.accept("RemoveContainerRequest", &removal(&id(1)));
    agent.refuse("StartContainerRequest", &of(&id(1)), "container_id");
}

#[test]
fn an_id_is_no_path_into_the_memory() {
    let mut agent = Agent::strict();
    initialised(&mut agent, ENGINE);
    let before = agent.memory();
    let long = "a".repeat(65);
    let upper = WEB.to_ascii_uppercase();
    for id in ["a/b", "a~1b", "", "..", "-", "a b", "began/web", &long, &upper, &format!("{}\n", &WEB[1..])] {
        let mut request = ENGINE.web();
        request["container_id"] = (*id).into();
        agent.refuse("CreateContainerRequest", &request, "container_id");
        request["exec_id"] = (*id).into();
        let request = renamed(&request, WEB, id.trim_end());
        assert!(!agent.allows("CreateContainerRequest", &request), "{id}");
        assert!(!agent.allows("RemoveContainerRequest", &removal(id)), "{id}");
    }
    assert_eq!(agent.memory(), before);
}

#[test]
fn containers_come_in_their_order() {
    let mut agent = Agent::strict();
    boot(&mut agent);
    start(&mut agent, SANDBOX, &ENGINE.pause());
    for later in [ENGINE.proxy(), ENGINE.web(), ENGINE.gpu()] {
        agent.refuse("CreateContainerRequest", &later, "(the time)");
    }
    // It is not enough that an init container was there: it must have been started, and be gone.
    agent.accept("CreateContainerRequest", &ENGINE.prepare());
    agent.accept("RemoveContainerRequest", &removal(PREPARE));
    agent.refuse("CreateContainerRequest", &ENGINE.proxy(), "(the time)");
    let again = renamed(&ENGINE.prepare(), PREPARE, &id(1));
    start(&mut agent, &id(1), &again);
    agent.refuse("CreateContainerRequest", &ENGINE.proxy(), "(the time)");
    agent.accept("RemoveContainerRequest", &removal(&id(1)));
    // After a failure it runs again.
    start(&mut agent, &id(2), &renamed(&ENGINE.prepare(), PREPARE, &id(2)));
    agent.accept("RemoveContainerRequest", &removal(&id(2)));
    // A sidecar must have been started, and stays, or comes again.
    agent.accept("CreateContainerRequest", &ENGINE.proxy());
    agent.refuse("CreateContainerRequest", &ENGINE.web(), "(the time)");
    agent.accept("StartContainerRequest", &of(PROXY));
    agent.refuse("CreateContainerRequest", &renamed(&ENGINE.prepare(), PREPARE, &id(3)), "(the time)");
    agent.accept("RemoveContainerRequest", &removal(PROXY));
    start(&mut agent, WEB, &ENGINE.web());
    start(&mut agent, &id(4), &renamed(&ENGINE.proxy(), PROXY, &id(4)));
    start(&mut agent, GPU, &ENGINE.gpu());
    agent.refuse("CreateContainerRequest", &renamed(&ENGINE.prepare(), PREPARE, &id(5)), "(the time)");
}

/// Sysctls, and the first of the processes that containers share.
#[test]
fn what_the_sandboxs_own_container_brings_is_there_before_others() {
    let sysctl: fn(&mut Value, &mut Value) =
        |pause, _| pause["OCI"]["Linux"]["Sysctl"]["net.core.somaxconn"] = "1024".into();
    let shared: fn(&mut Value, &mut Value) = |_, prepare| prepare["sandbox_pidns"] = true.into();
    for (field, forge) in [
        ("securityContext: {fsGroup: 2000, sysctls: [{name: net.core.somaxconn, value: \"1024\"}]}", sysctl),
        ("securityContext: {fsGroup: 2000}\n  shareProcessNamespace: true", shared),
    ] {
        let (mut pause, mut prepare) = (ENGINE.pause(), ENGINE.prepare());
        forge(&mut pause, &mut prepare);
        let pod = || Agent::of_web_with("securityContext: {fsGroup: 2000}", field);
        let mut agent = pod();
        boot(&mut agent);
        agent.refuse("CreateContainerRequest", &prepare, "(the time)");
        agent.accept("CreateContainerRequest", &pause);
        agent.refuse("CreateContainerRequest", &prepare, "(the time)");
        agent.accept("StartContainerRequest", &of(SANDBOX));
        start(&mut agent, PREPARE, &prepare);
        let mut agent = pod();
        boot(&mut agent);
        start(&mut agent, SANDBOX, &pause);
        agent.accept("RemoveContainerRequest", &removal(SANDBOX));
        agent.refuse("CreateContainerRequest", &prepare, "(the time)");
    }
}

#[test]
fn what_no_pod_needs_is_refused_whatever_is_granted() {
    let mut agent = Agent::of_web(Granted, Granted);
    with_web(&mut agent);
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
    agent.refuse(
        "GetDiagnosticDataRequest",
        &json_of(&json!({ "container_id": WEB, "log_type": "x" })),
        "log_type",
    );
}

/// Requests of the protocol that the policy does not know would have no answer, which the agent reports as a fault of
/// the policy.
#[test]
fn every_request_of_the_protocol_has_an_answer() {
    let mut agent = Agent::strict();
    let requests = crate::proto::requests();
    assert!(requests.len() > 35, "{requests:?}");
    for request in requests {
        agent.allows(&request, &json!({}));
    }
}
