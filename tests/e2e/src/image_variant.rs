//! Guest images that differ from the rig's in one thing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::or_fail::OrFail;

const MANIFEST: &str = "image.json";

/// A copy of an image directory that shares the large files; removed when dropped.
#[derive(Debug)]
pub struct ImageVariant {
    directory: PathBuf,
}

impl ImageVariant {
    /// The image in `original` under another name.
    pub fn of(original: &Path, name: &str) -> Self {
        let directory = Path::new("/run/e2e/images").join(name);
        fs::create_dir_all(&directory).or_fail("make an image directory");
        for entry in fs::read_dir(original).or_fail(original.display()).flatten() {
            let target = directory.join(entry.file_name());
            if entry.file_name() == MANIFEST {
                fs::copy(entry.path(), target).or_fail(MANIFEST);
            } else {
                symlink(entry.path(), target).or_fail("link an image's file");
            }
        }
        Self { directory }
    }

    /// Appends `words` to the guest kernel's command line: how the stand-in agent is told to misbehave.
    #[must_use]
    pub fn kernel_words(self, words: &str) -> Self {
        self.edit(|manifest| {
            let line = manifest["cmdline"].as_str().or_fail("cmdline in image.json").to_owned();
            manifest["cmdline"] = Value::String(format!("{line} {words}"));
        })
    }

    /// Names another root hash in the manifest than on the kernel's command line.
    #[must_use]
    pub fn with_another_root_hash(self) -> Self {
        self.edit(|manifest| manifest["root"]["verity"]["root_hash"] = Value::String("0".repeat(64)))
    }

    /// Replaces one of the image's files by `content`.
    #[must_use]
    pub fn file(self, name: &str, content: &[u8]) -> Self {
        let path = self.directory.join(name);
        let _ = fs::remove_file(&path);
        fs::write(path, content).or_fail(name);
        self
    }

    /// Leaves one of the image's files out.
    #[must_use]
    pub fn without(self, name: &str) -> Self {
        fs::remove_file(self.directory.join(name)).or_fail(name);
        self
    }

    /// Flips one bit in the middle of a file: what a changed disk looks like.
    #[must_use]
    pub fn with_flipped_bit(self, name: &str, offset: usize) -> Self {
        let mut content = fs::read(self.directory.join(name)).or_fail(name);
        content[offset] ^= 1;
        self.file(name, &content)
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    fn edit(self, change: impl FnOnce(&mut Value)) -> Self {
        let path = self.directory.join(MANIFEST);
        let text = fs::read_to_string(&path).or_fail(MANIFEST);
        let mut manifest = serde_json::from_str(&text).or_fail(MANIFEST);
        change(&mut manifest);
        fs::write(path, manifest.to_string()).or_fail(MANIFEST);
        self
    }
}

impl Drop for ImageVariant {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn original() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(MANIFEST), r#"{"cmdline":"quiet"}"#).unwrap();
        fs::write(directory.path().join("root.img"), [0; 16]).unwrap();
        directory
    }

    #[test]
    fn words_reach_the_copys_command_line_only() {
        let original = original();
        let variant = ImageVariant::of(original.path(), "selftest-words").kernel_words("a=b");
        let read = |directory: &Path| fs::read_to_string(directory.join(MANIFEST)).unwrap();
        assert_eq!(read(variant.path()), r#"{"cmdline":"quiet a=b"}"#);
        assert_eq!(read(original.path()), r#"{"cmdline":"quiet"}"#);
    }

    #[test]
    fn a_flipped_bit_does_not_reach_the_original() {
        let original = original();
        let variant = ImageVariant::of(original.path(), "selftest-bit").with_flipped_bit("root.img", 8);
        assert_eq!(fs::read(variant.path().join("root.img")).unwrap()[8], 1);
        assert_eq!(fs::read(original.path().join("root.img")).unwrap(), [0; 16]);
    }
}
