# A process: a container's first one, or a command in it.

process := input.OCI.Process

process := input.process

# Of the container that is made, or of the one that a command runs in.
owner := container

owner := wanted if input.process

process_faults contains "Cwd" if not process.Cwd == owner.cwd

process_faults contains "ConsoleSize" if not console_right

process_faults contains "ApparmorProfile" if not process.ApparmorProfile == ""

process_faults contains "SelinuxLabel" if not process.SelinuxLabel == ""

process_faults contains "OOMScoreAdj" if not is_between(process.OOMScoreAdj, owner.oom_score[0], owner.oom_score[1])

process_faults contains "Rlimits" if not process.Rlimits == []

process_faults contains "NoNewPrivileges" if not process.NoNewPrivileges == owner.no_new_privileges

process_faults contains "User.UID" if not process.User.UID == owner.uid

process_faults contains "User.GID" if not process.User.GID in owner.gids

process_faults contains "User.AdditionalGids" if not groups_right

process_faults contains "User.Username" if not process.User.Username == ""

process_faults contains "Capabilities" if not capabilities_right

process_faults contains "Env" if not environment_right

console_right if is_null(process.ConsoleSize)

console_right if {
	process.Terminal == true
	is_between(process.ConsoleSize.Height, 0, 65535)
	is_between(process.ConsoleSize.Width, 0, 65535)
}

# Engines have the first group among them, or not.
groups_right if {
	groups := {group | some group in process.User.AdditionalGids}
	first := {process.User.GID}
	some expected_groups in owner.groups
	groups - first == {group | some group in expected_groups} - first
	count(groups) == count(process.User.AdditionalGids)
}

# In every set the manifest's, on the ground of the engine's usual ones; older engines have them among the inheritable.
capabilities_right if {
	process.Capabilities.Bounding in owner.capabilities
	process.Capabilities.Effective == process.Capabilities.Bounding
	process.Capabilities.Permitted == process.Capabilities.Bounding
	process.Capabilities.Inheritable in [[], process.Capabilities.Bounding]
	process.Capabilities.Ambient == []
}

environment_right if {
	every variable in owner.env { variable in process.Env }
	every name in owner.env_shaped { name in names }
	every variable in environment { is_variable(variable) }

	# A second value of a variable could be the one that counts.
	count(environment) == count(names)
}

# containerd leaves an image's entry where the manifest has another of its name behind it, which is the one that counts.
environment := [variable | some i, variable in process.Env; not is_replaced(i, variable)]

is_replaced(i, variable) if {
	variable in owner.env_replaced
	some j, later in process.Env
	j > i
	split(later, "=")[0] == split(variable, "=")[0]
}

is_variable(variable) if variable in owner.env

is_variable(variable) if variable in owner.env_optional

is_variable(variable) if {
	[name, value] := split_once(variable)
	regex.match(owner.env_shapes[name], value)
}

is_variable("TERM=xterm") if process.Terminal == true

is_variable(variable) if {
	[name, _] := split_once(variable)
	name in owner.env_any
}

is_variable(variable) if {
	[name, value] := split_once(variable)
	name == "HOSTNAME"
	owner.env_hostname == true
	is_hostname(value)
}

# What kubelet says of a service comes whole: no variable of one of which the others are not there.
is_variable(variable) if {
	[[_, service, rest]] := regex.find_all_string_submatch_n(service_pattern, variable, 1)
	rest != ""
	every name in ["SERVICE_HOST", "SERVICE_PORT", "PORT"] { concat("_", [service, name]) in names }
}

is_variable(variable) if {
	some pattern in owner.env_patterns
	regex.match(pattern, variable)
}

split_once(variable) := [substring(variable, 0, sign), substring(variable, sign + 1, -1)] if {
	sign := indexof(variable, "=")
	sign > 0
}

names := {split(variable, "=")[0] | some variable in process.Env}

service_pattern := concat("", [
	`^(`, owner.services, `)_(SERVICE_HOST=[0-9A-Fa-f.:]+|SERVICE_PORT(?:_[A-Z0-9_]+)?=[0-9]{1,5}`,
	`|PORT(?:_[0-9]{1,5}_(?:TCP|UDP|SCTP))?=(?:tcp|udp|sctp)://\[?[0-9A-Fa-f.:]+\]?:[0-9]{1,5}`,
	`|PORT_[0-9]{1,5}_(?:TCP|UDP|SCTP)_PROTO=(?:tcp|udp|sctp)|PORT_[0-9]{1,5}_(?:TCP|UDP|SCTP)_PORT=[0-9]{1,5}`,
	`|PORT_[0-9]{1,5}_(?:TCP|UDP|SCTP)_ADDR=[0-9A-Fa-f.:]+)$`,
])
