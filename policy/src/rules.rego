# Every request that kata-agent 4.1.0 asks about, refused unless a rule below says otherwise.
default AddARPNeighborsRequest := false
default AddSwapPathRequest := false
default AddSwapRequest := false
default AllowRequestsFailingPolicy := false
default CopyFileRequest := false
default CreateContainerRequest := false
default CreateSandboxRequest := false
default ExecProcessRequest := false
default GetDiagnosticDataRequest := false
default GetIPTablesRequest := false
default GetMetricsRequest := false
default ListInterfacesRequest := false
default ListRoutesRequest := false
default MemAgentCompactConfig := false
default MemAgentMemcgConfig := false
default MemHotplugByProbeRequest := false
default OnlineCPUMemRequest := false
default PauseContainerRequest := false
default ReadStreamRequest := false
default RemoveStaleVirtiofsShareMountsRequest := false
default ReseedRandomDevRequest := false
default ResizeVolumeRequest := false
default ResumeContainerRequest := false
default SetGuestDateTimeRequest := false
default SetIPTablesRequest := false
default SetPolicyRequest := false
default StartContainerRequest := false
default UpdateContainerRequest := false
default UpdateEphemeralMountsRequest := false
default UpdateInterfaceRequest := false
default UpdateRoutesRequest := false
default VolumeStatsRequest := false
default WriteStreamRequest := false

# These end something, wait for it, or count it: a host can do as much from outside.
default CloseStdinRequest := true
default DestroySandboxRequest := true
default GetOOMEventRequest := true
default GuestDetailsRequest := true
default RemoveContainerRequest := true
default SignalProcessRequest := true
default StatsContainerRequest := true
default TtyWinResizeRequest := true
default WaitProcessRequest := true

shared := "/run/kata-containers/shared/containers/"

sandbox := "/run/kata-containers/sandbox/"

id_pattern := `^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`

# The sandbox

CreateSandboxRequest if {
	input.guest_hook_path == ""
	input.kernel_modules == []
	input.dns == []
	input.sandbox_pidns == false
	count(input.storages) == 1
	is_shm(input.storages[0], ["noexec", "nosuid", "nodev", "mode=1777"])
}

UpdateEphemeralMountsRequest if {
	count(input.storages) == 1
	is_shm(input.storages[0], ["remount", "noexec", "nosuid", "nodev", "mode=1777"])
}

is_shm(storage, options) if {
	size := storage.options[count(options)]
	regex.match(`^size=[0-9]{1,19}$`, size)
	storage == memory(concat("", [sandbox, "shm"]), array.concat(options, [size]), false)
}

memory(mount_point, options, is_shared) := {
	"driver": "ephemeral",
	"driver_options": [],
	"source": "tmpfs",
	"fstype": "tmpfs",
	"options": options,
	"mount_point": mount_point,
	"fs_group": null,
	"shared": is_shared,
}

# The network is the host's anyway; only the loopback is the pod's own.
UpdateInterfaceRequest if {
	input.interface.device != "lo"
	input.interface.name != "lo"
	every address in input.interface.IPAddresses { not is_loopback(address.address) }
}

UpdateRoutesRequest if {
	every route in input.routes.Routes {
		route.device != "lo"
		not is_loopback(route.dest)
	}
}

AddARPNeighborsRequest if {
	every neighbour in input.neighbors.ARPNeighbors { neighbour.device != "lo" }
}

is_loopback(address) if startswith(address, "127.")

is_loopback(address) if address in {"::1", "::1/128"}

# Containers. data.pstate says which of them live: the name of each by its id, "" for the sandbox's own.

CreateContainerRequest := {
	"allowed": true,
	"ops": [{"op": "add", "path": concat("", ["/pstate/", input.container_id]), "value": name}],
} if {
	regex.match(id_pattern, input.container_id)
	name := container_name
	not name in {alive | some alive in data.pstate}
	allows_container(expected[name])
}

RemoveContainerRequest := {
	"allowed": true,
	"ops": [{"op": "remove", "path": concat("", ["/pstate/", input.container_id])}],
} if {
	regex.match(id_pattern, input.container_id)
	data.pstate[input.container_id]
}

StartContainerRequest if known

known if expected[data.pstate[input.container_id]]

container_name := "" if input.OCI.Annotations["io.kubernetes.cri.container-type"] == "sandbox"

container_name := name if {
	input.OCI.Annotations["io.kubernetes.cri.container-type"] == "container"
	name := input.OCI.Annotations["io.kubernetes.cri.container-name"]
	name != ""
}

