//! Finds Debian's firmware, which is not ours to keep in the repository, and the one that `guest-image/build` makes.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// A firmware of Debian forky.
#[derive(Debug, Clone, Copy)]
pub enum Debian {
    /// Package `ovmf-amdsev`.
    AmdSev,
    /// Package `ovmf-inteltdx`.
    IntelTdx,
}

impl Debian {
    const fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::AmdSev => ("COFFER_OVMF_AMDSEV", "OVMF.amdsev.fd", "ovmf-amdsev"),
            Self::IntelTdx => ("COFFER_OVMF_INTELTDX", "OVMF.inteltdx.ms.fd", "ovmf-inteltdx"),
        }
    }

    /// Where the firmware is: the file that the environment names, or else the one in the checkout's forky root.
    ///
    /// Where there is none, the test says so and goes on, unless `COFFER_REQUIRE_FIRMWARE=1`.
    pub fn find(self) -> Option<PathBuf> {
        let (variable, file, package) = self.names();
        if let Some(path) = std::env::var_os(variable) {
            let path = PathBuf::from(path);
            assert!(path.is_file(), "{variable} names {}, which is no file", path.display());
            return Some(path);
        }
        let root = checkout().join("build/forky/usr/share");
        let found = ["ovmf", "OVMF"].iter().map(|dir| root.join(dir).join(file)).find(|p| p.is_file());
        if found.is_none() {
            let how = format!("{file} of Debian's {package}: set {variable}, or run tools/forky-root");
            assert!(std::env::var_os("COFFER_REQUIRE_FIRMWARE").is_none_or(|v| v != "1"), "no {how}");
            say(&format!("NOT TESTED, there is no {how}"));
        }
        found
    }
}

/// The directory with `OVMF.fd` and `firmware.json` that `guest-image/build firmware` makes, if it is there.
///
/// Where there is none, the test says so and goes on, unless `COFFER_REQUIRE_FIRMWARE=1`.
pub fn built() -> Option<PathBuf> {
    let directory = checkout().join("build/firmware-tdx");
    if directory.join("OVMF.fd").is_file() {
        return Some(directory);
    }
    let how = "build/firmware-tdx: run guest-image/build firmware";
    assert!(std::env::var_os("COFFER_REQUIRE_FIRMWARE").is_none_or(|v| v != "1"), "no {how}");
    say(&format!("NOT TESTED, there is no {how}"));
    None
}

/// The checkout. Tests of other crates have this file, too, from folders of other depths.
fn checkout() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().find(|folder| folder.join("Cargo.lock").is_file()).unwrap_or(own)
}

/// Prints a line that the test runner does not keep for itself.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
