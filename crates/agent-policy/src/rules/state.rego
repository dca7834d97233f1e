# What the policy remembers is in data.pstate.sandbox, from CreateSandbox on:
#   containers  of each id that was ever used, the container's name and its phase: "created", "started" or "removed"
#   began       names of containers whose start was asked for once
#   copied      for each id, how often something was copied in before its container was there
# The keys are ids and names of patterns without "/" and "~", so that no path of a patch can lead elsewhere.
memory := data.pstate.sandbox

id_pattern := `^[0-9a-f]{64}$`

at(where, key) := concat("/", ["/pstate/sandbox", where, key])

# The container that a request names, if it was ever created, and what is expected of it.
named := memory.containers[input.container_id]

wanted := expected[named.name]

in_phase(phases) if named.phase in phases

# A container is there until its removal is asked for: the agent then kills it, or never starts it.
is_there(name) if {
	some other in memory.containers
	other.name == name
	other.phase != "removed"
}

# regorus 0.9 takes a variable of `every` for a free one in an index: so indices are in functions.
has_begun(name) if memory.began[name] == true

StartContainerRequest := {
	"allowed": true,
	"ops": [
		{"op": "replace", "path": concat("/", [at("containers", input.container_id), "phase"]), "value": "started"},
		{"op": "add", "path": at("began", named.name), "value": true},
	],
} if {
	right(start_faults)
}

# Once, so that a container whose removal was asked for while it was made never runs.
start_faults contains "container_id" if not in_phase({"created"})

# As often as it is asked for: the agent may have failed.
RemoveContainerRequest := {
	"allowed": true,
	"ops": [{"op": "replace", "path": concat("/", [at("containers", input.container_id), "phase"]), "value": "removed"}],
} if {
	right(remove_faults)
}

remove_faults contains "container_id" if not in_phase({"created", "started", "removed"})

# Not so short that the agent gives up before it has begun.
remove_faults contains "timeout" if not input.timeout >= 10

# Whether it is a container's turn: init containers in their order, each at its end before the next, and those that stay
# (sidecars) begun; the others after them. "Begun" is that its start was asked for, and "at its end" that its removal was, which
# also ends it: that it ran or succeeded is something that no request shows.
is_turn(one) if {
	one.name != pause
	memory
	has_its_sandbox(one)
	every name in one.ended {
		has_begun(name)
		not is_there(name)
	}
	every name in one.begun { has_begun(name) }
	every name in one.not_begun { not has_begun(name) }
	not is_there(one.name)
}

# The pod's sysctls come with the sandbox's own container, which also is the first of the processes where containers share them.
has_its_sandbox(one) if not needs_sandbox(one)

has_its_sandbox(_) if {
	has_begun(pause)
	is_there(pause)
}

needs_sandbox(one) if one.shares_pids

needs_sandbox(_) if count(expected[pause].sysctls) > 0

is_turn(one) if {
	one.name == pause
	count(memory.containers) == 0
}
