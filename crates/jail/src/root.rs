//! The root file system of a jail: a small one in memory, and in it what the program may have, bound.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::unistd::{Gid, Uid, chdir, chown, pivot_root};

use crate::{Error, HOME, Jail, OUTPUT};

/// Programs and libraries; a link stays one, as `/lib` is on most systems.
const SYSTEM: [&str; 5] = ["/usr", "/lib", "/lib64", "/bin", "/sbin"];
/// Where the dynamic linker finds libraries in unusual places; not there on every system.
const LINKER: &str = "/etc/ld.so.cache";
/// Nodes that lead to no device.
const HARMLESS: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];
/// The size of the root: it holds directories and nodes only.
const SIZE: &str = "size=1m,mode=0755";
const STEP_MAKE: &str = "make the root of a jail";
const NOTHING: Option<&str> = None;

/// Something that is put into the root, opened before the root covers it.
struct Given {
    path: PathBuf,
    handle: File,
    meta: fs::Metadata,
}

impl Given {
    fn open(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, OFlag::empty())
    }

    /// Opens it itself, where it may be a symbolic link that somebody else has put there.
    fn open_itself(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, OFlag::O_NOFOLLOW)
    }

    fn open_with(path: &Path, flags: OFlag) -> Result<Self, Error> {
        let failed = |source| Error::Give { path: path.to_owned(), source };
        let flags = (OFlag::O_PATH | flags).bits();
        let handle = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
        let meta = handle.metadata().map_err(failed)?;
        Ok(Self { path: path.to_owned(), handle, meta })
    }

    /// Binds it at `target`, which is made for it.
    fn bind(&self, target: &Path, writable: bool) -> Result<(), Error> {
        let failed = |source: io::Error| Error::Give { path: self.path.clone(), source };
        let made = match self.meta.is_dir() {
            true => directories(target),
            false => {
                target.parent().map_or(Ok(()), directories).and_then(|()| File::create(target).map(drop))
            }
        };
        made.map_err(failed)?;
        let source = format!("/proc/self/fd/{}", self.handle.as_raw_fd());
        // What is mounted below the system's directories belongs to them; below the program's own is the new root.
        let below = if self.meta.is_dir() && !writable { MsFlags::MS_REC } else { MsFlags::empty() };
        let bind = MsFlags::MS_BIND | below;
        mount(Some(source.as_str()), target, NOTHING, bind, NOTHING).map_err(|errno| failed(errno.into()))?;
        let mut flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        if !writable {
            flags |= MsFlags::MS_RDONLY;
        }
        mount(NOTHING, target, NOTHING, flags, NOTHING).map_err(|errno| failed(errno.into()))
    }
}

/// Builds the root and goes into it; the old one is gone afterwards. The mount namespace must be the caller's own.
pub(crate) fn build(jail: &Jail, program: &Path) -> Result<(), Error> {
    // The host's mounts stay as they are, and new ones of the host's do not come in.
    mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NOTHING)
        .map_err(Error::step("make mounts private"))?;
    let home = Given::open(&jail.home)?;
    let system = SYSTEM.into_iter().map(Path::new).filter(|path| path.symlink_metadata().is_ok());
    let (links, directories): (Vec<_>, Vec<_>) = system.partition(|path| path.is_symlink());
    let links = links.into_iter().map(|path| fs::read_link(path).map(|to| (path, to)));
    let links =
        links.collect::<io::Result<Vec<_>>>().map_err(|source| Error::Step { step: STEP_MAKE, source })?;
    let mut given = directories.into_iter().map(Given::open).collect::<Result<Vec<_>, _>>()?;
    if Path::new(LINKER).exists() {
        given.push(Given::open(Path::new(LINKER))?);
    }
    for path in program_files(program).iter().chain(&jail.read) {
        if !SYSTEM.iter().any(|system| path.starts_with(system)) {
            let file = Given::open(path)?;
            readable(jail, &file)?;
            given.push(file);
        }
    }
    let sockets = jail.sockets.iter().map(|socket| Given::open_itself(&socket.source));
    let sockets = sockets.collect::<Result<Vec<_>, _>>()?;
    if let Some(other) = sockets.iter().find(|socket| !socket.meta.file_type().is_socket()) {
        return Err(Error::Kind { path: other.path.clone(), wanted: "socket" });
    }
    let output = jail.output.as_deref().map(Given::open_itself).transpose()?;
    let harmless = HARMLESS.into_iter().map(Path::new);
    let nodes = harmless.chain(jail.nodes.iter().map(PathBuf::as_path));
    let nodes = nodes.map(Given::open).collect::<Result<Vec<_>, _>>()?;

    // A directory that nothing else is: what is mounted over another one would hide it from those who bind it.
    let staging = format!("root-{}", std::process::id());
    let root = &jail.home.join(&staging);
    DirBuilder::new().mode(0o700).create(root).map_err(|source| Error::Step { step: STEP_MAKE, source })?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("jail"), root, Some("tmpfs"), flags, Some(SIZE)).map_err(Error::step(STEP_MAKE))?;
    for (path, to) in links {
        symlink(to, inside(root, path)).map_err(|source| Error::Step { step: STEP_MAKE, source })?;
    }
    for file in &given {
        file.bind(&inside(root, &file.path), false)?;
    }
    for node in &nodes {
        make_node(jail, node, &inside(root, &node.path))?;
    }
    home.bind(&inside(root, Path::new(HOME)), true)?;
    // After the directory, for they may be in it.
    for (socket, given) in jail.sockets.iter().zip(&sockets) {
        given.bind(&inside(root, &Path::new(HOME).join(&socket.target)), true)?;
    }
    if let Some(output) = output {
        output.bind(&inside(root, Path::new(OUTPUT)), true)?;
    }
    enter(root)?;
    // From here it is an empty directory below the program's own.
    fs::remove_dir(staging).map_err(|source| Error::Step { step: STEP_MAKE, source })
}

