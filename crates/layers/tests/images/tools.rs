//! mkfs.erofs, and programs that are called so.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use layers::{Hasher, Registries};

/// A directory with a mkfs.erofs that counts its runs in the file `runs`.
pub(crate) struct Tools(tempfile::TempDir);

impl Tools {
    /// The machine's, or the forky root's, which needs its own loader and libraries.
    pub(crate) fn find() -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../build/forky");
        let forky = format!(
            "{0}/lib64/ld-linux-x86-64.so.2 --library-path {0}/usr/lib/x86_64-linux-gnu {0}/usr/bin/mkfs.erofs",
            root.display()
        );
        let own = ["/usr/bin/mkfs.erofs", "/usr/sbin/mkfs.erofs"].into_iter().find(|path| {
            // Debian bookworm's is too old.
            layers::Mkfs::find([Path::new(path).parent().unwrap().to_owned()]).is_ok()
        });
        let command = match own {
            Some(own) => own.to_owned(),
            None if root.join("usr/bin/mkfs.erofs").is_file() => forky,
            None => {
                let how = "mkfs.erofs 1.8.2 or later: install erofs-utils, or run tools/forky-root";
                assert!(std::env::var_os("COFFER_REQUIRE_MKFS").is_none_or(|v| v != "1"), "no {how}");
                eprintln!("NOT TESTED, there is no {how}");
                return None;
            }
        };
        Some(Self::script(&format!("echo \"$@\" >>\"$(dirname \"$0\")/runs\"\nexec {command} \"$@\"")))
    }

    /// Something else that is called mkfs.erofs.
    pub(crate) fn script(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mkfs.erofs");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        Self(dir)
    }

    pub(crate) fn search(&self) -> Vec<PathBuf> {
        vec![self.0.path().to_owned()]
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.0.path().join("mkfs.erofs")
    }

    /// How many images were made, without questions for the version.
    pub(crate) fn conversions(&self) -> usize {
        let runs = fs::read_to_string(self.0.path().join("runs")).unwrap_or_default();
        runs.lines().filter(|line| !line.contains("--version")).count()
    }

    /// What a tenant has, with a cache of its own.
    pub(crate) fn hasher(&self, cache: &Path) -> Hasher {
        Hasher { cache: cache.to_owned(), search: self.search(), registries: Registries::default() }
    }
}
