//! Storages of the pod's own: in guest memory, or on its scratch disk.

use agent_client::proto::agent::{Storage, UpdateEphemeralMountsRequest};

use crate::paths;

/// The pod's `/dev/shm`, for CreateSandbox. `size` is in bytes.
///
/// kata-agent mounts an `ephemeral` storage without its options; [`shm_remount`] makes the size good.
pub fn shm_storage(size: u64) -> Storage {
    ephemeral(paths::SHM.to_string(), shm_options(size))
}

/// Sets the size of the pod's `/dev/shm`, in bytes; for UpdateEphemeralMounts after CreateSandbox.
pub fn shm_remount(size: u64) -> UpdateEphemeralMountsRequest {
    let mut storage = shm_storage(size);
    storage.options.insert(0, "remount".to_string());
    UpdateEphemeralMountsRequest { storages: vec![storage], ..Default::default() }
}

/// An emptyDir: a tmpfs that lives as long as the pod and is shared by its containers. A non-zero `gid`
/// (the pod's fsGroup) owns it.
pub(crate) fn empty_dir(name: &str, gid: u32) -> Storage {
    let options = if gid == 0 { Vec::new() } else { vec![format!("fsgid={gid}")] };
    Storage { shared: true, ..ephemeral(format!("{}/{name}", paths::EPHEMERAL), options) }
}

/// An emptyDir on the VM's scratch disk, which PID 1 has mounted where all of the agent's own is: a directory, as kubelet
/// makes one on a node's disk.
pub(crate) fn in_scratch(name: &str, gid: u32) -> Storage {
    directory(format!("{}/{name}", paths::EPHEMERAL), gid)
}

/// A directory in an emptyDir, made where it is not there, as kubelet makes one: everybody's, and the pod's group's.
pub(crate) fn in_empty_dir(name: &str, within: &str, gid: u32) -> Storage {
    directory(format!("{}/{name}/{within}", paths::EPHEMERAL), gid)
}

/// Gives an emptyDir its size, in bytes; for UpdateEphemeralMounts after the first container that has it.
pub(crate) fn empty_dir_size(name: &str, size: u64) -> UpdateEphemeralMountsRequest {
    let options = vec!["remount".to_string(), format!("size={size}")];
    let storage = ephemeral(format!("{}/{name}", paths::EPHEMERAL), options);
    UpdateEphemeralMountsRequest { storages: vec![storage], ..Default::default() }
}

fn directory(mount_point: String, gid: u32) -> Storage {
    let mut options = vec!["mode=0777".to_string()];
    if gid != 0 {
        options.push(format!("fsgid={gid}"));
    }
    Storage {
        driver: "local".to_string(),
        source: "local".to_string(),
        fstype: "local".to_string(),
        options,
        mount_point,
        shared: true,
        ..Default::default()
    }
}

fn shm_options(size: u64) -> Vec<String> {
    let fixed = paths::SHM_CONFINED.into_iter().chain(["mode=1777"]).map(str::to_string);
    fixed.chain([format!("size={size}")]).collect()
}

fn ephemeral(mount_point: String, options: Vec<String>) -> Storage {
    Storage {
        driver: "ephemeral".to_string(),
        source: "tmpfs".to_string(),
        fstype: "tmpfs".to_string(),
        options,
        mount_point,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shm_is_sized_by_a_remount() {
        assert!(shm_storage(1 << 20).options.contains(&"size=1048576".to_string()));
        let remount = shm_remount(1 << 20);
        assert_eq!(remount.storages[0].options[0], "remount");
        assert_eq!(remount.storages[0].mount_point, shm_storage(0).mount_point);
    }

    #[test]
    fn an_empty_dir_outlives_its_containers_and_belongs_to_the_pods_group() {
        assert!(empty_dir("cache", 0).shared);
        assert_eq!(empty_dir("cache", 0).options, Vec::<String>::new());
        assert_eq!(empty_dir("cache", 1000).options, ["fsgid=1000"]);
    }
}
