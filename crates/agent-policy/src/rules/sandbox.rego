# The sandbox: first, and once, since the agent removes all files of its containers with it.

CreateSandboxRequest := {
	"allowed": true,
	"ops": [{"op": "add", "path": "/pstate/sandbox", "value": {"containers": {}, "began": {}, "copied": {}}}],
} if {
	right(sandbox_faults)
}

sandbox_faults contains "(a second sandbox)" if memory

sandbox_faults contains "hostname" if not is_hostname(input.hostname)

sandbox_faults contains "dns" if not input.dns == []

sandbox_faults contains "storages" if not is_shm(["noexec", "nosuid", "nodev", "mode=1777"])

sandbox_faults contains "sandbox_pidns" if not input.sandbox_pidns == false

sandbox_faults contains "sandbox_id" if not regex.match(`^sandbox-[0-9a-f]{64}$`, input.sandbox_id)

sandbox_faults contains "guest_hook_path" if not input.guest_hook_path == ""

sandbox_faults contains "kernel_modules" if not input.kernel_modules == []

is_hostname(name) if regex.match(pod.hostname_pattern, name)

# Gives the shared memory its size; before the first container, which could otherwise lose it.
UpdateEphemeralMountsRequest if right(remount_faults)

remount_faults contains "(the time)" if not count(memory.containers) == 0

remount_faults contains "storages" if not is_shm(["remount", "noexec", "nosuid", "nodev", "mode=1777"])

# Gives an emptyDir of a container that is there its size.
UpdateEphemeralMountsRequest if {
	[storage] := input.storages
	[_, size] := storage.options
	is_size(size)
	some one in memory.containers
	one.phase in {"created", "started"}
	some name in expected[one.name].empty_dirs
	storage == tmpfs(concat("", ["ephemeral/", name]), ["remount", size], false)
}

is_size(option) if regex.match(`^size=[1-9][0-9]{0,18}$`, option)

is_shm(options) if {
	[storage] := input.storages
	[size] := array.slice(storage.options, count(options), count(storage.options))
	is_size(size)
	storage == tmpfs("shm", array.concat(options, [size]), false)
}

tmpfs(name, options, is_shared) := {
	"driver": "ephemeral",
	"driver_options": [],
	"source": "tmpfs",
	"fstype": "tmpfs",
	"options": options,
	"mount_point": concat("", ["/run/kata-containers/sandbox/", name]),
	"fs_group": null,
	"shared": is_shared,
}

GuestDetailsRequest if right(details_faults)

details_faults contains "mem_block_size" if not input.mem_block_size == false

details_faults contains "mem_hotplug_probe" if not input.mem_hotplug_probe == false
