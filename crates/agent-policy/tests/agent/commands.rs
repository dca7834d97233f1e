//! Commands in a running container, and its signals.

use agent_client::proto::{agent as msg, oci};
use agent_policy::Permission::{Granted, Refused};
use guest_spec::process;
use protobuf::MessageField;
use serde_json::{Value, json};

use crate::engine::Agent;
use crate::honest::{initialised, of, removal, with_web};
use crate::requests::{EXEC, Engine, GPU, SANDBOX, WEB, json_of, web_process};

/// The tests here, for the rules' coverage.
pub(crate) fn all() {
    probes_and_hooks_run_and_nothing_else();
    where_commands_are_granted_they_run_as_the_container_does();
    signals_are_those_that_end_a_container();
}

/// A command in the container `web`.
pub(crate) fn exec(args: &[&str]) -> Value {
    let mut of = web_process();
    of["args"] = json!(args);
    let process: oci::Process = process(&serde_json::from_value(of).unwrap(), &mut Vec::new());
    json_of(&msg::ExecProcessRequest {
        container_id: WEB.to_owned(),
        exec_id: EXEC.to_owned(),
        process: MessageField::some(process),
        ..Default::default()
    })
}

#[test]
fn probes_and_hooks_run_and_nothing_else() {
    let mut agent = Agent::strict();
    initialised(&mut agent, Engine::Containerd2);
    let probe = exec(&["/bin/check", "8080"]);
    agent.refuse("ExecProcessRequest", &probe, "container_id");
    agent.accept("CreateContainerRequest", &Engine::Containerd2.web());
    agent.refuse("ExecProcessRequest", &probe, "container_id");
    agent.accept("StartContainerRequest", &of(WEB));
    agent.accept("ExecProcessRequest", &probe);
    agent.accept("ExecProcessRequest", &exec(&["/bin/drain"]));
    for args in [&["/bin/sh"][..], &["/bin/check", "8080", "x"], &["/bin/check"], &[]] {
        agent.refuse("ExecProcessRequest", &exec(args), "process.Args");
    }
    for id in ["", WEB, SANDBOX, "probe", "../x"] {
        let mut forged = probe.clone();
        forged["exec_id"] = id.into();
        agent.refuse("ExecProcessRequest", &forged, "exec_id");
    }
    agent.accept("RemoveContainerRequest", &removal(WEB));
    agent.refuse("ExecProcessRequest", &probe, "container_id");
}

#[test]
fn where_commands_are_granted_they_run_as_the_container_does() {
    let mut agent = Agent::of_web(Granted, Refused);
    with_web(&mut agent);
    let mut shell = exec(&["/bin/sh"]);
    agent.accept("ExecProcessRequest", &shell);
    shell["process"]["Terminal"] = true.into();
    shell["process"]["ConsoleSize"] = json!({ "Height": 24, "Width": 80 });
    shell["process"]["Env"].as_array_mut().unwrap().push("TERM=xterm".into());
    agent.accept("ExecProcessRequest", &shell);
    let mut forged = exec(&["/bin/sh"]);
    forged["process"]["Capabilities"]["Effective"] = json!(["CAP_SYS_ADMIN"]);
    agent.refuse("ExecProcessRequest", &forged, "process.Capabilities");
    let mut forged = exec(&["/bin/sh"]);
    forged["process"]["Env"].as_array_mut().unwrap().push("TERM=xterm".into());
    agent.refuse("ExecProcessRequest", &forged, "process.Env");
    let mut forged = exec(&["/pause"]);
    forged["container_id"] = SANDBOX.into();
    agent.refuse("ExecProcessRequest", &forged, "process.Args");
}

#[test]
fn signals_are_those_that_end_a_container() {
    let mut agent = Agent::strict();
    with_web(&mut agent);
    let signal = |id: &str, signal: u32| json!({ "container_id": id, "exec_id": "", "signal": signal });
    for (id, number) in [(WEB, 3), (WEB, 9), (WEB, 15), (SANDBOX, 9), (WEB, 65)] {
        agent.accept("SignalProcessRequest", &signal(id, number));
    }
    for (id, number) in
        [(WEB, 0), (WEB, 1), (WEB, 10), (WEB, 6), (WEB, 19), (SANDBOX, 3), (WEB, 4_294_967_295)]
    {
        agent.refuse("SignalProcessRequest", &signal(id, number), "signal");
    }
    agent.refuse("SignalProcessRequest", &signal(GPU, 9), "container_id");
    // The first process by its name, of which the shim kills a container as well.
    for id in [WEB, SANDBOX] {
        agent.accept("SignalProcessRequest", &json!({ "container_id": id, "exec_id": id, "signal": 9 }));
    }
    agent.refuse(
        "SignalProcessRequest",
        &json!({ "container_id": WEB, "exec_id": SANDBOX, "signal": 9 }),
        "exec_id",
    );
}
