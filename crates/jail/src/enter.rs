//! The way in, one step after the other; the last one becomes the program.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid, setsid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities,
};

use crate::{Error, HOME, Jail, calls, root};

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
    drop_privileges(&jail)?;
    // After the change of user, which undoes it. From its own PID namespace the program could not ask for its parent.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(Error::step("follow the caller's end"))?;
    if caller_is_gone().map_err(Error::step("follow the caller's end"))? {
        return Err(Error::step("follow the caller's end")(Errno::ESRCH));
    }
    calls::refuse(&jail)?;
    let mut command = Command::new(&program);
    // The engine's environment may hold what is nobody's business, such as a proxy's password.
    command.args(arguments).env_clear().env("PATH", SEARCH).env("TMPDIR", HOME);
    Err(Error::Execute { program, source: command.exec() })
}

/// Nobody reads standard error any more.
fn caller_is_gone() -> nix::Result<bool> {
    let stderr = io::stderr();
    let mut polled = [PollFd::new(stderr.as_fd(), PollFlags::empty())];
    poll(&mut polled, PollTimeout::ZERO)?;
    Ok(polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR)))
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

fn drop_privileges(jail: &Jail) -> Result<(), Error> {
    let failed = Error::step("drop privileges");
    let of_rustix = |errno: rustix::io::Errno| failed(Errno::from_raw(errno.raw_os_error()));
    let kept = if jail.reads_all { CapabilitySet::DAC_READ_SEARCH } else { CapabilitySet::empty() };
    for capability in 0..CAPABILITIES {
        let capability = CapabilitySet::from_bits_retain(1 << capability);
        // An error means that the kernel knows no such capability.
        if !kept.contains(capability) && matches!(capability_is_in_bounding_set(capability), Ok(true)) {
            remove_capability_from_bounding_set(capability).map_err(of_rustix)?;
        }
    }
    let (uid, gid) = (Uid::from_raw(jail.user.get()), Gid::from_raw(jail.user.get()));
    // Leaving root takes all capabilities away that are not kept (capabilities(7)).
    prctl::set_keepcaps(jail.reads_all)
        .and_then(|()| setgroups(&[]))
        .and_then(|()| setresgid(gid, gid, gid))
        .and_then(|()| setresuid(uid, uid, uid))
        .map_err(&failed)?;
    if jail.reads_all {
        let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: kept };
        set_capabilities(None, sets).map_err(of_rustix)?;
        configure_capability_in_ambient_set(kept, true).map_err(of_rustix)?;
    }
    prctl::set_no_new_privs().map_err(failed)
}
