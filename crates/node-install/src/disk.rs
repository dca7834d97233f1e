//! The only place where the node's files are changed, one step at a time.
//!
//! Each file and link becomes what it shall be in one step (rename), so that whoever reads it sees the old or the new one.
//! A process that is killed leaves at most a file whose name begins with [`TEMPORARY`], which the next run replaces.

use std::cell::Cell;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::root::{Last, Root};

/// How the names of unfinished files begin.
pub(crate) const TEMPORARY: &str = ".coffer-new-";

/// The node's files, to be changed.
#[derive(Debug)]
pub(crate) struct Disk<'a> {
    root: &'a Root,
    fault: Fault<'a>,
}

/// What goes wrong, for tests: asked before each step, with the steps made before.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault<'a> {
    /// Nothing.
    None,
    /// This process is killed at step `at`: that step and all later ones are not made, and the step's file is half written.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests kill"))]
    Killed { at: u32, steps: &'a Cell<u32> },
    /// Step `at` fails, as on a full disk; later ones do not.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests fill the disk"))]
    Full { at: u32, steps: &'a Cell<u32> },
}

impl<'a> Disk<'a> {
    pub(crate) fn new(root: &'a Root, fault: Fault<'a>) -> Self {
        Self { root, fault }
    }

    pub(crate) fn root(&self) -> &'a Root {
        self.root
    }

    fn step(&self) -> io::Result<()> {
        let (at, steps, killed) = match self.fault {
            Fault::None => return Ok(()),
            Fault::Killed { at, steps } => (at, steps, true),
            Fault::Full { at, steps } => (at, steps, false),
        };
        steps.set(steps.get() + 1);
        let fails = if killed { steps.get() >= at } else { steps.get() == at };
        if fails { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
    }

    /// A process that was killed changes nothing.
    fn alive(&self) -> io::Result<()> {
        if self.is_dead() { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
    }

    fn changed<T>(&self, action: &'static str, path: &str, result: io::Result<T>) -> Result<T> {
        result.map_err(|source| Error::Change { action, path: path.to_owned(), source })
    }

    /// Makes a directory that is not there yet; its parent is.
    pub(crate) fn make_directory(&self, path: &str) -> Result<()> {
        let at = self.root.resolve(path, Last::Followed)?;
        if at.is_dir() {
            return Ok(());
        }
        let made = self.step().and_then(|()| DirBuilder::new().mode(0o755).create(at));
        self.changed("make the directory", path, made)
    }

    /// Writes a file.
    pub(crate) fn write(&self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        self.place(path, &mut &content[..], mode)
    }

    /// Copies a file that is outside of the root.
    pub(crate) fn copy(&self, from: &Path, path: &str, mode: u32) -> Result<()> {
        let mut source =
            File::open(from).map_err(|source| Error::Read { path: from.display().to_string(), source })?;
        self.place(path, &mut source, mode)
    }

    fn place(&self, path: &str, content: &mut dyn Read, mode: u32) -> Result<()> {
        let at = self.root.resolve(path, Last::Followed)?;
        let temporary = temporary(&at);
        let mut written = || -> io::Result<()> {
            self.alive()?;
            forget(&temporary)?;
            self.step()?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
            let mut half = [0; 64 << 10];
            let n = content.read(&mut half)?;
            file.write_all(&half[..n / 2])?;
            self.step()?;
            file.write_all(&half[n / 2..n])?;
            io::copy(content, &mut file)?;
            // The mode is whatever the umask.
            file.set_permissions(Permissions::from_mode(mode))?;
            file.sync_all()?;
            self.step()?;
            fs::rename(&temporary, &at)
        };
        let written = written();
        if written.is_err() && !self.is_dead() {
            let _ = forget(&temporary);
        }
        self.changed("write", path, written)
    }

    /// Writes a file of somebody else anew: its owner and mode stay.
    pub(crate) fn rewrite(&self, path: &str, content: &[u8]) -> Result<()> {
        let at = self.root.resolve(path, Last::Followed)?;
        let found = fs::metadata(&at).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        self.write(path, content, found.permissions().mode() & 0o7777)?;
        self.changed("give back the owner of", path, chown(&at, Some(found.uid()), Some(found.gid())))
    }

    /// Removes what is unfinished of a file.
    pub(crate) fn forget_unfinished(&self, path: &str) -> Result<()> {
        let at = self.root.resolve(path, Last::Followed)?;
        self.changed(
            "remove what is unfinished of",
            path,
            self.alive().and_then(|()| forget(&temporary(&at))),
        )
    }

    /// Removes what is unfinished of a directory or file.
    pub(crate) fn forget_unfinished_tree(&self, path: &str) -> Result<()> {
        let temporary = temporary(&self.root.resolve(path, Last::Itself)?);
        let removed = match self.alive().and_then(|()| fs::symlink_metadata(&temporary)) {
            Ok(entry) if entry.is_dir() => fs::remove_dir_all(&temporary),
            Ok(_) => fs::remove_file(&temporary),
            Err(error) if is_absent(&error) => Ok(()),
            Err(error) => Err(error),
        };
        self.changed("remove what is unfinished of", path, removed)
    }

    /// Removes a directory with all that is in it: it is gone in one step.
    pub(crate) fn remove_at_once(&self, path: &str) -> Result<()> {
        let at = self.root.resolve(path, Last::Itself)?;
        let temporary = temporary(&at);
        let removed = || -> io::Result<()> {
            self.step()?;
            fs::rename(&at, &temporary)?;
            self.step()?;
            fs::remove_dir_all(&temporary)
        };
        let removed = removed();
        self.changed("remove", path, removed)
    }

    /// Makes a symbolic link, or turns the one that is there.
    pub(crate) fn link(&self, path: &str, target: &str) -> Result<()> {
        let at = self.root.resolve(path, Last::Itself)?;
        let temporary = temporary(&at);
        let made = || -> io::Result<()> {
            self.alive()?;
            forget(&temporary)?;
            self.step()?;
            symlink(target, &temporary)?;
            self.step()?;
            fs::rename(&temporary, &at)
        };
        let made = made();
        if made.is_err() && !self.is_dead() {
            let _ = forget(&temporary);
        }
        self.changed("make the link", path, made)
    }

    /// Makes the directories of a file that are missing and the file, all in one step.
    pub(crate) fn write_with_parents(&self, path: &str, content: &[u8]) -> Result<()> {
        let mut top = PathBuf::from(path);
        let mut missing = Vec::new();
        while let Some(parent) = top.parent().map(Path::to_owned) {
            if self.root.exists(&parent.display().to_string()) {
                break;
            }
            missing.push(parent.clone());
            top = parent;
        }
        let Some(top) = missing.last() else { return self.write(path, content, 0o644) };
        let at = self.root.resolve(&top.display().to_string(), Last::Itself)?;
        let temporary = temporary(&at);
        let made = || -> io::Result<()> {
            self.alive()?;
            if temporary.exists() {
                fs::remove_dir_all(&temporary)?;
            }
            self.step()?;
            let inside = Path::new(path).strip_prefix(top).map_err(io::Error::other)?;
            let file = temporary.join(inside);
            let mut builder = DirBuilder::new();
            builder.mode(0o755).recursive(true);
            builder.create(file.parent().unwrap_or(&temporary))?;
            self.step()?;
            fs::write(&file, content)?;
            self.step()?;
            fs::rename(&temporary, &at)
        };
        let made = made();
        if made.is_err() && !self.is_dead() {
            let _ = fs::remove_dir_all(&temporary);
        }
        self.changed("write", path, made)
    }

    /// Removes a file or link, if it is there, and what is unfinished of it.
    pub(crate) fn remove(&self, path: &str) -> Result<()> {
        let at = self.root.resolve(path, Last::Itself)?;
        let removed = self.alive().and_then(|()| forget(&temporary(&at)));
        let removed = removed.and_then(|()| match fs::symlink_metadata(&at) {
            Err(error) if is_absent(&error) => Ok(()),
            _ => self.step().and_then(|()| fs::remove_file(&at)),
        });
        self.changed("remove", path, removed)
    }

    /// Removes a directory with all that is in it, if it is there.
    pub(crate) fn remove_tree(&self, path: &str) -> Result<()> {
        let at = self.root.resolve(path, Last::Itself)?;
        let removed = match fs::symlink_metadata(&at) {
            Err(error) if is_absent(&error) => Ok(()),
            _ => self.step().and_then(|()| fs::remove_dir_all(&at)),
        };
        self.changed("remove", path, removed)
    }

    /// Removes a directory if it is there and empty.
    pub(crate) fn remove_directory(&self, path: &str) -> Result<()> {
        let at = self.root.resolve(path, Last::Itself)?;
        let removed = match fs::symlink_metadata(&at) {
            Err(error) if is_absent(&error) => Ok(()),
            _ => self.step().and_then(|()| fs::remove_dir(&at)),
        };
        match removed {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            other => self.changed("remove the directory", path, other),
        }
    }

    /// Whether the test's kill has come.
    fn is_dead(&self) -> bool {
        matches!(self.fault, Fault::Killed { at, steps } if steps.get() >= at)
    }
}

fn temporary(at: &Path) -> PathBuf {
    let name = at.file_name().unwrap_or_default().to_string_lossy();
    at.with_file_name(format!("{TEMPORARY}{name}"))
}

fn forget(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if !is_absent(&error) => Err(error),
        _ => Ok(()),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
