# Files that the host copies in, for the pod's mounts: at paths of the shim's, before the container is there, and later
# only into volumes that change. What is in them is the host's word.

shared := "/run/kata-containers/shared/containers/"

# <container>-<16 digits>-<name>
copy_pattern := `^[0-9a-f]{64}-[0-9a-f]{16}-`

is_copy(name, file) if {
	regex.match(copy_pattern, name)
	substring(name, 82, -1) == file
}

# <container>-volume<10 digits>-<name>: a directory of the container's own, which no file or tree is called like. The host makes
# it as the image has it, or as an engine makes a new one where the image has none, and puts nothing into it.
volume_pattern := `^[0-9a-f]{64}-volume[0-9a-f]{10}-`

is_volume(name, volume) if {
	regex.match(volume_pattern, name)
	substring(name, 82, -1) == volume
}

volumes_here := {volume | some volume in pod.volumes; is_volume(path_parts[0], volume.name)}

path_parts := split(trim_prefix(input.path, shared), "/") if startswith(input.path, shared)

copied_for := substring(path_parts[0], 0, 64)

# As many for one container as its volumes may have entries, and for so many containers as failed to be made.
most_copies := 65536

most_containers := 4096

CopyFileRequest := {
	"allowed": true,
	"ops": [{"op": "add", "path": at("copied", copied_for), "value": copies + 1}],
} if {
	right(copy_faults)
	not memory.containers[copied_for]
}

CopyFileRequest := true if {
	right(copy_faults)
	memory.containers[copied_for]
}

copies := memory.copied[copied_for]

copies := 0 if {
	memory
	not memory.copied[copied_for]
}

copy_faults contains "path" if not path_right

copy_faults contains "(the time, or too many)" if not copy_in_time

copy_faults contains "file_type" if not input.file_type in {"Regular", "Directory", "Symlink"}

copy_faults contains "symlink_target" if not target_right

copy_faults contains "file_size" if not is_between(input.file_size, 0, 4194304)

copy_faults contains "offset" if not is_between(input.offset, 0, input.file_size)

copy_faults contains "file_mode" if not mode_right

copy_faults contains "dir_mode" if not input.dir_mode == 16877

copy_faults contains "uid" if not user_right

copy_faults contains "gid" if not group_right

user_right if input.uid in pod.file_users

user_right if {
	some volume in volumes_here
	volume.uid == input.uid
}

group_right if input.gid in pod.file_groups

group_right if {
	some volume in volumes_here
	volume.gid == input.gid
}

path_right if {
	every part in path_parts { is_part(part) }
	count(path_parts) <= 16
	is_place
}

is_part(part) if {
	not part in {"", ".", ".."}
	count(part) <= 255
}

is_place if {
	count(path_parts) == 1
	input.file_type == "Regular"
	some file in pod.files
	is_copy(path_parts[0], file)
}

is_place if {
	count(path_parts) == 1
	input.file_type == "Directory"
	in_tree
}

is_place if {
	count(path_parts) > 1
	in_tree
}

is_place if {
	count(path_parts) == 1
	is_removal
	some file in pod.files
	is_copy(path_parts[0], file)
}

is_place if {
	count(path_parts) == 1
	is_removal
	in_tree
}

is_place if {
	count(path_parts) == 1
	input.file_type == "Directory"
	some volume in volumes_here
	[input.uid, input.gid, input.file_mode] == [volume.uid, volume.gid, 16384 + volume.mode]
}

is_place if {
	count(path_parts) == 1
	is_removal
	count(volumes_here) > 0
}

in_tree if {
	some tree in pod.trees
	is_copy(path_parts[0], tree)
}

copy_in_time if {
	not memory.containers[copied_for]
	copies < most_copies
	count(memory.copied) < most_containers
}

# A volume of the container that changes.
copy_in_time if {
	there := memory.containers[copied_for]
	there.phase in {"created", "started"}
	some tree in expected[there.name].trees
	is_copy(path_parts[0], tree)
}

# What a container had is removed when the container is.
copy_in_time if {
	is_removal
	memory.containers[copied_for].phase == "removed"
}

target_right if {
	input.file_type != "Symlink"
	is_null(input.symlink_target)
}

# A link that stays below its own directory.
target_right if {
	input.file_type == "Symlink"
	every part in split(input.symlink_target, "/") { is_part(part) }
}

# A link to nothing cannot be made: what was there is gone then, which is all that is wanted.
is_removal if {
	input.file_type == "Symlink"
	input.symlink_target == ""
}

target_right if is_removal

# The type's bits, and rights; on directories the group's and sticky bit as well, as kubelet sets them for fsGroup.
mode_right if {
	input.file_type == "Regular"
	is_between(input.file_mode, 32768, 33279)
}

mode_right if {
	input.file_type == "Directory"
	is_between(input.file_mode, 16384, 18431)
}

mode_right if {
	input.file_type == "Symlink"
	is_between(input.file_mode, 40960, 41471)
}
