//! The file behind a pod's scratch disk.
//!
//! It never has a name, so it is gone when the last process that has it open is: QEMU, which dies with its shim. No
//! record is needed to give it back.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::statvfs::statvfs;
use shared_types::ScratchSize;

/// Why there is no such file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node allows less.
    #[error(
        "the pod asks for a scratch disk of {asked} (annotation {}), and this node gives {}: raise the key \
         `max_scratch_mib` of its configuration, or ask for less",
        ScratchSize::ANNOTATION, most.map_or("none".to_owned(), |most| format!("at most {most}"))
    )]
    Limit {
        /// What the pod asks for.
        asked: ScratchSize,
        /// What the node's configuration allows; nothing where it allows none.
        most: Option<ScratchSize>,
    },
    /// The file system has too little room.
    #[error(
        "the pod asks for a scratch disk of {asked} (annotation {}), and {} has {free} MiB free: free some, or choose \
         another place by the key `scratch_directory` of the node's configuration",
        ScratchSize::ANNOTATION, directory.display()
    )]
    Full {
        /// What the pod asks for.
        asked: ScratchSize,
        /// Where it would be.
        directory: PathBuf,
        /// What is free there, in MiB.
        free: u64,
    },
    /// The file cannot be made.
    #[error(
        "cannot make a scratch disk in {} (key `scratch_directory` of the node's configuration)",
        directory.display()
    )]
    Make {
        /// Where it would be.
        directory: PathBuf,
        /// The cause; a file system that has no files without a name says EOPNOTSUPP.
        #[source]
        source: io::Error,
    },
}

/// Makes the file in a directory, which is made where it is missing: sparse, as large as the disk, for nobody else to open.
///
/// # Errors
/// [`Error`]; nothing is left behind then.
pub fn make(directory: &Path, asked: ScratchSize, most: Option<ScratchSize>) -> Result<File, Error> {
    if most.is_none_or(|most| asked > most) {
        return Err(Error::Limit { asked, most });
    }
    let failed = |source| Error::Make { directory: directory.to_owned(), source };
    directory.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed)?;
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let room = statvfs(directory).map_err(|errno| failed(errno.into()))?;
    let free = room.blocks_available().saturating_mul(room.fragment_size()) >> 20;
    if free < asked.mib() {
        return Err(Error::Full { asked, directory: directory.to_owned(), free });
    }
    // Exclusive: nobody can give it a name later.
    let mut nameless = OpenOptions::new();
    nameless.read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE | libc::O_EXCL);
    let file = nameless.open(directory).map_err(failed)?;
    file.set_len(asked.bytes()).map_err(failed)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn mib(mib: u64) -> ScratchSize {
        ScratchSize::from_mib(mib).unwrap()
    }

    #[test]
    fn the_file_has_its_size_and_neither_a_name_nor_blocks() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("coffer/scratch");
        let file = make(&directory, mib(64), Some(mib(64))).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!((metadata.len(), metadata.blocks(), metadata.nlink()), (64 << 20, 0, 0));
        assert_eq!(metadata.mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
        make(&directory, mib(64), Some(mib(64))).unwrap();
    }

    #[test]
    fn what_the_node_does_not_give_is_refused_with_what_to_do() {
        let parent = tempfile::tempdir().unwrap();
        let said = |asked, most| make(parent.path(), asked, most).unwrap_err().to_string();
        let none = said(mib(64), None);
        assert!(
            none.contains("64 MiB") && none.contains("gives none") && none.contains("max_scratch_mib"),
            "{none}"
        );
        let less = said(mib(65), Some(mib(64)));
        assert!(less.contains("65 MiB") && less.contains("at most 64 MiB"), "{less}");
        let full = said(mib(16 << 20), Some(mib(16 << 20)));
        assert!(full.contains("MiB free") && full.contains("scratch_directory"), "{full}");
    }

    #[test]
    fn a_directory_that_cannot_be_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = make(&file.path().join("x"), mib(64), Some(mib(64))).unwrap_err();
        assert!(error.to_string().contains(&file.path().display().to_string()), "{error}");
    }
}
