//! Everything that the shim sends for the pod is allowed.

use agent_client::proto::{agent as msg, types};
use agent_policy::Permission::{Granted, Refused};
use agent_policy::{Options, generate};
use guest_spec::{OwnSandbox, SandboxFacts, VolumeJudge, own_sandbox, shm_remount, shm_storage};
use pod_manifest::spec::PodSpec;
use protobuf::MessageField;
use serde_json::{Value, json};

use crate::commands;
use crate::engine::{Agent, image, layer};
use crate::files;
use crate::requests::{ENGINES, EXEC, Engine, GPU, PREPARE, PROXY, SANDBOX, WEB, json_of};

/// The tests here, for the rules' coverage.
pub(crate) fn all() {
    the_whole_pod_runs();
    a_pod_of_the_sandbox_api_has_its_own_container_from_the_shim();
    a_pod_without_a_pause_container_runs_and_gets_none_later();
    logs_and_commands_as_far_as_they_are_granted();
    a_pod_whose_name_the_cluster_makes_up();
    a_pod_whose_guest_pulls_its_images();
}

/// As `shim/src/sandbox/guest.rs` makes it.
pub(crate) fn sandbox() -> msg::CreateSandboxRequest {
    msg::CreateSandboxRequest {
        hostname: "web-0".to_owned(),
        storages: vec![shm_storage(64 << 20)],
        sandbox_id: format!("sandbox-{SANDBOX}"),
        ..Default::default()
    }
}

pub(crate) fn of(id: &str) -> Value {
    json!({ "container_id": id, "exec_id": "" })
}

pub(crate) fn removal(id: &str) -> Value {
    json!({ "container_id": id, "timeout": 30 })
}

pub(crate) fn interface() -> msg::UpdateInterfaceRequest {
    let address = |address: &str, mask: &str, family: types::IPFamily| types::IPAddress {
        address: address.to_owned(),
        mask: mask.to_owned(),
        family: family.into(),
        ..Default::default()
    };
    let interface = types::Interface {
        device: "eth0".to_owned(),
        name: "eth0".to_owned(),
        IPAddresses: vec![
            address("10.4.0.5", "16", types::IPFamily::v4),
            address("fd00::5", "64", types::IPFamily::v6),
        ],
        mtu: 1450,
        hwAddr: "02:00:00:00:00:09".to_owned(),
        raw_flags: 0,
        ..Default::default()
    };
    msg::UpdateInterfaceRequest { interface: MessageField::some(interface), ..Default::default() }
}

pub(crate) fn routes() -> msg::UpdateRoutesRequest {
    let route = |dest: &str, gateway: &str, source: &str, family: types::IPFamily| types::Route {
        dest: dest.to_owned(),
        gateway: gateway.to_owned(),
        source: source.to_owned(),
        device: "eth0".to_owned(),
        family: family.into(),
        ..Default::default()
    };
    let routes = msg::Routes {
        Routes: vec![
            route("", "10.4.0.1", "", types::IPFamily::v4),
            types::Route {
                scope: 253,
                flags: 4,
                mtu: 1400,
                ..route("10.4.0.0/16", "", "10.4.0.5/0", types::IPFamily::v4)
            },
            route("128.0.0.0/1", "10.4.0.1", "", types::IPFamily::v4),
            route("", "fd00::1", "", types::IPFamily::v6),
            route("fd00::/64", "", "", types::IPFamily::v6),
            route("fe80::/10", "", "", types::IPFamily::v6),
        ],
        ..Default::default()
    };
    msg::UpdateRoutesRequest { routes: MessageField::some(routes), ..Default::default() }
}

pub(crate) fn neighbours() -> msg::AddARPNeighborsRequest {
    let address = types::IPAddress {
        address: "10.4.0.1".to_owned(),
        family: types::IPFamily::v4.into(),
        ..Default::default()
    };
    let neighbour = types::ARPNeighbor {
        toIPAddress: MessageField::some(address),
        device: "eth0".to_owned(),
        lladdr: "02:00:00:00:00:01".to_owned(),
        state: 0x80,
        ..Default::default()
    };
    let neighbours = msg::ARPNeighbors { ARPNeighbors: vec![neighbour], ..Default::default() };
    msg::AddARPNeighborsRequest { neighbors: MessageField::some(neighbours), ..Default::default() }
}