allows_container(container) if {
	input.exec_id == input.container_id
	is_null(input.string_user)
	input.shared_mounts == []
	input.sandbox_pidns == container.shares_pids
	# With a port, output goes straight to the host.
	{input.stdin_port, input.stdout_port, input.stderr_port} == {0}

	is_null(input.OCI.Hooks)
	is_null(input.OCI.Solaris)
	is_null(input.OCI.Windows)
	input.OCI.Root.Path == in_container("rootfs")
	allows_root(container)
	input.OCI.Process.Args == container.args
	input.OCI.Process.Terminal == container.tty
	allows_process(input.OCI.Process, container)
	allows_annotations(container)
	allows_linux(input.OCI.Linux)
	allows_mounts(container)
	allows_storages(container)
	allows_devices(container)
}

in_container(file) := concat("/", ["/run/kata-containers", input.container_id, file])

allows_root(container) if container.read_only == false

allows_root(_) if input.OCI.Root.Readonly == true

# A process, of a container or of a command in it

allows_process(process, container) if {
	process.Cwd == container.cwd
	process.ApparmorProfile == ""
	process.SelinuxLabel == ""
	process.User.Username == ""
	allows_number(container.uid, process.User.UID)
	allows_number(container.gid, process.User.GID)
	allows_privileges(process, container)
	allows_environment(process.Env, container)
}

allows_number(wanted, _) if is_null(wanted)

allows_number(wanted, number) if wanted == number

allows_privileges(process, container) if {
	process.Capabilities.Ambient == []
	every kind in ["Bounding", "Effective", "Inheritable", "Permitted"] {
		every capability in process.Capabilities[kind] { capability in container.capabilities }
	}
	allows_new_privileges(process, container)
}

allows_new_privileges(_, container) if container.new_privileges == true

allows_new_privileges(process, _) if process.NoNewPrivileges == true

allows_environment(environment, container) if {
	every variable in container.env { variable in environment }
	every variable in environment { allows_variable(variable, container) }

	# A second value of a variable could be the one that counts.
	count(environment) == count({split(variable, "=")[0] | some variable in environment})
}

allows_variable(variable, container) if variable in container.env

allows_variable(variable, container) if variable in container.env_optional

allows_variable(variable, container) if {
	some name in container.env_any
	startswith(variable, concat("", [name, "="]))
}

allows_variable(variable, container) if {
	some pattern in container.env_patterns
	regex.match(pattern, variable)
}

allows_annotations(container) if {
	every key, value in input.OCI.Annotations { allows_annotation(key, value, container) }
	allows_image(container)
}

allows_image(container) if is_null(container.image)

allows_image(container) if input.OCI.Annotations["io.kubernetes.cri.image-name"] == container.image

allows_annotation("io.kubernetes.cri.sandbox-name", value, _) if value == pod.name

allows_annotation("io.kubernetes.cri.sandbox-name", value, _) if {
	is_null(pod.name)
	startswith(value, pod.name_prefix)
}

allows_annotation("io.kubernetes.cri.sandbox-namespace", value, _) if value == pod.namespace

allows_annotation("io.kubernetes.cri.sandbox-namespace", _, _) if is_null(pod.namespace)

allows_annotation(key, _, _) if {
	startswith(key, "io.kubernetes.cri.")
	not key in {"io.kubernetes.cri.sandbox-name", "io.kubernetes.cri.sandbox-namespace"}
}

# Names the file that GetDiagnosticData reads.
allows_annotation("io.kubernetes.container.terminationMessagePath", value, container) if {
	value == container.last_words
}

# For the runtime; the agent does not look at them.
allows_annotation(key, _, _) if startswith(key, "io.katacontainers.config.")

# allows_devices looks at these.
allows_annotation(key, _, _) if startswith(key, "cdi.k8s.io/")

# Confinement

allows_linux(linux) if {
	linux.UIDMappings == []
	linux.GIDMappings == []
	linux.MountLabel == ""
	is_null(linux.IntelRdt)
	linux.RootfsPropagation in {"", "private", "rprivate", "slave", "rslave"}
	regex.match(`^/[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$`, linux.CgroupsPath)
	endswith(linux.CgroupsPath, concat("", ["/", input.container_id]))

	every namespace in linux.Namespaces {
		namespace.Path == ""
		namespace.Type in {"cgroup", "ipc", "mount", "uts"}
	}
	every type in ["cgroup", "mount"] {
		type in {namespace.Type | some namespace in linux.Namespaces}
	}
	every path in ["/proc/kcore", "/proc/keys", "/proc/sched_debug", "/proc/timer_list", "/sys/firmware"] {
		path in linux.MaskedPaths
	}
	every path in ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"] {
		path in linux.ReadonlyPaths
	}
	every key, value in linux.Sysctl { value == sysctls[key] }
	every device in linux.Devices {
		device.Type == "c"
		[device.Major, device.Minor] == device_nodes[device.Path]
	}
	every rule in linux.Resources.Devices { allows_device_rule(rule) }
}

