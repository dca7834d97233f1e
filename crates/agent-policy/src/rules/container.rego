# A container: the one of its name in the manifest, each of its fields as there, in its turn, under an id of its own.

CreateContainerRequest := {
	"allowed": true,
	"ops": array.concat(
		[{
			"op": "add",
			"path": at("containers", input.container_id),
			"value": {"name": container.name, "phase": "created"},
		}],
		forgotten,
	),
} if {
	right(container_faults)
}

# What was copied in for it is not counted any more: those that are counted are containers that failed to be made.
forgotten := [{"op": "remove", "path": at("copied", input.container_id)}] if memory.copied[input.container_id]

forgotten := [] if not memory.copied[input.container_id]

# An argument is a text, or has a shape where a part of it is the cluster's.
args_right if {
	count(input.OCI.Process.Args) == count(container.args)
	right_ones := [i | some i, arg in input.OCI.Process.Args; is_text(arg, container.args[i])]
	count(right_ones) == count(container.args)
}

is_text(text, wanted_text) if text == wanted_text

is_text(text, wanted_text) if regex.match(wanted_text.shape, text)

# What is expected of it.
container := expected[container_name]

pause := "(sandbox)"

container_name := pause if container_type == "sandbox"

container_name := name if {
	container_type == "container"
	name := annotation("container-name", "io.kubernetes.container.name")
	name != pause
}

container_type := annotation("container-type", "io.kubernetes.cri-o.ContainerType")

# By containerd's name of it, or by CRI-O's; a container has those of one engine only.
annotation(ours, _) := input.OCI.Annotations[concat("", ["io.kubernetes.cri.", ours])]

annotation(ours, theirs) := input.OCI.Annotations[theirs] if {
	not input.OCI.Annotations[concat("", ["io.kubernetes.cri.", ours])]
}

container_faults contains "container_id" if not is_new_id

is_new_id if {
	memory
	regex.match(id_pattern, input.container_id)
	not are_digits_taken
}

# Of the same id as well.
are_digits_taken if {
	some id, _ in memory.containers
	digits(id) == digits(input.container_id)
}

container_faults contains "exec_id" if not input.exec_id == input.container_id

container_faults contains "(the name in its annotations)" if not container

container_faults contains "(the time)" if not is_turn(container)

container_faults contains "string_user" if not is_null(input.string_user)

container_faults contains "shared_mounts" if not input.shared_mounts == []

container_faults contains "sandbox_pidns" if not input.sandbox_pidns == container.shares_pids

# With a port, output goes straight to the host.
container_faults contains "stdin_port" if not input.stdin_port == 0

container_faults contains "stdout_port" if not input.stdout_port == 0

container_faults contains "stderr_port" if not input.stderr_port == 0

container_faults contains "storages" if not storages_right

container_faults contains "devices" if not devices_right

container_faults contains "OCI.Version" if not regex.match(`^1\.[0-9]{1,2}\.[0-9]{1,2}([+-][a-z]{1,8}(\.[0-9]{1,3})?)?$`, input.OCI.Version)

container_faults contains "OCI.Hooks" if not is_null(input.OCI.Hooks)

container_faults contains "OCI.Solaris" if not is_null(input.OCI.Solaris)

container_faults contains "OCI.Windows" if not is_null(input.OCI.Windows)

container_faults contains "OCI.Root.Path" if not input.OCI.Root.Path == root_path

container_faults contains "OCI.Root.Readonly" if not input.OCI.Root.Readonly == container.read_only

container_faults contains "OCI.Hostname" if not hostname_right

container_faults contains "OCI.Process.Args" if not args_right

container_faults contains "OCI.Process.Terminal" if not input.OCI.Process.Terminal == container.tty

container_faults contains concat("", ["OCI.Process.", fault]) if some fault in process_faults

container_faults contains concat("", ["OCI.Linux.", fault]) if some fault in linux_faults

container_faults contains concat("", ["OCI.", fault]) if some fault in mount_faults

container_faults contains concat("", ["OCI.", fault]) if some fault in annotation_faults

in_container(file) := concat("/", ["/run/kata-containers", input.container_id, file])

# The measured image's, or what the layers come to.
root_path := "/usr/lib/coffer/pause/rootfs" if container.name == pause

root_path := in_container("rootfs") if container.name != pause

# An engine names it for the sandbox's own container only.
hostname_right if input.OCI.Hostname == ""

hostname_right if {
	container.name == pause
	is_hostname(input.OCI.Hostname)
}
