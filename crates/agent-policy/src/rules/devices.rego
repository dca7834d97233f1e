# GPUs, as kata-agent knows them: each by an id, and by its rank among the VM's in an annotation.

devices_right if {
	container.gpus + container.switches == 0
	input.devices == []
	ranks == {}
}

devices_right if {
	container.gpus + container.switches > 0
	count(input.devices) == container.gpus + container.switches
	ids := {device.id | some device in input.devices}
	count(ids) == count(input.devices)
	count({split(device.options[0], "=")[1] | some device in input.devices}) == count(input.devices)
	every device in input.devices { is_device(device) }
	count(ranks) == container.gpus
	count({rank | some rank in ranks}) == container.gpus
	every key, rank in ranks {
		trim_prefix(key, "cdi.k8s.io/") in ids
		regex.match(`^nvidia\.com/gpu=(0|[1-9][0-9]{0,2})$`, rank)
	}
}

is_device(device) if {
	regex.match(`^vfio[0-9]{1,6}$`, device.id)
	device.type_ == "vfio-pci-gk"
	device.vm_path == ""
	device.container_path == concat("", ["/dev/vfio/devices/", device.id])
	count(device.options) == 1
	regex.match(`^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]=[0-9a-f]{2}(/[0-9a-f]{2}){1,7}$`, device.options[0])
}

ranks := {key: rank | some key, rank in input.OCI.Annotations; startswith(key, "cdi.k8s.io/")}
