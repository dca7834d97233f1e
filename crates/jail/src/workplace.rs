//! Files that a jailed program makes: its own for as long as it runs, and ours again after that.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, lchown};
use std::path::{Path, PathBuf};

use nix::unistd::{getegid, geteuid};

use crate::{Jail, UserId};

/// Who makes files that others use, of input that nobody trusts.
#[derive(Debug, Clone)]
pub struct Builder {
    /// As whom the program runs.
    pub user: UserId,
    /// The program that builds the jail, usually [`crate::OWN_PROGRAM`].
    pub jailer: PathBuf,
}

/// A file for a jailed program to make, and a directory beside it, `<file>.d`, for what it needs meanwhile.
#[derive(Debug)]
#[must_use = "dropping it removes the directory"]
pub struct Workplace {
    directory: PathBuf,
    file: PathBuf,
    user: UserId,
}

impl Workplace {
    /// Gives the program's user the file, which is there and empty, and the directory, which is made.
    ///
    /// # Errors
    /// The directory cannot be made, or we may not give files away.
    pub fn new(file: &Path, user: UserId) -> io::Result<Self> {
        let mut directory = file.as_os_str().to_owned();
        directory.push(".d");
        let place = Self { directory: directory.into(), file: file.to_owned(), user };
        DirBuilder::new().mode(0o700).create(&place.directory)?;
        for path in [&place.directory, &place.file] {
            lchown(path, Some(user.get()), Some(user.get()))?;
        }
        Ok(place)
    }

    /// A jail with both.
    pub fn jail(&self) -> Jail {
        Jail {
            output: Some(self.file.clone()),
            seems_root: true,
            ..Jail::new(self.user, self.directory.clone())
        }
    }

    /// Makes the file ours again, once the program has ended, and with it all that it had started. It cannot have put another
    /// one in its place: the directory that has the file was never its own.
    ///
    /// # Errors
    /// The file is gone.
    pub fn finish(self) -> io::Result<()> {
        lchown(&self.file, Some(geteuid().as_raw()), Some(getegid().as_raw()))
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Removes the directories below `parent` of workplaces whose file is gone: what a process left that was killed.
pub fn remove_dead_workplaces(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_dead = path.extension().is_some_and(|end| end == "d") && !path.with_extension("").exists();
        if is_dead && path.is_dir() {
            let _ = fs::remove_dir_all(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::{Role, UserRange};

    #[test]
    fn what_is_given_comes_back_and_nothing_is_left() {
        if !geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.1-0.tmp");
        fs::write(&file, "").unwrap();
        let user = UserRange::default().of_process(3, Role::ImageBuilder);
        let owner = |path: &Path| fs::symlink_metadata(path).unwrap().uid();
        let place = Workplace::new(&file, user).unwrap();
        let home = place.jail().home;
        assert_eq!([owner(&file), owner(&home)], [user.get(); 2]);
        fs::create_dir(home.join("work")).unwrap();
        let dead = dir.path().join("b.2-0.tmp.d");
        fs::create_dir_all(dead.join("work")).unwrap();
        remove_dead_workplaces(dir.path());
        assert_eq!([home.exists(), dead.exists()], [true, false]);
        place.finish().unwrap();
        assert_eq!((owner(&file), home.exists()), (0, false));
    }
}
