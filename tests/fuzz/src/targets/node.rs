//! Files of a node that an installation reads: an engine's configuration, its own record, a bundle's list.

use std::fs;

use node_install::{Bundle, Engine, Instance, Kind, Record, Root, runtimes};

/// containerd's main file, and what `containerd config dump` prints.
pub(super) fn engine_file(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let _ = runtimes(text);
    let Ok(dir) = tempfile::tempdir() else { return };
    for directory in ["etc/containerd", "etc/crio/crio.conf.d"] {
        let _ = fs::create_dir_all(dir.path().join(directory));
    }
    let _ = fs::write(dir.path().join("etc/containerd/config.toml"), input);
    let found = Engine::find(&Root::new(dir.path()), Some(Kind::Containerd), |_| Some(3));
    // Whatever it is, it is told in one line.
    if let Err(error) = found {
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

/// An installation's record.
pub(super) fn install_record(input: &[u8]) {
    let Ok(dir) = tempfile::tempdir() else { return };
    let _ = fs::create_dir_all(dir.path().join("opt/coffer"));
    let _ = fs::write(dir.path().join("opt/coffer/install.json"), input);
    if let Err(error) = Record::read(&Root::new(dir.path()), &Instance::usual()) {
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

/// A bundle's list of digests.
pub(super) fn bundle_list(input: &[u8]) {
    let Ok(dir) = tempfile::tempdir() else { return };
    let _ = fs::create_dir_all(dir.path().join("bin"));
    let _ = fs::write(dir.path().join("VERSION"), "1\n");
    let _ = fs::write(dir.path().join("bin/containerd-shim-coffer-v2"), "shim");
    let _ = fs::write(dir.path().join("SHA256SUMS"), input);
    if let Ok(bundle) = Bundle::read(dir.path()) {
        // Nothing of it leads out of the directory.
        assert!(bundle.files().iter().all(|file| !file.path.starts_with('/') && !file.path.contains("..")));
    }
}
