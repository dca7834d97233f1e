//! The policies that an image has for the time without one from initdata (`guest-image/root/kata-opa`).

use serde_json::json;

use crate::engine::Agent;
use crate::honest::sandbox;
use crate::requests::{Engine, json_of};

const DENY: &str = include_str!("../../../../guest-image/root/kata-opa/deny-all.rego");
const ALLOW: &str = include_str!("../../../../guest-image/root/kata-opa/allow-all.rego");

/// What the agent asks its policy about: the request of each call, by its message's name.
fn requests() -> Vec<&'static str> {
    let service = include_str!("../../../agent-client/proto/agent.proto");
    let calls = service.lines().filter_map(|line| line.trim().strip_prefix("rpc ")?.split(['(', ')']).nth(1));
    let mut requests: Vec<_> = calls.collect();
    requests.sort_unstable();
    requests.dedup();
    requests
}

#[test]
fn a_release_images_agent_denies_every_request() {
    assert!(requests().len() > 38, "{:?}", requests());
    let mut agent = Agent::new(DENY);
    for request in requests() {
        assert!(!agent.allows(request, &json!({})), "{request}");
    }
    // Real ones, too: no content makes a difference.
    assert!(!agent.allows("CreateSandboxRequest", &json_of(&sandbox())));
    assert!(!agent.allows("CreateContainerRequest", &Engine::Containerd2.web()));
    assert!(!agent.allows("SetPolicyRequest", &json!({ "policy": ALLOW })));
}

#[test]
fn a_development_images_agent_allows_every_request() {
    let mut agent = Agent::new(ALLOW);
    for request in requests() {
        assert!(agent.allows(request, &json!({})), "{request}");
    }
}

/// kata-agent then lets pass what the policy refuses.
#[test]
fn no_refusal_is_ignored() {
    for policy in [DENY, ALLOW] {
        assert!(!policy.contains("AllowRequestsFailingPolicy"));
    }
}
