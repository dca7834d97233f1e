//! The resource policy: a rule for each pod, and what the rules have in common.
//!
//! Its input is Trustee's EAR token: one part (`submods`) for each device, with the verifier's judgement and, below
//! `ear.veraison.annotated-evidence`, the claims; `init_data` is the report's field, whatever the VM sent beside it
//! (`attestation-service/src/ear_token/broker.rs`). What is asked for is data: `plugin` and `resource-path`
//! (`kbs/src/api_server.rs`). A GPU's claims are NRAS's (version 3); Trustee's local verifier makes other ones, and is refused.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::{Pod, Tee, comment, forms};

/// TDX's ATTRIBUTES, little-endian, of the VM that Coffer asks QEMU for: SEPT_VE_DISABLE (bit 28) and nothing else; PKS and
/// PERFMON are switched off (`vmm_config`). With any other bit it is another VM: one that can be debugged, or migrated.
const TDX_ATTRIBUTES: &str = "0000001000000000";

/// Bits of SNP's policy that Trustee has claims for (AMD 56860, 4.3).
const SNP_FLAGS: [(&str, u32); 4] = [
    ("policy_smt_allowed", 16),
    ("policy_migrate_ma", 18),
    ("policy_debug_allowed", 19),
    ("policy_single_socket", 20),
];

const HEAD: &str = r#"# Made by `coffer measure`: a rule for each pod. A KBS has one policy for all its resources;
# `coffer measure merge` makes one of several pods'.
package policy

import rego.v1

default allow := false
"#;

const TAIL: &str = r#"
submods := input.submods if is_object(input.submods)

cpu_parts := {name | some name, _ in submods; startswith(name, "cpu")}

gpu_parts := {name | some name, _ in submods; startswith(name, "gpu")}

switch_parts := {name | some name, _ in submods; startswith(name, "switch")}

# Without claims a GPU counts above, and not here.
gpus[name] := claims if {
	some name in gpu_parts
	claims := submods[name]["ear.veraison.annotated-evidence"].nvidia
}

# `*` stands for any part of a path; it is in no path itself.
asked_for(resources) if {
	data.plugin == "resource"
	count(data["resource-path"]) == 3
	some resource in resources
	every at, part in resource { part in {"*", data["resource-path"][at]} }
}

evidence := submods.cpu0["ear.veraison.annotated-evidence"] if {
	cpu_parts == {"cpu0"}
	every _, part in submods { part["ear.status"] == "affirming" }
}

genuine_gpus(wanted) if {
	count(gpu_parts) == wanted
	count(gpus) == wanted
	every _, claims in gpus {
		claims.secboot == true
		claims.dbgstat == "disabled"
		claims.measres == "success"
		is_string(claims.ueid)
		claims.ueid != ""
		is_string(claims.hwmodel)
	}

	# The same GPU twice is one.
	count({claims.ueid | some claims in gpus}) == wanted
	whole_board
}

hoppers := {name | some name, claims in gpus; startswith(claims.hwmodel, "GH100")}

whole_board if {
	count(hoppers) < 2
	count(switch_parts) == 0
}

# Links between Hoppers are not encrypted: several are a whole board of the tenant's with its four switches, or nothing.
# Trustee leaves this part out where the board is none.
whole_board if {
	count(hoppers) > 1
	count(hoppers) == count(gpu_parts)
	count(switch_parts) == 4
	submods.ppcie0["ear.status"] == "affirming"
}
"#;

/// The policy of these pods.
pub(super) fn policy(pods: &BTreeSet<Pod>) -> String {
    let mut text = HEAD.to_owned();
    for pod in pods {
        rule(&mut text, pod);
    }
    text + TAIL
}

/// A string takes everything, so writing to it does not fail.
fn rule(text: &mut String, pod: &Pod) {
    let resources = pod.resources.iter().map(|resource| format!("[{}]", quoted(&resource.0)));
    let resources: Vec<String> = resources.collect();
    let (name, tee, gpus) = (comment(&pod.name), pod.tee.name(), pod.gpus);
    let _ = write!(text, "\n# The pod {name} ({tee}, {gpus} GPUs).\nallow if {{\n");
    let mut line = |line: &str| {
        let _ = writeln!(text, "\t{line}");
    };
    line(&format!("asked_for([{}])", resources.join(", ")));
    line(&format!("evidence.init_data in {{{}}}", quoted(&forms(&pod.initdata))));
    for (name, value) in &pod.measurements {
        match pod.tee {
            Tee::Snp => line(&format!("evidence.snp.measurement in {{{}}}", quoted(&forms(value)))),
            Tee::Tdx => line(&format!("evidence.tdx.quote.body.{name} == \"{value}\"")),
        }
    }
    match pod.tee {
        Tee::Snp => {
            let policy = pod.snp_policy.unwrap_or_default();
            for (name, bit) in SNP_FLAGS {
                line(&format!("evidence.snp.{name} == {}", policy >> bit & 1 == 1));
            }
            line(&format!("evidence.snp.policy_abi_major == {}", policy >> 8 & 0xff));
            line(&format!("evidence.snp.policy_abi_minor == {}", policy & 0xff));
        }
        Tee::Tdx => {
            line(&format!("evidence.tdx.quote.body.td_attributes == \"{TDX_ATTRIBUTES}\""));
            // A TD with another one behind it has that one's measurement here; older quotes have no such field.
            let zeros = "0".repeat(96);
            line(&format!(
                "object.get(evidence.tdx.quote.body, \"mr_servicetd\", \"{zeros}\") == \"{zeros}\""
            ));
        }
    }
    if !pod.machines.is_empty() {
        let machines: Vec<String> = pod.machines.iter().cloned().collect();
        line(&format!("evidence.{tee}.{} in {{{}}}", pod.tee.machine().0, quoted(&machines)));
    }
    line(&format!("genuine_gpus({gpus})"));
    text.push_str("}\n");
}

fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    words.join(", ")
}
