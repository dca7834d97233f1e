//! Specs as containerd 2.1.9 wrote them, through the shim's code, and the policy of their pod.

use std::collections::BTreeMap;

use agent_policy::{Options, generate};
use pod_manifest::spec::PodSpec;
use serde_json::Value;

use crate::engine::{Agent, image};
use crate::honest::{boot, of, removal};
use crate::requests::{GPU, PREPARE, PROXY, SANDBOX, WEB, created, json_of};

fn recorded(id: &str, spec: &str, layers: &[u8]) -> Value {
    json_of(&created(id, serde_json::from_str(spec).unwrap(), layers, &[], &[]))
}

#[test]
fn what_containerd_has_written_is_allowed() {
    let pod = PodSpec::parse(include_str!("../pods/recorded.yaml")).unwrap();
    let proxy = r#"{"config": {"Entrypoint": ["/bin/proxy"], "User": "serve", "Env": ["PATH=/usr/local/bin:/bin", "MODE=fast"]}}"#;
    let images: BTreeMap<_, _> = [
        ("prepare".to_owned(), image(&[1, 2], "{}")),
        ("proxy".to_owned(), image(&[3], proxy)),
        // Its lowest layer is its topmost, once more.
        ("web".to_owned(), image(&[4, 5, 4], r#"{"config": {"StopSignal": "SIGQUIT"}}"#)),
    ]
    .into();
    let mut agent = Agent::new(&generate(&pod, &Options { images, ..Options::default() }).unwrap());
    boot(&mut agent);
    for (id, spec, layers) in [
        (SANDBOX, include_str!("../pods/containerd-2.1/pause.json"), &[][..]),
        (PREPARE, include_str!("../pods/containerd-2.1/prepare.json"), &[1, 2]),
        (PROXY, include_str!("../pods/containerd-2.1/proxy.json"), &[3]),
        (WEB, include_str!("../pods/containerd-2.1/web.json"), &[4, 5, 4]),
    ] {
        agent.accept("CreateContainerRequest", &recorded(id, spec, layers));
        agent.accept("StartContainerRequest", &of(id));
        if id == PREPARE {
            agent.accept("RemoveContainerRequest", &removal(id));
        }
    }
    let second = recorded(GPU, include_str!("../pods/containerd-2.1/web.json"), &[4, 5]);
    agent.refuse("CreateContainerRequest", &second, "(the time)");
}
