//! The hypervisor of a host that need not be honest: QEMU with another command line than the shim's.
//!
//! It is installed as a QEMU with files of its own is, `bin/qemu` and `share/qemu/`, for those are what the shim lets it see.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::or_fail::OrFail;

/// Serial of the disk that plays the security processor, for the `fake-report` build of PID 1.
const FAKE_REPORT_SERIAL: &str = "coffer-fake-report";

/// Where its files are.
const FILES: &str = "share/qemu";

/// A program for the configuration key `qemu`: it changes the words that it gets and becomes QEMU.
#[derive(Debug)]
pub struct Hypervisor {
    directory: PathBuf,
    replaced: Vec<(String, String)>,
    added: Vec<String>,
    before: Vec<String>,
}

impl Hypervisor {
    /// One that changes nothing yet. `name` is unique in the test binary.
    pub fn new(name: &str) -> Self {
        let directory = Path::new("/run/e2e/hypervisors").join(name);
        for part in ["bin", FILES] {
            fs::create_dir_all(directory.join(part)).or_fail("make a hypervisor's directory");
        }
        Self { directory, replaced: Vec::new(), added: Vec::new(), before: Vec::new() }
    }

    /// Plays the security processor, which no rig has: it reports what the VM was launched with, here `host_data` of
    /// SNP (64 hex digits).
    #[must_use]
    pub fn reports(self, host_data: &str) -> Self {
        let mut report = format!("snp {host_data}\n").into_bytes();
        report.resize(512, 0);
        let file = self.file("report.img", &report);
        self.disk("fake-report", &file, FAKE_REPORT_SERIAL)
    }

    /// Adds a read-only virtio disk, of a copy of the file.
    #[must_use]
    pub fn disk(self, node: &str, file: &Path, serial: &str) -> Self {
        let file = self.file(&format!("{node}.img"), &fs::read(file).or_fail(file.display()));
        let blockdev = format!(
            "driver=file,node-name={node},filename={},read-only=on,auto-read-only=off",
            file.display()
        );
        let device = format!("virtio-blk-pci,disable-legacy=on,drive={node},serial={serial}");
        self.words(&["-blockdev", &blockdev, "-device", &device])
    }

    /// Adds words at the end of the command line.
    #[must_use]
    pub fn words(mut self, words: &[&str]) -> Self {
        self.added.extend(words.iter().map(|word| (*word).to_owned()));
        self
    }

    /// Replaces a piece of text in every word.
    #[must_use]
    pub fn replace(mut self, piece: &str, with: &str) -> Self {
        self.replaced.push((piece.to_owned(), with.to_owned()));
        self
    }

    /// Runs a line of a shell's in QEMU's working directory first.
    #[must_use]
    pub fn before(mut self, line: String) -> Self {
        self.before.push(line);
        self
    }

    /// Writes a file that the program can read, and gives its path.
    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.directory.join(FILES).join(name);
        fs::write(&path, content).or_fail(name);
        path
    }

    /// Writes the program; gives its path.
    pub fn program(&self) -> PathBuf {
        let mut script = String::from("#!/bin/bash\n");
        for line in &self.before {
            let _ = writeln!(script, "{line} || exit 1");
        }
        script.push_str("words=()\nfor word in \"$@\"; do\n");
        for (piece, with) in &self.replaced {
            let _ = writeln!(script, "word=${{word//{}/{}}}", quoted(piece), quoted(with));
        }
        script.push_str("words+=(\"$word\")\ndone\nexec /usr/bin/qemu-system-x86_64 \"${words[@]}\"");
        for word in &self.added {
            let _ = write!(script, " {}", quoted(word));
        }
        script.push('\n');
        let path = self.directory.join("bin/qemu");
        fs::write(&path, script).or_fail("write the program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).or_fail("make the program executable");
        path
    }
}

impl Drop for Hypervisor {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// As one word of a shell's.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