/// What a program needs besides the system's: itself, and QEMU's firmware files where it brings its own.
fn program_files(program: &Path) -> Vec<PathBuf> {
    let share = program.parent().and_then(Path::parent).map(|prefix| prefix.join("share/qemu"));
    [Some(program.to_owned()), share.filter(|path| path.is_dir())].into_iter().flatten().collect()
}

/// The program is another user, and has no capability to read what it may not.
fn readable(jail: &Jail, file: &Given) -> Result<(), Error> {
    if jail.reads_all {
        return Ok(());
    }
    let wanted = if file.meta.is_dir() { 0o5 } else { 0o4 };
    if file.meta.permissions().mode() & wanted == wanted {
        return Ok(());
    }
    Err(Error::Unreadable { path: file.path.clone(), user: jail.user })
}

/// A node of the program's own for the same device: the host's stays as it is.
fn make_node(jail: &Jail, node: &Given, target: &Path) -> Result<(), Error> {
    let failed = |source: io::Error| Error::Give { path: node.path.clone(), source };
    if !node.meta.file_type().is_char_device() {
        return Err(Error::Kind { path: node.path.clone(), wanted: "character device" });
    }
    target.parent().map_or(Ok(()), directories).map_err(failed)?;
    let (user, group) = (Uid::from_raw(jail.user.get()), Gid::from_raw(jail.user.get()));
    mknod(target, SFlag::S_IFCHR, Mode::S_IRUSR | Mode::S_IWUSR, node.meta.rdev())
        .and_then(|()| chown(target, Some(user), Some(group)))
        .map_err(|errno| failed(errno.into()))
}

fn enter(root: &Path) -> Result<(), Error> {
    let entered = chdir(root)
        // The old root ends up below the new one, where it is taken away.
        .and_then(|()| pivot_root(".", "."))
        .and_then(|()| umount2(".", MntFlags::MNT_DETACH))
        .and_then(|()| {
            mount(
                NOTHING,
                "/",
                NOTHING,
                MsFlags::MS_REMOUNT
                    | MsFlags::MS_BIND
                    | MsFlags::MS_RDONLY
                    | MsFlags::MS_NOSUID
                    | MsFlags::MS_NOEXEC,
                NOTHING,
            )
        })
        .and_then(|()| chdir(HOME));
    entered.map_err(Error::step("go into a jail"))
}

fn directories(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// Where an absolute path is below a root.
fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Role, UserRange};

    #[test]
    fn a_path_stays_below_its_root() {
        assert_eq!(inside(Path::new("/r"), Path::new("/usr/bin")), Path::new("/r/usr/bin"));
    }

    #[test]
    fn a_file_that_not_everyone_may_read_is_named_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kernel");
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let jail = Jail::new(UserRange::default().of_process(5, Role::Qemu), dir.path().to_owned());
        let error = readable(&jail, &Given::open(&path).unwrap()).unwrap_err().to_string();
        assert!(
            error.contains("kernel") && error.contains("chmod o+r") && error.contains("1879048197"),
            "{error}"
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        readable(&jail, &Given::open(&path).unwrap()).unwrap();
    }

    #[test]
    fn a_program_with_its_own_firmware_files_has_them() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("bin/qemu-system-x86_64");
        assert_eq!(program_files(&program), [program.as_path()]);
        fs::create_dir_all(dir.path().join("share/qemu")).unwrap();
        assert_eq!(program_files(&program)[1], dir.path().join("share/qemu"));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let Err(error) = Given::open(Path::new("/nowhere/node")) else { panic!("opened") };
        assert_eq!(error.to_string(), "cannot give /nowhere/node to a jailed program");
    }
}