/// As far as the shim comes before the first container.
pub(crate) fn boot(agent: &mut Agent) {
    agent.accept("UpdateInterfaceRequest", &interface());
    agent.accept("UpdateRoutesRequest", &routes());
    agent.accept("AddARPNeighborsRequest", &neighbours());
    agent.accept("CreateSandboxRequest", &sandbox());
    agent.accept("UpdateEphemeralMountsRequest", &shm_remount(64 << 20));
    agent.accept("GuestDetailsRequest", &msg::GuestDetailsRequest::default());
    agent.accept("GetOOMEventRequest", &msg::GetOOMEventRequest::default());
}

/// Creates a container with its files, and starts it.
pub(crate) fn start(agent: &mut Agent, id: &str, request: &Value) {
    files::copy_in(agent, request);
    agent.accept("CreateContainerRequest", request);
    agent.accept("StartContainerRequest", &of(id));
    agent.accept("WaitProcessRequest", &of(id));
    agent.accept("StatsContainerRequest", &of(id));
}

/// Up to the pod's init containers, the last of which is there and runs on.
pub(crate) fn initialised(agent: &mut Agent, engine: Engine) {
    boot(agent);
    start(agent, SANDBOX, &engine.pause());
    start(agent, PREPARE, &engine.prepare());
    agent.accept("RemoveContainerRequest", &removal(PREPARE));
    start(agent, PROXY, &engine.proxy());
}

/// With the container `web`.
pub(crate) fn with_web(agent: &mut Agent) {
    initialised(agent, Engine::Containerd2);
    start(agent, WEB, &Engine::Containerd2.web());
}

#[test]
fn the_whole_pod_runs() {
    for engine in ENGINES {
        let mut agent = Agent::strict();
        initialised(&mut agent, engine);
        start(&mut agent, WEB, &engine.web());
        start(&mut agent, GPU, &engine.gpu());
        agent.accept("ExecProcessRequest", &commands::exec(&["/bin/check", "8080"]));
        agent.accept("WaitProcessRequest", &json!({ "container_id": WEB, "exec_id": EXEC }));
        agent.accept("SignalProcessRequest", &json!({ "container_id": WEB, "exec_id": EXEC, "signal": 9 }));
        agent.accept(
            "TtyWinResizeRequest",
            &json!({ "container_id": GPU, "exec_id": "", "row": 24, "column": 80 }),
        );
        agent.accept("WriteStreamRequest", &json!({ "container_id": GPU, "exec_id": "", "data": [104] }));
        agent.accept("CloseStdinRequest", &of(GPU));
        agent.accept("SignalProcessRequest", &json!({ "container_id": WEB, "exec_id": "", "signal": 3 }));
        for id in [WEB, GPU, PROXY, SANDBOX] {
            agent.accept("SignalProcessRequest", &json!({ "container_id": id, "exec_id": "", "signal": 15 }));
            agent.accept("RemoveContainerRequest", &removal(id));
        }
        agent.accept("DestroySandboxRequest", &json!({}));
    }
}

/// The engine makes no pause container (`sandboxer = "shim"`), and so the shim asks for it, with what containerd would set.
#[test]
fn a_pod_of_the_sandbox_api_has_its_own_container_from_the_shim() {
    let mut agent = Agent::strict();
    boot(&mut agent);
    let known = Engine::Containerd2.pause();
    let of_pod = ["sandbox-name", "sandbox-namespace", "sandbox-uid"].map(|name| {
        let name = format!("io.kubernetes.cri.{name}");
        let value = known["OCI"]["Annotations"][&name].as_str().unwrap().to_owned();
        (name, value)
    });
    let mut sysctls: std::collections::BTreeMap<String, String> = std::collections::BTreeMap::new();
    let annotations = of_pod.into();
    let facts =
        SandboxFacts { namespace: "k8s.io", seccomp: false, scratch: false, volumes: VolumeJudge::Engine };
    let own = |sysctls: &_| {
        let pod = OwnSandbox { hostname: "web-0", annotations: &annotations, sysctls, host_namespaces: &[] };
        json_of(&own_sandbox(SANDBOX, &pod, &facts).unwrap().into_request(SANDBOX))
    };
    let good = own(&sysctls);
    sysctls.insert("net.core.somaxconn".to_owned(), "1".to_owned());
    agent.refuse("CreateContainerRequest", &own(&sysctls), "OCI.Linux.Sysctl");
    start(&mut agent, SANDBOX, &good);
    start(&mut agent, PREPARE, &Engine::Containerd2.prepare());
}

