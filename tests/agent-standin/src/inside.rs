//! What kata-agent 4.1.0 makes in a container's root, and the library does not: a working directory that is missing, and what
//! a link points to, where a file is to be mounted over the link (rustjail's `finish_rootfs` and `mount_from`).

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use oci_spec::runtime::Spec;

use crate::error::{Error, Result};

/// As many links as the kernel follows.
const MAX_LINKS: u32 = 40;

/// Makes what is missing below `root`.
pub fn provide(root: &Path, spec: &Spec) -> Result<()> {
    for mount in spec.mounts().iter().flatten() {
        let file = mount.source().as_ref().is_some_and(|source| source.is_file());
        if file && mount.typ().as_deref() == Some("bind") {
            let target = resolve(root, mount.destination())?;
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).map_err(Error::path("create directory", parent))?;
            }
            File::options()
                .create(true)
                .append(true)
                .open(&target)
                .map_err(Error::path("create file", &target))?;
        }
    }
    let Some(process) = spec.process() else { return Ok(()) };
    let directory = resolve(root, process.cwd())?;
    fs::create_dir_all(&directory).map_err(Error::path("create directory", &directory))
}

/// Where `path` is for a process whose root is `root`; what is missing is taken as it is.
fn resolve(root: &Path, path: &Path) -> Result<PathBuf> {
    let parts = |path: &Path| -> Vec<OsString> {
        path.components()
            .filter_map(|part| match part {
                Component::Normal(name) => Some(name.to_owned()),
                Component::ParentDir => Some("..".into()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
            })
            .collect()
    };
    let mut ahead = VecDeque::from(parts(path));
    let (mut inside, mut links) = (PathBuf::new(), 0);
    while let Some(part) = ahead.pop_front() {
        if part == ".." {
            inside.pop();
            continue;
        }
        let Ok(target) = fs::read_link(root.join(&inside).join(&part)) else {
            inside.push(part);
            continue;
        };
        links += 1;
        if links > MAX_LINKS {
            return Err(Error::errno("follow", path)(Errno::ELOOP));
        }
        if target.is_absolute() {
            inside = PathBuf::new();
        }
        for part in parts(&target).into_iter().rev() {
            ahead.push_front(part);
        }
    }
    Ok(root.join(inside))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_stay_inside() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path();
        fs::create_dir(root.join("etc")).unwrap();
        symlink("../run/x/stub", root.join("etc/up")).unwrap();
        symlink("/../../away", root.join("etc/out")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        for (path, place) in
            [("/etc/up", "run/x/stub"), ("/etc/out/f", "away/f"), ("/etc/../../a", "a"), ("/", "")]
        {
            assert_eq!(resolve(root, Path::new(path)).unwrap(), root.join(place), "{path}");
        }
        assert!(resolve(root, Path::new("/loop")).is_err());
    }
}
