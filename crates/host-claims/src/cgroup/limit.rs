//! The pod's memory budget: the smallest limit between its cgroup and the root.

use std::io;
use std::path::{Path, PathBuf};

use super::{CgroupPath, Error, Hierarchies};

/// v1 writes "no limit" as the largest page-aligned s64; anything near it is none.
const V1_UNLIMITED: u64 = 1 << 62;

/// A limit and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryLimit {
    /// Bytes.
    pub bytes: u64,
    /// The cgroup that has it, below the hierarchy's root.
    pub cgroup: PathBuf,
}

/// The effective memory limit of a cgroup: the smallest of its own and its ancestors'. Levels that do not
/// exist (yet) limit nothing. `None` when no level has a limit, or where there is no memory controller.
///
/// # Errors
/// [`Error::File`] when a limit is there and cannot be read or is not a number.
pub fn memory_limit(hierarchies: &Hierarchies, path: &CgroupPath) -> Result<Option<MemoryLimit>, Error> {
    let (root, file) = match hierarchies {
        Hierarchies::Unified(unified) => (&unified.root, "memory.max"),
        Hierarchies::Split(all) => match all.iter().find(|h| h.has("memory")) {
            Some(memory) => (&memory.root, "memory.limit_in_bytes"),
            None => return Ok(None),
        },
        Hierarchies::Absent => return Ok(None),
    };
    let mut smallest: Option<MemoryLimit> = None;
    for cgroup in path.as_path().ancestors() {
        let Some(bytes) = read_limit(&root.join(cgroup).join(file))? else { continue };
        if smallest.as_ref().is_none_or(|found| bytes < found.bytes) {
            smallest = Some(MemoryLimit { bytes, cgroup: cgroup.to_owned() });
        }
    }
    Ok(smallest)
}

fn read_limit(file: &Path) -> Result<Option<u64>, Error> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::file("read", file)(e)),
    };
    match text.trim() {
        "max" => Ok(None),
        number => {
            let bytes: u64 =
                number.parse().map_err(io::Error::other).map_err(Error::file("understand", file))?;
            Ok((bytes < V1_UNLIMITED).then_some(bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::fixture;
    use super::*;

    fn pod() -> CgroupPath {
        CgroupPath::parse("/kubepods/pod1/ctr").unwrap()
    }

    #[test]
    fn v2_takes_the_smallest_ancestor() {
        let root = fixture::unified();
        fixture::write(
            root.path(),
            &[
                ("kubepods/memory.max", "4096\n"),
                ("kubepods/pod1/memory.max", "1024\n"),
                ("kubepods/pod1/ctr/memory.max", "max\n"),
            ],
        );
        let limit = memory_limit(&Hierarchies::find(root.path()), &pod()).unwrap().unwrap();
        assert_eq!(limit, MemoryLimit { bytes: 1024, cgroup: "kubepods/pod1".into() });
    }

    #[test]
    fn v1_knows_its_word_for_unlimited() {
        let root = fixture::hybrid();
        let files = [
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/kubepods/pod1/memory.limit_in_bytes", "2048\n"),
        ];
        fixture::write(root.path(), &files);
        let hierarchies = Hierarchies::find(root.path());
        let limit = memory_limit(&hierarchies, &pod()).unwrap().unwrap();
        assert_eq!(limit, MemoryLimit { bytes: 2048, cgroup: "kubepods/pod1".into() });
        let elsewhere = CgroupPath::parse("/other").unwrap();
        assert_eq!(memory_limit(&hierarchies, &elsewhere).unwrap(), None);
    }

    #[test]
    fn a_limit_that_is_no_number_is_an_error() {
        let root = fixture::unified();
        fixture::write(root.path(), &[("kubepods/memory.max", "lots\n")]);
        let error = memory_limit(&Hierarchies::find(root.path()), &pod()).unwrap_err();
        assert!(matches!(error, Error::File { action: "understand", .. }));
    }

    #[test]
    fn nothing_to_read_is_no_limit() {
        assert_eq!(memory_limit(&Hierarchies::Absent, &pod()).unwrap(), None);
        let root = fixture::unified();
        assert_eq!(memory_limit(&Hierarchies::find(root.path()), &pod()).unwrap(), None);
    }
}