# The agent makes these for every container.
device_nodes := {
	"/dev/null": [1, 3],
	"/dev/zero": [1, 5],
	"/dev/full": [1, 7],
	"/dev/random": [1, 8],
	"/dev/urandom": [1, 9],
	"/dev/tty": [5, 0],
}

allows_device_rule(rule) if rule.Allow == false

# Those, /dev/ptmx, /dev/console and the pseudo-terminals.
allows_device_rule(rule) if {
	rule.Type == "c"
	[rule.Major, rule.Minor] in array.concat([[5, 1], [5, 2]], [numbers | some numbers in device_nodes])
}

allows_device_rule(rule) if {
	rule.Type == "c"
	rule.Major == 136
}

# Mounts

allows_mounts(container) if {
	destinations := {mount.destination | some mount in input.OCI.Mounts}
	count(input.OCI.Mounts) == count(destinations)
	every mount in input.OCI.Mounts { allows_mount(mount, container) }
	every mount in container.mounts { mount.destination in destinations }
}

allows_mount(mount, _) if {
	kernel := kernel_mounts[mount.destination]
	mount.type_ in kernel.types
	mount.source == mount.type_
	every option in kernel.required { option in mount.options }
	every option in mount.options { allows_kernel_option(option, kernel) }
}

allows_kernel_option(option, kernel) if option in kernel.required

allows_kernel_option(option, kernel) if option in kernel.optional

kernel_mounts := {
	"/proc": {"types": {"proc"}, "required": {"nosuid", "noexec", "nodev"}, "optional": set()},
	"/dev": {
		"types": {"tmpfs"},
		"required": {"nosuid"},
		"optional": {"strictatime", "mode=755", "size=65536k", "noexec"},
	},
	"/dev/pts": {
		"types": {"devpts"},
		"required": {"nosuid", "noexec", "newinstance"},
		"optional": {"ptmxmode=0666", "mode=0620", "gid=5"},
	},
	"/dev/mqueue": {"types": {"mqueue"}, "required": {"nosuid", "noexec", "nodev"}, "optional": set()},
	"/sys": {"types": {"sysfs"}, "required": {"nosuid", "noexec", "nodev", "ro"}, "optional": set()},
	"/sys/fs/cgroup": {
		"types": {"cgroup", "cgroup2"},
		"required": {"nosuid", "noexec", "nodev", "ro"},
		"optional": {"relatime", "nsdelegate", "memory_recursiveprot"},
	},
}

allows_mount(mount, container) if {
	some bind in array.concat(container.mounts, container.mounts_optional)
	mount.destination == bind.destination
	mount.type_ == "bind"
	allows_source(mount.source, bind.source)
	every option in mount.options {
		option in {"bind", "rbind", "private", "rprivate", "slave", "rslave", "ro", "rw", "nosuid", "nodev", "noexec"}
	}
	allows_writing(mount, bind)
}

allows_source(source, "shm") if source == concat("", [sandbox, "shm"])

allows_source(source, {"empty_dir": name}) if source == concat("", [sandbox, "ephemeral/", name])

allows_source(source, {"copy": file}) if {
	start := concat("", [shared, input.container_id, "-"])
	startswith(source, start)
	rest := trim_prefix(source, start)
	regex.match(`^[0-9a-f]{16}$`, substring(rest, 0, 16))
	substring(rest, 16, -1) == concat("", ["-", file])
}

allows_writing(_, bind) if bind.read_only == false

allows_writing(mount, _) if {
	"ro" in mount.options
	not "rw" in mount.options
}

# What the agent mounts: layers of the root file system, an overlay of them, emptyDirs

allows_storages(container) if {
	every storage in input.storages { allows_storage(storage, container) }
	count(layers) > 0
	count([storage | some storage in input.storages; storage.driver == "overlayfs"]) == 1
}

layers := [storage.mount_point | some storage in input.storages; storage.driver == "scsi"]

allows_storage(storage, _) if {
	regex.match(`^[0-9]{1,3}:[0-9]{1,5}$`, storage.source)
	storage == {
		"driver": "scsi",
		"driver_options": [],
		"source": storage.source,
		"fstype": "erofs",
		"options": ["ro"],
		"mount_point": concat("", ["/run/layers/", replace(storage.source, ":", "-")]),
		"fs_group": null,
		"shared": false,
	}
}