#[test]
fn a_pod_without_a_pause_container_runs_and_gets_none_later() {
    let mut agent = Agent::strict();
    boot(&mut agent);
    start(&mut agent, PREPARE, &Engine::Containerd2.prepare());
    assert!(!agent.allows("CreateContainerRequest", &Engine::Containerd2.pause()), "nor later");
}

/// By its digest and from the manifest's repository; nothing else, and no layers that a host brings.
#[test]
fn a_pod_whose_guest_pulls_its_images() {
    for engine in ENGINES {
        let mut agent = Agent::pulling();
        boot(&mut agent);
        start(&mut agent, SANDBOX, &engine.pause());
        agent.refuse("CreateContainerRequest", &engine.prepare(), "storages");
        let good = engine.prepare_pulled();
        let image = good["storages"][0]["source"].as_str().unwrap().to_owned();
        let (name, digest) = image.split_once('@').unwrap();
        for (field, value) in [
            ("source", json!(format!("{name}@sha256:{}", "0".repeat(64)))),
            ("source", json!(format!("registry.example.org/tools@{digest}"))),
            ("source", json!(name)),
            (
                "driver_options",
                json!([r#"image_guest_pull={"metadata":{"io.kubernetes.cri.container-type":"sandbox"}}"#]),
            ),
            ("driver_options", json!([])),
            ("mount_point", json!("/usr")),
            ("options", json!(["exec"])),
            ("fstype", json!("bind")),
            ("driver", json!("overlayfs")),
        ] {
            let mut forged = good.clone();
            forged["storages"][0][field] = value;
            agent.refuse("CreateContainerRequest", &forged, "storages");
        }
        let mut twice = good.clone();
        twice["storages"].as_array_mut().unwrap().push(good["storages"][0].clone());
        agent.refuse("CreateContainerRequest", &twice, "storages");
        start(&mut agent, PREPARE, &good);
        let mut layered = Agent::strict();
        boot(&mut layered);
        start(&mut layered, SANDBOX, &engine.pause());
        layered.refuse("CreateContainerRequest", &good, "storages");
    }
}

#[test]
fn a_pod_whose_name_the_cluster_makes_up() {
    let mut agent = Agent::of_job();
    agent.refuse("CreateSandboxRequest", &sandbox(), "hostname");
    let named = |name: &str, namespace: &str| {
        let mut request = Engine::Containerd2.pause();
        let annotations = &mut request["OCI"]["Annotations"];
        annotations["io.kubernetes.cri.sandbox-name"] = name.into();
        annotations["io.kubernetes.cri.sandbox-namespace"] = namespace.into();
        request["OCI"]["Hostname"] = name.into();
        request["OCI"]["Linux"]["Sysctl"] = json!({ "kernel.shm_rmid_forced": "1" });
        request
    };
    agent.accept(
        "CreateSandboxRequest",
        &msg::CreateSandboxRequest { hostname: "job-x2x9k".to_owned(), ..sandbox() },
    );
    agent.refuse("CreateContainerRequest", &named("other-x2x9k", "batch"), "sandbox-name");
    agent.refuse("CreateContainerRequest", &named("job-x2x9k", "Not a name"), "sandbox-namespace");
    let mut request = named("job-x2x9k", "batch");
    request["OCI"]["Linux"]["Sysctl"] = json!({});
    agent.refuse("CreateContainerRequest", &request, "OCI.Linux.Sysctl");
    request["OCI"]["Linux"]["Sysctl"] =
        json!({ "kernel.shm_rmid_forced": "1", "kernel.core_pattern": "|/x" });
    agent.refuse("CreateContainerRequest", &request, "OCI.Linux.Sysctl");
    let mut request = named("job-x2x9k", "batch");
    request["OCI"]["Annotations"]["io.kubernetes.cri-o.ContainerType"] = "sandbox".into();
    agent.refuse("CreateContainerRequest", &request, "two engines");
    agent.accept("CreateContainerRequest", &named("job-x2x9k", "batch"));
}

#[test]
fn logs_and_commands_as_far_as_they_are_granted() {
    let output = json!({ "container_id": WEB, "exec_id": "", "len": 16_384 });
    let its_own = json!({ "container_id": WEB, "exec_id": EXEC, "len": 16_384 });
    let written = json!({ "container_id": WEB, "exec_id": EXEC, "data": [] });
    let size = json!({ "container_id": WEB, "exec_id": EXEC, "row": 24, "column": 80 });
    let words = json!({ "log_type": "termination_log", "container_id": WEB });
    for (exec, logs) in [(Refused, Refused), (Granted, Refused), (Refused, Granted), (Granted, Granted)] {
        let mut agent = Agent::of_web(exec, logs);
        with_web(&mut agent);
        assert_eq!(agent.allows("ReadStreamRequest", &output), logs == Granted);
        assert_eq!(agent.allows("GetDiagnosticDataRequest", &words), logs == Granted);
        assert_eq!(agent.allows("ReadStreamRequest", &its_own), exec == Granted || logs == Granted);
        assert_eq!(agent.allows("WriteStreamRequest", &written), exec == Granted);
        assert_eq!(agent.allows("TtyWinResizeRequest", &size), exec == Granted);
        let own_input = json!({ "container_id": WEB, "exec_id": WEB, "data": [] });
        assert!(!agent.allows("WriteStreamRequest", &own_input), "the manifest has no stdin");
    }
}

/// Without an exec id it is the container's own output.
#[test]
fn a_refused_read_is_told_from_nothing_else() {
    let mut agent = Agent::of_web(Granted, Refused);
    with_web(&mut agent);
    let read = msg::ReadStreamRequest { container_id: WEB.to_owned(), ..Default::default() };
    agent.refuse("ReadStreamRequest", &json_of(&read), "output is not for the host");
}

/// What the shim reads to say which layer differs (`shim/src/sandbox/pinned.rs`).
#[test]
fn a_policy_notes_each_containers_layers_from_the_topmost_down() {
    let pod = PodSpec::parse(include_str!("../pods/job.yaml")).unwrap();
    let images = [("work".to_owned(), image(&[2, 1], "{}"))].into();
    let policy = generate(&pod, &Options { images, ..Options::default() }).unwrap();
    let notes: Vec<&str> = policy.lines().filter(|line| line.starts_with("# layer ")).collect();
    assert_eq!(notes, [2, 1].map(|byte| format!("# layer work {}", layer(byte))));
    let images = [("work".to_owned(), image(&[2, 1], "{}"))].into();
    let pulled = generate(&pod, &Options { images, pulled: true, ..Options::default() }).unwrap();
    assert!(!pulled.contains("# layer"), "no node makes layers of an image that the guest pulls");
}

/// The same of directories that the shim may make.
#[test]
fn a_policy_notes_the_volumes_at_whose_places_the_host_may_make_directories() {
    let pod = PodSpec::parse(include_str!("../pods/job.yaml")).unwrap();
    let notes = |pulled| {
        let config = r#"{"config": {"Volumes": {"/var/data/": {}, "/var/new": {}, "/seeded": {}}}}"#;
        let images = [("work".to_owned(), image(&[1], config))].into();
        let policy = generate(&pod, &Options { images, pulled, ..Options::default() }).unwrap();
        let notes = policy.lines().filter(|line| line.starts_with("# volume "));
        notes.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(notes(false), ["# volume work 999:998:1770 /var/data", "# volume work 0:0:0755 /var/new"]);
    assert_eq!(notes(true), ["# volume work 0:0:0755 /var/new"]);
}
