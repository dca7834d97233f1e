//! What is under test: the shim, the guest image, and the vsock device program of hosts without vhost.

use std::env;
use std::path::{Path, PathBuf};

/// Where `tools/image dev` puts the image with the stand-in agent.
const STAND_INS_IMAGE: &str = "build/image-dev";

/// Paths of the built parts. Each comes from an environment variable or lies where `make` puts it.
#[derive(Debug, Clone)]
pub struct Artefacts {
    /// `containerd-shim-coffer-v2` (`COFFER_TEST_SHIM`).
    pub shim: PathBuf,
    /// Directory of the guest image (`COFFER_TEST_IMAGE`).
    pub image: PathBuf,
    /// `vhost-device-vsock` (`COFFER_TEST_VHOST_DEVICE_VSOCK`).
    pub vhost_device_vsock: PathBuf,
}

impl Artefacts {
    /// With the shim that is built for emulated GPUs (`COFFER_TEST_GPU_SHIM`), otherwise as [`Self::find`].
    pub fn with_gpus() -> Self {
        Self::with_shim("COFFER_TEST_GPU_SHIM", "build/bin/emulated-gpus/containerd-shim-coffer-v2")
    }

    /// The operator's command (`COFFER_TEST_COFFER`).
    pub fn coffer() -> PathBuf {
        find("COFFER_TEST_COFFER", "build/bin/emulated-gpus/coffer", "programs")
    }

    /// The image with the tests' own agent, whichever agent the tests' guests have (`COFFER_TEST_STAND_IN_IMAGE`).
    pub fn stand_ins_image() -> PathBuf {
        find("COFFER_TEST_STAND_IN_IMAGE", STAND_INS_IMAGE, "image")
    }

    /// The release image of the tests, whose PID 1 takes its report from a disk (`COFFER_TEST_RELEASE_IMAGE`).
    pub fn release_image() -> PathBuf {
        find("COFFER_TEST_RELEASE_IMAGE", "build/image-release-test", "image")
    }

    /// Finds all three; a missing one fails the test in one line that names the make target.
    pub fn find() -> Self {
        Self::with_shim("COFFER_TEST_SHIM", "target/release/containerd-shim-coffer-v2")
    }

    fn with_shim(variable: &str, default: &str) -> Self {
        Self {
            shim: find(variable, default, "programs"),
            image: find("COFFER_TEST_IMAGE", STAND_INS_IMAGE, "image"),
            vhost_device_vsock: find(
                "COFFER_TEST_VHOST_DEVICE_VSOCK",
                "build/bin/vhost-device-vsock",
                "programs",
            ),
        }
    }
}

/// The checkout: where the rig says it is, else where this crate was compiled.
pub fn workspace() -> PathBuf {
    match env::var_os("COFFER_REPO") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."),
    }
}

/// A file or directory of `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    let path = workspace().join("tests/fixtures").join(name);
    assert!(path.exists(), "fixture {} is not there", path.display());
    path
}

fn find(variable: &str, default: &str, target: &str) -> PathBuf {
    let path = match env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => workspace().join(default),
    };
    assert!(
        path.exists(),
        "{} is not there: run `make {target}` first, or name another one in {variable}",
        path.display()
    );
    path
}
