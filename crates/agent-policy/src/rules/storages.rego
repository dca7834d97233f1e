# What the agent mounts, in this order: the image's layers by their root hashes and the overlay of them, or the image that
# the guest pulls; then the emptyDirs (in memory, or directories of the scratch disk) and model volumes.

storages_right if {
	container.name == pause
	input.storages == []
}

storages_right if {
	container.name != pause
	root := root_storages
	array.slice(input.storages, 0, count(root)) == root
	rest := array.slice(input.storages, count(root), count(input.storages))
	in_memory := {empty_dir(name) | some name in container.empty_dirs}
	dirs := in_memory | {scratch_dir(name) | some name in container.scratch_dirs}
	models := {layer(hash) | some hash in container.models}
	{storage | some storage in rest} == dirs | models
	count(rest) == count(dirs) + count(models)
}

root_storages := storages if {
	not container.pulled
	layers := [layer(hash) | some hash in container.layers]
	count(layers) == count(container.layers)
	storages := array.concat(layers, [overlay([storage.mount_point | some storage in layers])])
}

# The reference has the digest, by which the data hub finds the image's manifest, and from there on every byte.
root_storages := [pulled(image)] if {
	container.pulled
	image := input.storages[0].source
	image in container.images
}

pulled(image) := {
	"driver": "image_guest_pull",
	"driver_options": [`image_guest_pull={"metadata":{}}`],
	"source": image,
	"fstype": "overlay",
	"options": [],
	"mount_point": in_container("rootfs"),
	"fs_group": null,
	"shared": false,
}

# PID 1 gives the name to a layer or a model volume whose verity tree has this root hash, and to nothing else. The place is the
# container's own: the agent counts a mount point before it mounts there, and takes one that it counted before for mounted. While
# the host lets one container's mount wait for its disk, or fail, another with the same place would get an empty directory.
layer(hash) := {
	"driver": "blk",
	"driver_options": [],
	"source": concat("", ["/dev/mapper/", hash]),
	"fstype": "erofs",
	"options": ["ro", "nodev"],
	"mount_point": concat("", ["/run/l/", digits(input.container_id), digits(hash)]),
	"fs_group": null,
	"shared": false,
}

# Few, because an overlay names 127 such places in one page. No other container's id has the same (is_new_id), and none of the
# container's own layers and model volumes: of such a pod there is no policy.
digits(text) := substring(text, 0, 10)

overlay(lower) := {
	"driver": "overlayfs",
	"driver_options": [concat("", [create, in_container("upper")]), concat("", [create, in_container("work")])],
	"source": "overlay",
	"fstype": "overlay",
	"options": [
		"nodev",
		concat("", ["lowerdir=", concat(":", lower)]),
		concat("", ["upperdir=", in_container("upper")]),
		concat("", ["workdir=", in_container("work")]),
	],
	"mount_point": in_container("rootfs"),
	"fs_group": null,
	"shared": false,
}

create := "io.katacontainers.volume.overlayfs.create_directory="

# PID 1 has mounted the scratch disk there, or the VM does not start.
scratch_dir(name) := {
	"driver": "local",
	"driver_options": [],
	"source": "local",
	"fstype": "local",
	"options": array.concat(["mode=0777"], pod.empty_dir_options),
	"mount_point": concat("", ["/run/kata-containers/sandbox/ephemeral/", name]),
	"fs_group": null,
	"shared": true,
}

empty_dir(name) := tmpfs(concat("", ["ephemeral/", name]), pod.empty_dir_options, true)
