//! Reads the files that a command was given, each up to a size.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use measurement::ovmf::MAX_FIRMWARE;

/// Whether a file's name stands for standard input.
pub(crate) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// A kind of file: its name in messages, and the most that is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    name: &'static str,
    max: usize,
}

impl Kind {
    /// A firmware image.
    pub(crate) const FIRMWARE: Self = Self { name: "firmware", max: MAX_FIRMWARE };
    /// A kernel.
    pub(crate) const KERNEL: Self = Self { name: "kernel", max: 256 << 20 };
    /// An initrd.
    pub(crate) const INITRD: Self = Self { name: "initrd", max: 1 << 30 };
    /// A file of ACPI tables; QEMU's have 128 KiB, or 2 MiB with hundreds of devices.
    pub(crate) const ACPI: Self = Self { name: "ACPI file", max: 16 << 20 };
    /// Initdata in any form.
    pub(crate) const INITDATA: Self = Self { name: "initdata", max: measurement::initdata::MAX_PLAIN };
    /// A pod's manifest.
    pub(crate) const MANIFEST: Self = Self { name: "pod's manifest", max: pod_manifest::MAX_MANIFEST };
    /// A text with manifests.
    pub(crate) const MANIFESTS: Self = Self { name: "manifests", max: pod_manifest::MAX_FILE };
    /// A guest image's manifest.
    pub(crate) const IMAGE: Self =
        Self { name: "guest image's manifest", max: vmm_config::image::MAX_MANIFEST };
    /// A private key.
    pub(crate) const KEY: Self = Self { name: "key", max: 64 << 10 };
    /// A text that becomes part of initdata.
    pub(crate) const ENTRY: Self = Self { name: "initdata entry", max: measurement::initdata::MAX_PLAIN };

    /// A guest agent's policy.
    pub(crate) const POLICY: Self = Self { name: "policy", max: 8 << 20 };
    /// What `coffer measure pod -o trustee` printed.
    pub(crate) const TRUSTEE: Self = Self { name: "output for Trustee", max: 64 << 20 };
    /// A confidential VM's report, in any form.
    pub(crate) const REPORT: Self = Self { name: "report", max: 4 << 20 };
    /// Requests to a guest's agent.
    pub(crate) const REQUESTS: Self = Self { name: "requests", max: 256 << 20 };

    /// The most that is read, in bytes.
    pub(crate) const fn max(self) -> usize {
        self.max
    }

    /// The file's content; of `-`, standard input's.
    ///
    /// # Errors
    /// A file that cannot be read, or is larger than its kind may be.
    pub(crate) fn read(self, path: &Path) -> Result<Vec<u8>> {
        let Self { name, max } = self;
        let read = || {
            let mut content = Vec::new();
            let limit = max as u64 + 1;
            if is_stdin(path) {
                io::stdin().lock().take(limit).read_to_end(&mut content)?;
            } else {
                File::open(path)?.take(limit).read_to_end(&mut content)?;
            }
            Ok(content)
        };
        let content = read().map_err(|error: std::io::Error| match error.kind() {
            // The plain message would not say that a directory was given.
            ErrorKind::IsADirectory => anyhow::anyhow!("it is a directory"),
            _ => error.into(),
        });
        let content = content.with_context(|| format!("cannot read the {name} {}", path.display()))?;
        ensure!(content.len() <= max, "the {name} {} has more than {max} bytes", path.display());
        Ok(content)
    }

    /// What a failure to use the file is called.
    pub(crate) fn unusable(self, path: &Path) -> String {
        format!("cannot use the {} {}", self.name, path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_has_a_size_at_most() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let kind = Kind { name: "thing", max: 4 };
        fs::write(&path, "1234").unwrap();
        assert_eq!(kind.read(&path).unwrap(), b"1234");
        fs::write(&path, "12345").unwrap();
        let error = format!("{:#}", kind.read(&path).unwrap_err());
        assert_eq!(error, format!("the thing {} has more than 4 bytes", path.display()));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = format!("{:#}", Kind::KERNEL.read(&dir.path().join("absent")).unwrap_err());
        assert!(error.starts_with("cannot read the kernel /") && error.contains("No such file"), "{error}");
        let error = format!("{:#}", Kind::KERNEL.read(dir.path()).unwrap_err());
        assert!(error.ends_with(": it is a directory"), "{error}");
    }
}
