//! Starts a program that nobody has to trust: QEMU, and the helpers that serve it.
//!
//! The program runs as a user of its own, without capabilities and without a way to get any, in mount, network, IPC and
//! UTS namespaces of its own, below a root that holds only what it needs, and without the system calls that it has no use
//! for. It sees no process file system, no other sandbox's directory and no socket of the host. Started with [`apart`], it
//! sees no other process either.
//!
//! A [`Jail`] is a value that says what the program may have. [`Jail::command`] runs the jailer, by default the caller's own
//! program once more, with [`ACTION`] as its first argument; there [`enter`] builds the jail around itself and becomes the program. So the
//! process id is the program's from the start, descriptors pass through, and what root has to do is done before. The
//! program's standard error has to be a pipe that the caller reads: by it the jailer sees that the caller lives.

mod apart;
mod calls;
mod enter;
mod error;
mod root;
mod user;
mod workplace;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

pub use apart::apart;
pub use enter::enter;
pub use error::Error;
pub use user::{FIRST_USER, Role, USERS, UserId, UserRange};
pub use workplace::{Builder, Workplace, remove_dead_workplaces};

/// The first argument by which the caller's program knows that it is to become a jailed one.
pub const ACTION: &str = "jail";
/// The caller's own program, also where a newer file has taken its place.
pub const OWN_PROGRAM: &str = "/proc/self/exe";
/// Where the program finds its own directory, which is also its working directory.
pub const HOME: &str = "/vm";
/// Where it finds [`Jail::output`].
pub const OUTPUT: &str = "/vm/output";

/// What a program may have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jail {
    /// Whom it runs as; the group has the same number.
    pub user: UserId,
    /// Its own directory, the only one that it can write to. It belongs to `user`, and is at [`HOME`] for the program.
    pub home: PathBuf,
    /// Files, and directories with all that is below them, that it may read, each at its own path. A file has to be
    /// readable for everyone.
    pub read: Vec<PathBuf>,
    /// Device nodes that it may read and write, each at its own path.
    pub nodes: Vec<PathBuf>,
    /// Sockets that it may connect to, by the path at which it finds each.
    pub sockets: Vec<Socket>,
    /// A file outside of its directory that it may read and write, at [`OUTPUT`]. It belongs to `user`.
    pub output: Option<PathBuf>,
    /// Whether it may read files whoever they belong to: of all capabilities it has CAP_DAC_READ_SEARCH.
    pub reads_all: bool,
    /// Whether it takes itself for root: what mkfs.erofs makes must not depend on as whom it runs, and the directories that a
    /// layer only implies are its user's.
    pub seems_root: bool,
    /// Whether it may make vsock sockets, by which every VM of the host can be reached.
    pub vsock: bool,
}

/// A socket that a jailed program may connect to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Socket {
    /// Where it is. A symbolic link is not followed: whoever owns its directory may not be trusted.
    pub source: PathBuf,
    /// Where the program finds it; what is relative is so to [`HOME`].
    pub target: PathBuf,
}

impl Jail {
    /// A jail that holds a directory and what every program has: the system's programs and libraries, read-only, and the
    /// device nodes that are no devices.
    pub fn new(user: UserId, home: PathBuf) -> Self {
        Self {
            user,
            home,
            read: Vec::new(),
            nodes: Vec::new(),
            sockets: Vec::new(),
            output: None,
            reads_all: false,
            seems_root: false,
            vsock: false,
        }
    }

    /// The command by which `jailer`, usually [`OWN_PROGRAM`], starts `program`, an absolute path, in the jail. The caller
    /// adds descriptors and arguments.
    ///
    /// # Errors
    /// [`Error::Description`]: a path is not UTF-8.
    pub fn command(&self, jailer: &Path, program: &Path) -> Result<Command, Error> {
        let mut command = Command::new(jailer);
        command.arg(ACTION).arg(serde_json::to_string(self).map_err(Error::Description)?).arg(program);
        Ok(command)
    }
}

/// Reads what [`Jail::command`] wrote: the arguments after [`ACTION`].
///
/// # Errors
/// [`Error::Description`], [`Error::Arguments`].
fn read(mut arguments: impl Iterator<Item = OsString>) -> Result<(Jail, PathBuf, Vec<OsString>), Error> {
    let description = arguments.next().and_then(|text| text.into_string().ok()).ok_or(Error::Arguments)?;
    let jail = serde_json::from_str(&description).map_err(Error::Description)?;
    let program = arguments.next().ok_or(Error::Arguments)?;
    Ok((jail, program.into(), arguments.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_on_the_command_line_is_read_again() {
        let range = UserRange::default();
        let jail = Jail {
            read: vec!["/opt/a b".into()],
            nodes: vec!["/dev/kvm".into()],
            ..Jail::new(range.of_process(77, Role::Qemu), "/run/x".into())
        };
        let mut command = jail.command(Path::new(OWN_PROGRAM), Path::new("/usr/bin/qemu")).unwrap();
        command.args(["-name", "x"]);
        let mut words = command.get_args().map(OsString::from);
        assert_eq!(words.next().unwrap(), ACTION);
        let (found, program, arguments) = read(words).unwrap();
        assert_eq!((found, program), (jail, PathBuf::from("/usr/bin/qemu")));
        assert_eq!(arguments, ["-name", "x"]);
    }

    #[test]
    fn a_line_that_we_did_not_write_is_refused() {
        let words = |words: &[&str]| read(words.iter().map(OsString::from));
        assert!(matches!(words(&[]), Err(Error::Arguments)));
        assert!(matches!(words(&["{}", "/bin/sh"]), Err(Error::Description(_))));
        let jail = Jail::new(UserRange::default().of_process(1, Role::Qemu), "/".into());
        let line = serde_json::to_string(&jail).unwrap();
        assert!(matches!(words(&[&line]), Err(Error::Arguments)));
        assert!(matches!(words(&[&line.replace("\"read\"", "\"more\""), "/x"]), Err(Error::Description(_))));
        // Root is nobody's user.
        let as_root = line.replace(&jail.user.to_string(), "0");
        assert!(matches!(words(&[&as_root, "/bin/sh"]), Err(Error::Description(_))));
    }
}
