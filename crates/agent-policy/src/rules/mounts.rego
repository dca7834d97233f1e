# Mounts: those of the kernel's file systems, of the manifest's volumes and of the engine's files; all of them, each at its
# place once, and none over another that was mounted before it. container.mounts has a place for each spelling of one.

mount_faults contains sprintf("Mounts[%d]", [i]) if {
	some i, mount in input.OCI.Mounts
	not is_mount(mount, container.mounts[mount.destination])
}

mount_faults contains "Mounts (one is missing, or there twice)" if not mounts_complete

mount_faults contains "Mounts (their order)" if not mounts_ordered

places := {container.mounts[mount.destination].place | some mount in input.OCI.Mounts}

is_mounted(place) if place in places

mounts_complete if {
	count(places) == count(input.OCI.Mounts)
	every place in container.places { is_mounted(place) }
}

position := found if {
	mounts_complete
	found := {container.mounts[mount.destination].place: i | some i, mount in input.OCI.Mounts}
}

mounts_ordered if {
	every pair in container.nested { is_ordered(pair[0], pair[1]) }
}

is_ordered(above, below) if position[above] < position[below]

is_ordered(above, _) if not is_mounted(above)

is_ordered(_, below) if not is_mounted(below)

is_mount(mount, rule) if {
	rule.kind == "kernel"
	kernel := kernel_mounts[rule.place]
	mount.type_ in kernel.types
	mount.source == mount.type_
	options := {option | some option in mount.options}
	kernel.required - options == set()
	(options - kernel.required) - kernel.optional == set()
}

kernel_mounts := {
	"/proc": {"types": {"proc"}, "required": {"nosuid", "noexec", "nodev"}, "optional": set()},
	"/dev": {
		"types": {"tmpfs"},
		"required": {"nosuid", "mode=755"},
		"optional": {"strictatime", "size=65536k", "noexec"},
	},
	"/dev/pts": {
		"types": {"devpts"},
		"required": {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"},
		"optional": {"gid=5"},
	},
	"/dev/mqueue": {"types": {"mqueue"}, "required": {"nosuid", "noexec", "nodev"}, "optional": set()},
	"/sys": {"types": {"sysfs"}, "required": {"nosuid", "noexec", "nodev", "ro"}, "optional": set()},
	"/sys/fs/cgroup": {
		"types": {"cgroup", "cgroup2"},
		"required": {"nosuid", "noexec", "nodev", "ro"},
		"optional": {"relatime", "nsdelegate", "memory_recursiveprot"},
	},
}

is_mount(mount, rule) if {
	rule.kind != "kernel"
	mount.type_ == "bind"
	is_source(mount.source, rule)
	options := {option | some option in mount.options}
	options & {"bind", "rbind"} != set()

	# The agent knows no other word for it, and would mount for writing.
	some mode in rule.modes
	options & {"ro", "rw"} == {mode}
	propagation := options & {"private", "rprivate", "slave", "rslave"}
	every word in propagation { word in rule.propagations }
	((options - propagation) - {"bind", "rbind", "ro", "rw"}) - confining[rule.kind] == set()
	is_confined(options, rule)
}

# The agent drops the options of the shared memory's own mount, and no container waits for the remount that brings them.
is_confined(_, rule) if rule.kind != "shm"

is_confined(options, rule) if confining[rule.kind] - options == set()

confining := {
	"shm": {"nosuid", "nodev", "noexec"},
	"empty_dir": set(),
	"file": {"nosuid", "nodev", "noexec"},
	"tree": set(),
	"model": set(),
	"volume": set(),
}

is_source("/run/kata-containers/sandbox/shm", rule) if rule.kind == "shm"

is_source(source, rule) if {
	rule.kind == "empty_dir"
	source == concat("", ["/run/kata-containers/sandbox/ephemeral/", rule.name])
}

# PID 1's name of the image is in the storage; this is where it is mounted.
is_source(source, rule) if {
	rule.kind == "model"
	storage := layer(rule.name)
	source == storage.mount_point
}

# A directory that the host has made and can put nothing into, where the image has nothing either.
is_source(source, rule) if {
	rule.kind == "volume"
	path := trim_prefix(source, shared)
	path != source
	is_volume(path, rule.name)
	startswith(path, input.container_id)
}

is_source(source, rule) if {
	rule.kind in {"file", "tree"}
	path := trim_prefix(source, shared)
	path != source
	is_copy(path, rule.name)
	startswith(path, input.container_id)
}
