//! What the engine says of a container's place on the host.

use std::path::{Component, PathBuf};

use host_claims::cgroup::CgroupPath;
use host_claims::rootfs::{Mount, containerds_layers};
use tokio::runtime::{Builder, Runtime};

/// A runtime for one input, whose clock jumps to the next timer.
#[expect(clippy::expect_used, reason = "without a runtime no target can run")]
pub(super) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime")
}

/// A file with this content, in a folder of its own that goes with the first value.
#[expect(clippy::expect_used, reason = "without files no target can run")]
pub(super) fn file(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("file");
    std::fs::write(&path, content).expect("a temporary file");
    (dir, path)
}

/// `cgroupsPath` of an OCI spec. Whatever is accepted stays below the root.
pub(super) fn cgroup_path(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let Ok(path) = CgroupPath::parse(text) else { return };
    for path in [&path, &path.sandbox("s1")] {
        let path = path.as_path();
        assert!(path.components().all(|part| matches!(part, Component::Normal(_))), "{}", path.display());
        assert!(path.components().count() > 0);
    }
}

fn plan(mounts: &[Mount]) {
    let _ = containerds_layers(mounts);
}

/// An EROFS layer's beginning.
pub(super) fn erofs_image(input: &[u8]) {
    let (_dir, path) = file(input);
    let source = path.display().to_string();
    plan(&[Mount { fstype: "erofs".to_owned(), source, options: Vec::new() }]);
}

/// The template by which containerd 2.2's overlay names the layers before it. Mounts that name paths are left out:
/// they would be looked up on this machine.
pub(super) fn erofs_mounts(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    if !text.starts_with("{{") {
        return;
    }
    let layer = Mount {
        fstype: "erofs".to_owned(),
        source: "/nonexistent/layer.erofs".to_owned(),
        options: vec!["ro".to_owned()],
    };
    let overlay = Mount {
        fstype: "format/overlay".to_owned(),
        source: "overlay".to_owned(),
        options: vec![format!("lowerdir={text}")],
    };
    plan(&[layer.clone(), layer.clone(), layer, overlay]);
}
