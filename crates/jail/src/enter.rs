//! The way in, one step after the other; the last one becomes the program.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, getppid, setgroups, setresgid, setresuid, setsid};
use rustix::thread::{CapabilitySet, capability_is_in_bounding_set, remove_capability_from_bounding_set};

use crate::{Error, UserId, root};

/// Processes and threads that the program's user may have: a VM with hundreds of vCPUs, and its workers.
const PROCESSES: u64 = 4096;
/// Files that it may have open: descriptors of layers, queues and devices.
const FILES: u64 = 16384;
/// Where a jailed program looks for others.
const SEARCH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// No kernel has more capabilities than the bits that hold them.
const CAPABILITIES: u32 = 64;

/// Builds the jail that the arguments describe around this process, and becomes the program. `arguments` are those after
/// [`crate::ACTION`]; descriptors stay open. The caller has one thread.
///
/// # Errors
/// [`Error`]; the process is of no other use then.
pub fn enter(arguments: impl Iterator<Item = OsString>) -> Result<Infallible, Error> {
    let (jail, program, arguments) = crate::read(arguments)?;
    let parent = getppid();
    // Until it is the program, /proc does not show it as one more of the caller's kind.
    let _ = prctl::set_name(c"coffer-jail");
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    unshare(namespaces).map_err(Error::step("make namespaces for a jail"))?;
    root::build(&jail, &program)?;
    // Signals of the caller's terminal or session are not the program's.
    let _ = setsid();
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    limit()?;
    drop_privileges(jail.user)?;
    // Last: a change of user undoes it. The caller may have ended before.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(Error::step("follow the shim's end"))?;
    if getppid() != parent {
        return Err(Error::step("follow the shim's end")(nix::errno::Errno::ESRCH));
    }
    // The engine's environment may hold what is nobody's business, such as a proxy's password.
    let source = Command::new(&program).args(arguments).env_clear().env("PATH", SEARCH).exec();
    Err(Error::Execute { program, source })
}

fn limit() -> Result<(), Error> {
    for (resource, most) in [
        (Resource::RLIMIT_CORE, 0), // a core file would hold the guest's memory
        (Resource::RLIMIT_NPROC, PROCESSES),
        (Resource::RLIMIT_NOFILE, FILES),
    ] {
        let failed = Error::step("limit a jailed program");
        let (_, hard) = getrlimit(resource).map_err(&failed)?;
        setrlimit(resource, most.min(hard), most.min(hard)).map_err(&failed)?;
    }
    Ok(())
}

fn drop_privileges(user: UserId) -> Result<(), Error> {
    let failed = Error::step("drop privileges");
    for capability in 0..CAPABILITIES {
        let Some(capability) = CapabilitySet::from_bits(1 << capability) else { continue };
        // An error means that the kernel knows no such capability.
        if matches!(capability_is_in_bounding_set(capability), Ok(true)) {
            remove_capability_from_bounding_set(capability)
                .map_err(|errno| failed(nix::errno::Errno::from_raw(errno.raw_os_error())))?;
        }
    }
    let (uid, gid) = (Uid::from_raw(user.get()), Gid::from_raw(user.get()));
    // Leaving root takes the capabilities away (capabilities(7)).
    setgroups(&[])
        .and_then(|()| setresgid(gid, gid, gid))
        .and_then(|()| setresuid(uid, uid, uid))
        .and_then(|()| prctl::set_no_new_privs())
        .map_err(failed)
}