allows_storage(storage, _) if {
	create := "io.katacontainers.volume.overlayfs.create_directory="
	upper := in_container("upper")
	work := in_container("work")
	storage == {
		"driver": "overlayfs",
		"driver_options": [concat("", [create, upper]), concat("", [create, work])],
		"source": "overlay",
		"fstype": "overlay",
		"options": [
			concat("", ["lowerdir=", concat(":", layers)]),
			concat("", ["upperdir=", upper]),
			concat("", ["workdir=", work]),
		],
		"mount_point": in_container("rootfs"),
		"fs_group": null,
		"shared": false,
	}
}

allows_storage(storage, container) if {
	some bind in container.mounts
	{"empty_dir": name} := bind.source
	storage == memory(concat("", [sandbox, "ephemeral/", name]), pod.empty_dir_options, true)
}

# GPUs, as kata-agent knows them: each of them by an id, and by its rank in the annotation

allows_devices(container) if {
	container.gpus + container.switches == 0
	input.devices == []
	ranks == {}
}

allows_devices(container) if {
	container.gpus + container.switches > 0
	count(input.devices) == container.gpus + container.switches
	ids := {device.id | some device in input.devices}
	count(ids) == count(input.devices)
	count({split(device.options[0], "=")[1] | some device in input.devices}) == count(input.devices)
	every device in input.devices {
		regex.match(`^vfio[0-9]{1,6}$`, device.id)
		device.type_ == "vfio-pci-gk"
		device.vm_path == ""
		device.container_path == concat("", ["/dev/vfio/devices/", device.id])
		count(device.options) == 1
		regex.match(`^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]=[0-9a-f]{2}(/[0-9a-f]{2}){1,7}$`, device.options[0])
	}
	count(ranks) == container.gpus
	count({rank | some rank in ranks}) == container.gpus
	every key, rank in ranks {
		trim_prefix(key, "cdi.k8s.io/") in ids
		regex.match(`^nvidia\.com/gpu=(0|[1-9][0-9]{0,2})$`, rank)
	}
}

ranks := {key: rank | some key, rank in input.OCI.Annotations; startswith(key, "cdi.k8s.io/")}

# Files: at paths of the shim's, for the mounts of the pod; what is in them is the host's word

CopyFileRequest if {
	startswith(input.path, shared)
	parts := split(trim_prefix(input.path, shared), "/")
	every part in parts { not part in {"", ".", ".."} }
	allows_copy(parts)
}

allows_copy(parts) if {
	count(parts) == 1
	input.file_type == "Regular"
	some file in pod.files
	is_copy_of(parts[0], file)
}

allows_copy(parts) if {
	some tree in pod.trees
	is_copy_of(parts[0], tree)
	allows_entry(parts)
}

allows_entry(parts) if {
	count(parts) == 1
	input.file_type == "Directory"
}

allows_entry(parts) if {
	count(parts) > 1
	input.file_type in {"Directory", "Regular"}
}

# A link that stays below its own directory.
allows_entry(parts) if {
	count(parts) > 1
	input.file_type == "Symlink"
	every part in split(input.symlink_target, "/") { not part in {"", ".", ".."} }
}

is_copy_of(name, file) if {
	end := concat("", ["-", file])
	endswith(name, end)
	regex.match(`^[A-Za-z0-9][A-Za-z0-9_.-]*-[0-9a-f]{16}$`, substring(name, 0, count(name) - count(end)))
}

# Commands in a running container, and streams

ExecProcessRequest if {
	container := expected[data.pstate[input.container_id]]
	is_null(input.string_user)
	{input.stdin_port, input.stdout_port, input.stderr_port} == {0}
	allows_command(container)
	allows_process(input.process, container)
}

allows_command(container) if input.process.Args in container.commands

allows_command(container) if {
	pod.exec == true
	container.name != ""
}

ReadStreamRequest if {
	pod.logs == true
	known
}

ReadStreamRequest if is_exec_stream

WriteStreamRequest if {
	expected[data.pstate[input.container_id]].stdin == true
	input.exec_id == input.container_id
}

WriteStreamRequest if is_exec_stream

# Without an id it is the first process.
is_exec_stream if {
	pod.exec == true
	known
	not input.exec_id in {"", input.container_id}
}

GetDiagnosticDataRequest if {
	pod.logs == true
	input.log_type == "termination_log"
	known
}
