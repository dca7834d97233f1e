//! Which cgroup hierarchies a host has: v2 alone, or v1 controllers with or without a v2 beside them.

use std::path::{Path, PathBuf};

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its root directory.
    pub root: PathBuf,
    /// v1 controllers it carries, from its directory's name (`cpu,cpuacct`); empty for v2.
    pub controllers: Vec<String>,
}

impl Hierarchy {
    /// Whether this is the hierarchy that limits memory under v1.
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}

/// What a host has below `/sys/fs/cgroup`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hierarchies {
    /// One v2 hierarchy with all controllers.
    Unified(Hierarchy),
    /// Controllers in v1 hierarchies. A hybrid's `unified` is among them: it groups, but limits nothing here.
    Split(Vec<Hierarchy>),
    /// No cgroup file system at all.
    Absent,
}

impl Hierarchies {
    /// Looks at `root`, `/sys/fs/cgroup` outside of tests. Never fails: what cannot be read is not there.
    #[must_use]
    pub fn find(root: &Path) -> Self {
        if root.join("cgroup.controllers").exists() {
            return Self::Unified(Hierarchy { root: root.to_owned(), controllers: Vec::new() });
        }
        let mut found: Vec<Hierarchy> = std::fs::read_dir(root)
            .into_iter()
            .flatten()
            .flatten()
            // `cpu` is a symbolic link where `cpu,cpuacct` is the hierarchy.
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .filter(|path| path.join("cgroup.procs").exists())
            .map(|path| Hierarchy { controllers: controllers(&path), root: path })
            .collect();
        found.sort_by(|a, b| a.root.cmp(&b.root));
        if found.is_empty() { Self::Absent } else { Self::Split(found) }
    }

    /// All of them, in the order of their names.
    #[must_use]
    pub fn all(&self) -> &[Hierarchy] {
        match self {
            Self::Unified(one) => std::slice::from_ref(one),
            Self::Split(many) => many,
            Self::Absent => &[],
        }
    }
}

fn controllers(path: &Path) -> Vec<String> {
    if path.join("cgroup.controllers").exists() {
        return Vec::new();
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split(',').map(str::to_owned).collect()
}

#[cfg(test)]
pub(super) mod fixture {
    //! cgroupfs trees in a temporary directory.

    use std::os::unix::fs::symlink;
    use std::path::Path;

    pub(in crate::cgroup) fn write(root: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    pub(in crate::cgroup) fn unified() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), &[("cgroup.controllers", "cpu memory\n"), ("cgroup.procs", "")]);
        root
    }

    pub(in crate::cgroup) fn hybrid() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for name in ["cpu,cpuacct", "memory", "systemd", "unified"] {
            write(root.path(), &[(&format!("{name}/cgroup.procs"), "")]);
        }
        write(root.path(), &[("unified/cgroup.controllers", "hugetlb\n")]);
        symlink("cpu,cpuacct", root.path().join("cpu")).unwrap();
        root
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v2_host_has_one_hierarchy() {
        let root = fixture::unified();
        assert!(matches!(Hierarchies::find(root.path()), Hierarchies::Unified(h) if h.root == root.path()));
    }

    #[test]
    fn a_hybrid_host_has_each_controller_once() {
        let root = fixture::hybrid();
        let found = Hierarchies::find(root.path());
        let names: Vec<_> =
            found.all().iter().map(|h| h.root.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["cpu,cpuacct", "memory", "systemd", "unified"]);
        assert!(found.all()[0].has("cpuacct"));
        assert!(found.all()[3].controllers.is_empty());
    }

    #[test]
    fn no_cgroupfs_is_absent() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("memory")).unwrap();
        assert_eq!(Hierarchies::find(root.path()), Hierarchies::Absent);
        assert_eq!(Hierarchies::find(Path::new("/nowhere")), Hierarchies::Absent);
    }
}
