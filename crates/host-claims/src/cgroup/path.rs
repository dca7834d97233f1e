//! Where a container's cgroup is: the OCI spec's `cgroupsPath` in its two spellings.

use std::path::{Component, Path, PathBuf};

use super::Error;

/// Longest name of a unit in bytes: systemd's `UNIT_NAME_MAX` less its terminating NUL.
const MAX_UNIT: usize = 255;

/// A cgroup, relative to the root of every hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupPath(PathBuf);

impl CgroupPath {
    /// Reads `/kubepods/pod1/ctr` (cgroupfs driver) or `kubepods-pod1.slice:cri-containerd:ctr` (systemd driver).
    ///
    /// # Errors
    /// [`Error::Malformed`] for an empty path, one with `..`, or a slice whose name systemd would not take.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let malformed = |reason| Error::Malformed { path: text.to_owned(), reason };
        let path = match text.split(':').collect::<Vec<_>>()[..] {
            [plain] => Path::new(plain).to_owned(),
            [slice, prefix, name] if !text.contains('/') => {
                let unit = match (prefix, name) {
                    (_, "") => return Err(malformed("the unit has no name")),
                    (_, slice) if slice.ends_with(".slice") => slice.to_owned(),
                    ("", name) => format!("{name}.scope"),
                    (prefix, name) => format!("{prefix}-{name}.scope"),
                };
                expand_slice(slice)
                    .ok_or_else(|| malformed("the slice's name is not one of systemd's"))?
                    .join(unit)
            }
            _ => return Err(malformed("it is neither a path nor slice:prefix:name")),
        };
        let mut clean = PathBuf::new();
        for part in path.components() {
            match part {
                Component::Normal(name) => clean.push(name),
                Component::RootDir | Component::CurDir => {}
                Component::ParentDir | Component::Prefix(_) => return Err(malformed("it leaves its parent")),
            }
        }
        if clean.as_os_str().is_empty() {
            return Err(malformed("it names no cgroup"));
        }
        Ok(Self(clean))
    }

    /// Below the root of a hierarchy.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// The cgroup of our own that stands beside the container's: the VM belongs to the pod, not to one
    /// container, and the container's may be made and removed by somebody else.
    #[must_use]
    pub fn sandbox(&self, sandbox: &str) -> Self {
        let parent = self.0.parent().unwrap_or_else(|| Path::new(""));
        Self(parent.join(format!("coffer_{sandbox}")))
    }
}

/// `a-b.slice` lies in `a.slice`: systemd.slice(5). `-.slice` is the root.
fn expand_slice(slice: &str) -> Option<PathBuf> {
    // Each part's directory repeats all before it, so that a long name makes a path of gigabytes.
    if slice.len() > MAX_UNIT {
        return None;
    }
    let stem = match slice {
        "" => return Some(PathBuf::from("system.slice")),
        "-.slice" => return Some(PathBuf::new()),
        other => other.strip_suffix(".slice")?,
    };
    let mut path = PathBuf::new();
    let mut name = String::new();
    for part in stem.split('-') {
        if part.is_empty() {
            return None;
        }
        name.push_str(part);
        path.push(format!("{name}.slice"));
        name.push('-');
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> String {
        CgroupPath::parse(text).unwrap().as_path().to_str().unwrap().to_owned()
    }

    #[test]
    fn both_spellings_lead_to_a_directory() {
        assert_eq!(parsed("/kubepods/burstable/pod1/ctr"), "kubepods/burstable/pod1/ctr");
        assert_eq!(parsed("default/ctr"), "default/ctr");
        assert_eq!(
            parsed("kubepods-burstable-pod1.slice:cri-containerd:ctr"),
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-ctr.scope"
        );
        assert_eq!(parsed(":crio:ctr"), "system.slice/crio-ctr.scope");
        assert_eq!(parsed("-.slice::ctr"), "ctr.scope");
        assert_eq!(parsed("a.slice:x:b.slice"), "a.slice/b.slice");
    }

    #[test]
    fn a_path_that_leaves_or_names_nothing_is_refused() {
        for text in
            ["", "/", ".", "/a/../../b", "a:b", "a:b:c:d", "x.slice:p:", "x:p:n", "a--b.slice:p:n", "/a:b/:c"]
        {
            assert!(matches!(CgroupPath::parse(text), Err(Error::Malformed { .. })), "{text:?}");
        }
    }

    #[test]
    fn a_slice_is_no_longer_than_a_unit() {
        let slice = |parts: usize| format!("{}.slice::c", vec!["a"; parts].join("-"));
        assert!(CgroupPath::parse(&slice(125)).is_ok());
        assert!(matches!(CgroupPath::parse(&slice(126)), Err(Error::Malformed { .. })));
    }

    #[test]
    fn the_sandbox_stands_beside_the_container() {
        let path = CgroupPath::parse("/kubepods/pod1/ctr").unwrap();
        assert_eq!(path.sandbox("s1").as_path(), Path::new("kubepods/pod1/coffer_s1"));
        assert_eq!(CgroupPath::parse("ctr").unwrap().sandbox("s1").as_path(), Path::new("coffer_s1"));
    }

    proptest! {
        #[test]
        fn what_is_accepted_stays_below_the_root(text in "[a-z./:-]{0,24}") {
            if let Ok(path) = CgroupPath::parse(&text) {
                let inside = path.as_path().components().all(|part| matches!(part, Component::Normal(_)));
                prop_assert!(inside && path.as_path().components().count() > 0);
            }
        }
    }
}
