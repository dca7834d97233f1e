//! Which versions of an installation are in use, and which can go.

use std::collections::BTreeSet;
use std::fs;

use crate::disk::Disk;
use crate::error::Result;
use crate::instance::Instance;
use crate::root::Root;

/// A pod's shim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its process id.
    pub pid: u32,
    /// The version that it is of.
    pub version: String,
}

/// The shims of an installation that run: each process whose program is one of its files.
#[must_use]
pub fn running(root: &Root, instance: &Instance) -> Vec<Running> {
    let versions = format!("{}/versions/", instance.prefix());
    let of_process = |name: &String| {
        let pid = name.parse().ok()?;
        let program = root.target(&format!("/proc/{name}/exe"))?;
        let (version, file) = program.split_once(&versions)?.1.split_once('/')?;
        // A program that was removed has more behind its name.
        file.starts_with("bin/containerd-shim-").then(|| Running { pid, version: version.to_owned() })
    };
    root.names("/proc").iter().filter_map(of_process).collect()
}

/// Removes what neither new pods nor running ones have; returns the versions that went.
pub(crate) fn collect(disk: &Disk<'_>, instance: &Instance, current: &str) -> Result<Vec<String>> {
    let root = disk.root();
    let (versions, images) =
        (format!("{}/versions", instance.prefix()), format!("{}/images", instance.prefix()));
    let mut kept: BTreeSet<String> =
        running(root, instance).into_iter().map(|running| running.version).collect();
    kept.insert(current.to_owned());
    // An installer that was killed has written the record and not turned the link: new pods get the link's.
    kept.extend(
        root.target(&instance.current()).and_then(|to| Some(to.strip_prefix("versions/")?.to_owned())),
    );
    let mut gone = Vec::new();
    for version in root.names(&versions) {
        if !kept.contains(&version) {
            disk.remove_tree(&format!("{versions}/{version}"))?;
            gone.push(version);
        }
    }
    let linked: BTreeSet<String> =
        root.names(&versions).iter().flat_map(|version| images_of(root, &versions, version)).collect();
    for image in root.names(&images) {
        if !linked.contains(&image) {
            disk.remove_tree(&format!("{images}/{image}"))?;
        }
    }
    Ok(gone)
}

fn images_of(root: &Root, versions: &str, version: &str) -> Vec<String> {
    let dir = format!("{versions}/{version}/share/images");
    let links = root.names(&dir).into_iter().filter_map(|name| root.target(&format!("{dir}/{name}")));
    links.filter_map(|target| Some(target.rsplit_once('/')?.1.to_owned())).collect()
}

/// Whether a file has this content.
pub(crate) fn has_content(root: &Root, path: &str, sha256: &str) -> bool {
    use sha2::{Digest, Sha256};

    let file = root.resolve(path, crate::root::Last::Itself).ok().and_then(|path| fs::File::open(path).ok());
    let Some(mut file) = file else { return false };
    let mut sum = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut file, &mut piece) {
            Ok(0) => break,
            Ok(n) => sum.update(&piece[..n]),
            Err(_) => return false,
        }
    }
    sum.finalize().iter().zip(sha256.as_bytes().chunks(2)).all(|(byte, hex)| {
        std::str::from_utf8(hex).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok()) == Some(*byte)
    })
}
