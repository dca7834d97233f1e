//! Cgroup v2 controllers for what runs below the root cgroup.

use std::path::{Path, PathBuf};
use std::{fs, io};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

/// Without these a container's limits would silently not hold, so their absence stops the boot.
const REQUIRED: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

/// Why containers could not be limited.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A control file could not be read or written.
    #[error("cannot use {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The containers' cgroup could not be put in the root's place.
    #[error("cannot mount {} over {}", from.display(), to.display())]
    Cover {
        from: PathBuf,
        to: PathBuf,
        #[source]
        source: Errno,
    },
    /// The kernel lacks a controller.
    #[error("the kernel has no cgroup v2 controller `{0}`; build it with the image's own configuration")]
    Missing(&'static str),
}

/// Makes the cgroup that all containers are below, with every controller that the kernel has, and returns it. The agent
/// and this process stay in the root cgroup, which alone may hold processes beside controlled children.
///
/// # Errors
///
/// A control file that cannot be used, or a required controller the kernel lacks.
pub fn prepare(root: &Path) -> Result<PathBuf, CgroupError> {
    enable_controllers(root)?;
    let path = root.join("containers");
    fs::create_dir(&path).map_err(|source| CgroupError::File { path: path.clone(), source })?;
    enable_controllers(&path)?;
    Ok(path)
}

/// Puts the containers' cgroup in the place of the root cgroup `root`: the host names the cgroup of each container, and
/// whatever it names is then below the one with the device program.
///
/// # Errors
///
/// The kernel's refusal.
pub fn cover(root: &Path, containers: &Path) -> Result<(), CgroupError> {
    mount(Some(containers), root, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|source| CgroupError::Cover { from: containers.to_owned(), to: root.to_owned(), source })
}

fn enable_controllers(root: &Path) -> Result<(), CgroupError> {
    let path = root.join("cgroup.controllers");
    let offered = fs::read_to_string(&path).map_err(|source| CgroupError::File { path, source })?;
    let request = enable_all(&offered)?;
    let path = root.join("cgroup.subtree_control");
    fs::write(&path, request).map_err(|source| CgroupError::File { path, source })
}

/// The line for `cgroup.subtree_control` that enables all of `offered` (a line of `cgroup.controllers`).
fn enable_all(offered: &str) -> Result<String, CgroupError> {
    let offered: Vec<&str> = offered.split_whitespace().collect();
    if let Some(missing) = REQUIRED.into_iter().find(|name| !offered.contains(name)) {
        return Err(CgroupError::Missing(missing));
    }
    Ok(offered.iter().map(|name| format!("+{name}")).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_offered_is_enabled() {
        let line = enable_all("cpuset cpu io memory hugetlb pids\n").unwrap();
        assert_eq!(line, "+cpuset +cpu +io +memory +hugetlb +pids");
    }

    #[test]
    fn a_missing_controller_is_named() {
        let error = enable_all("cpuset cpu io pids").unwrap_err();
        assert!(matches!(error, CgroupError::Missing("memory")), "{error}");
    }

    #[test]
    fn the_request_goes_to_the_root_cgroup() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpu cpuset memory pids").unwrap();
        enable_controllers(root.path()).unwrap();
        let written = fs::read_to_string(root.path().join("cgroup.subtree_control")).unwrap();
        assert_eq!(written, "+cpu +cpuset +memory +pids");
    }

    #[test]
    fn a_cgroup_that_is_there_already_is_refused() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpu cpuset memory pids").unwrap();
        fs::create_dir(root.path().join("containers")).unwrap();
        let error = prepare(root.path()).unwrap_err();
        assert!(error.to_string().ends_with("/containers"), "{error}");
    }

    #[test]
    fn no_cgroup2_at_all_names_the_file() {
        let root = tempfile::tempdir().unwrap();
        let error = enable_controllers(root.path()).unwrap_err();
        assert!(error.to_string().contains("cgroup.controllers"), "{error}");
    }
}
