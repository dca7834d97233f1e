# Confinement.

linux := input.OCI.Linux

linux_faults contains "UIDMappings" if not linux.UIDMappings == []

linux_faults contains "GIDMappings" if not linux.GIDMappings == []

linux_faults contains "MountLabel" if not linux.MountLabel == ""

linux_faults contains "IntelRdt" if not is_null(linux.IntelRdt)

linux_faults contains "RootfsPropagation" if not linux.RootfsPropagation in container.propagations

linux_faults contains "CgroupsPath" if not is_cgroup(linux.CgroupsPath)

linux_faults contains "Namespaces" if not namespaces_right

linux_faults contains "MaskedPaths" if not masked_right

linux_faults contains "ReadonlyPaths" if not read_only_right

linux_faults contains "Sysctl" if not sysctls_right

linux_faults contains "Devices" if not nodes_right

linux_faults contains "Seccomp" if not seccomp_right

linux_faults contains concat("", ["Resources.", fault]) if some fault in resource_faults

# Below the directory of all containers, whose device program PID 1 has loaded.
is_cgroup(path) if {
	regex.match(`^/[A-Za-z0-9][A-Za-z0-9_.-]{0,75}/[0-9a-f]{64}$`, path)
	endswith(path, input.container_id)
}

# The agent adds the one of processes, and gives these two of the sandbox: IPC and UTS.
namespaces_right if {
	count(linux.Namespaces) == 4
	{namespace.Type | some namespace in linux.Namespaces} == {"cgroup", "ipc", "mount", "uts"}
	every namespace in linux.Namespaces { namespace.Path == "" }
}

# The lists of kubelet, containerd and CRI-O: what one of them leaves out, or has beside the others.
masked_right if {
	masked := {path | some path in linux.MaskedPaths}
	count(masked) == count(linux.MaskedPaths)
	needed := {
		"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi",
		"/proc/timer_list", "/proc/timer_stats",
	}
	needed - masked == set()
	every path in masked - needed { may_be_masked(path) }
	may_lack_firmware(masked)
}

may_be_masked(path) if path in {"/proc/asound", "/proc/interrupts", "/sys/firmware", "/sys/devices/virtual/powercap"}

may_be_masked(path) if regex.match(`^/sys/devices/system/cpu/cpu[0-9]{1,4}/thermal_throttle$`, path)

# The sandbox's own container has no /sys.
may_lack_firmware(masked) if "/sys/firmware" in masked

may_lack_firmware(_) if container.name == pause

read_only_right if {
	count(linux.ReadonlyPaths) == 5
	{path | some path in linux.ReadonlyPaths} == {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

# They are set with the sandbox's own container.
sysctls_right if {
	every key, value in container.sysctls { is_set(key, value) }
	every key, value in linux.Sysctl { is_sysctl(key, value) }
}

is_set(key, value) if linux.Sysctl[key] == value

is_sysctl(key, value) if container.sysctls[key] == value

is_sysctl(key, value) if {
	not container.sysctls[key]
	value in container.sysctls_optional[key]
}

# The agent makes the usual ones for every container by itself.
nodes_right if linux.Devices == []

# How much of the machine a container gets is the host's to say, which could as well take all of it; in what way is not.
resource_faults contains "Devices" if not device_rules_right

resource_faults contains "Memory" if not memory_right

resource_faults contains "CPU" if not cpu_right

resource_faults contains "BlockIO" if not io_right

resource_faults contains "Pids" if not pids_right

resource_faults contains "HugepageLimits" if not hugepages_right

resource_faults contains "Network" if not is_absent("Network")

is_absent(_) if is_null(linux.Resources)

is_absent(field) if is_null(linux.Resources[field])

device_rules_right if is_null(linux.Resources)

device_rules_right if {
	every rule in linux.Resources.Devices { is_device_rule(rule) }
}

is_device_rule(rule) if {
	rule.Allow == false
	is_device_rule_text(rule)
}

# /dev/null, zero, full, random, urandom, tty, console, ptmx, and the pseudo-terminals.
is_device_rule(rule) if {
	rule.Allow == true
	rule.Type == "c"
	[rule.Major, rule.Minor] in {[1, 3], [1, 5], [1, 7], [1, 8], [1, 9], [5, 0], [5, 1], [5, 2]}
	is_device_rule_text(rule)
}

is_device_rule(rule) if {
	rule.Allow == true
	rule.Type == "c"
	rule.Major == 136
	is_device_rule_text(rule)
}

is_device_rule_text(rule) if regex.match(`^r?w?m?$`, rule.Access)

hugepages_right if is_null(linux.Resources)

hugepages_right if linux.Resources.HugepageLimits == []

memory_right if is_absent("Memory")

memory_right if {
	found := linux.Resources.Memory
	[found.Kernel, found.KernelTCP, found.Swappiness, found.DisableOOMKiller] == [0, 0, 0, false]
	every limit in [found.Limit, found.Reservation, found.Swap] { limit >= -1 }
}

cpu_right if is_absent("CPU")

cpu_right if {
	found := linux.Resources.CPU
	[found.RealtimeRuntime, found.RealtimePeriod, found.Cpus, found.Mems] == [0, 0, "", ""]
	is_between(found.Shares, 0, 262144)
	found.Quota >= -1
	is_between(found.Period, 0, 1000000)
}

# The shim gives none: nobody weighs the guest's disks.
io_right if is_absent("BlockIO")

pids_right if is_absent("Pids")

pids_right if is_between(linux.Resources.Pids.Limit, -1, 4194304)
