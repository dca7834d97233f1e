# Made by `coffer measure`: a rule for each pod. A KBS has one policy for all its resources;
# `coffer measure merge` makes one of several pods'.
package policy

import rego.v1

default allow := false

# The pod p (snp, 1 GPUs).
allow if {
	asked_for([["default", "key", "model"]])
	evidence.init_data in {"1111111111111111111111111111111111111111111111111111111111111111", "ERERERERERERERERERERERERERERERERERERERERERE="}
	evidence.snp.measurement in {"716c64e04c07ee78b4c161cde8953758a2fbe915df6c5d49f7faea84c87b2b263d9e61156d62fb4306b3d783786c472e", "cWxk4EwH7ni0wWHN6JU3WKL76RXfbF1J9/rqhMh7KyY9nmEVbWL7Qwaz14N4bEcu"}
	evidence.snp.policy_smt_allowed == true
	evidence.snp.policy_migrate_ma == false
	evidence.snp.policy_debug_allowed == false
	evidence.snp.policy_single_socket == false
	evidence.snp.policy_abi_major == 0
	evidence.snp.policy_abi_minor == 0
	genuine_gpus(1)
}

# The pod p (tdx, 1 GPUs).
allow if {
	asked_for([["default", "key", "model"]])
	evidence.init_data in {"111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111", "ERERERERERERERERERERERERERERERERERERERERERERERERERERERERERERERER"}
	evidence.tdx.quote.body.mr_td == "5f91550edb03f0bb8917da57f0f8818976f5da971307b7ee4886bb951c4891a1f16f840dae8f655aa5df718884ebc15b"
	evidence.tdx.quote.body.rtmr_0 == "45e3facb8c1e4979f047f99a6f40d00de95728ca5cb8e9f48307951886d016a49c463d4cd4d1e9e2bb1d215e3e78b36b"
	evidence.tdx.quote.body.rtmr_1 == "47f05d367b0c32e438fb63e6cf4a5f35c2aa2f90dc7543f8a41a0f95ce8a40a313ab5cf36134a2068c4c969cb50db776"
	evidence.tdx.quote.body.rtmr_2 == "d063457705d66d6f016e4cdd747db3af8d70ebfd36badd63de6c8ca4a9d8bfb5d874e7fbd750aa804dcaddae7eeef51e"
	evidence.tdx.quote.body.td_attributes == "0000001000000000"
	object.get(evidence.tdx.quote.body, "mr_servicetd", "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000") == "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
	genuine_gpus(1)
}

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
