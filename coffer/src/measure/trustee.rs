//! For Trustee: reference values as its RVPS takes them, and a policy for the resources of its KBS.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::pod::{Class, Demand};

/// SNP's measurement, wherever it is: a set, so that two that differ are none.
const SNP_MEASUREMENT: &str =
    "{m | m := evidence.snp.measurement} | {m | m := evidence.snp.evidence.measurement}";
/// Whether the guest's policy allows debugging, likewise.
const SNP_DEBUG: &str =
    "{d | d := evidence.snp.policy_debug_allowed} | {d | d := evidence.snp.evidence.policy.debug_allowed}";

/// What `-o trustee` prints.
pub(crate) fn output(demand: &Demand) -> Value {
    let values = reference_values(demand);
    json!({
        // A message of RVPS (`rvps/README.md`): the extractor "sample" takes a base64 object of lists.
        "rvps_message": { "version": "0.1.0", "type": "sample", "payload": STANDARD.encode(values.to_string()) },
        "reference_values": values,
        "resource_policy": policy(demand),
    })
}

/// By the names that Trustee's default policy for CPUs has for them (`ear_default_policy_cpu.rego`).
fn reference_values(demand: &Demand) -> Value {
    let named = demand.registers.iter().map(|(register, value)| (name(register).to_owned(), json!([value])));
    Value::Object(named.collect())
}

/// Trustee's name of a register, in reference values and in TDX's claims.
fn name(register: &'static str) -> &'static str {
    match register {
        "launch_digest" => "snp_launch_measurement",
        "mrtd" => "mr_td",
        "rtmr0" => "rtmr_0",
        "rtmr1" => "rtmr_1",
        "rtmr2" => "rtmr_2",
        other => other,
    }
}

/// A policy that gives a resource out to this VM only.
///
/// Its input is Trustee's EAR token: one part (`submods`) for each device, with the verifier's judgement and, below
/// `ear.veraison.annotated-evidence`, the claims; `init_data` is the report's field, whatever the VM sent beside it
/// (`attestation-service/src/ear_token/broker.rs`). SNP's claims are one level deeper in newer versions. A GPU's
/// claims are NRAS's (version 3); Trustee's local verifier makes other ones, and is refused.
fn policy(demand: &Demand) -> String {
    let registers = demand.registers.iter();
    let (tee, claims): (_, String) = match demand.class {
        Class::CofferSnp => {
            let measured = registers.map(|(_, digest)| format!("\t{SNP_MEASUREMENT} == {{\"{digest}\"}}\n"));
            ("snp", measured.chain([format!("\t{SNP_DEBUG} == {{false}}")]).collect())
        }
        Class::CofferTdx => {
            let measured = registers.map(|(register, value)| {
                format!("\tevidence.tdx.quote.body.{} == \"{value}\"\n", name(register))
            });
            ("tdx", measured.chain(["\tevidence.tdx.td_attributes.debug == false".to_owned()]).collect())
        }
    };
    // A name is foreign text; in a comment it may not begin a new line.
    let name: String = demand.name.chars().filter(|c| !c.is_control()).take(253).collect();
    let (gpus, initdata) = (demand.gpus, &demand.initdata);
    format!(
        r#"# Made by `coffer measure pod` for the pod {name} ({tee}, {gpus} GPUs).
package policy

import rego.v1

default allow := false

allow if {{
	every _, part in input.submods {{ part["ear.status"] == "affirming" }}
	expected_cpu
	expected_gpus
}}

expected_cpu if {{
	count({{name | some name, _ in input.submods; startswith(name, "cpu")}}) == 1
	evidence := input.submods.cpu0["ear.veraison.annotated-evidence"]
{claims}
	evidence.init_data == "{initdata}"
}}

gpus[name] := claims if {{
	some name, part in input.submods
	startswith(name, "gpu")
	claims := part["ear.veraison.annotated-evidence"].nvidia
}}

# Without claims it counts here, and not above.
gpu_names := {{name | some name, _ in input.submods; startswith(name, "gpu")}}

expected_gpus if {{
	count(gpu_names) == {gpus}
	count(gpus) == {gpus}
	every _, claims in gpus {{
		claims.secboot == true
		claims.dbgstat == "disabled"
		claims.measres == "success"
	}}

	# The same GPU twice is one.
	count({{claims.ueid | some claims in gpus}}) == {gpus}
}}
"#
    )
}

#[cfg(test)]
mod tests;
