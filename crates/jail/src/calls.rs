//! System calls that no jailed program has a use for, and that reach what its user and root do not bound: the kernel's
//! less trodden parts, other processes, and everything that begins with a user namespace.
//!
//! It is a list of what is refused. One of what is allowed would be the C library's and QEMU's to decide, and theirs
//! changes with each version; QEMU's own `-sandbox` stands beside this.

use std::collections::BTreeMap;
use std::env::consts::ARCH;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::{Error, Jail};

/// Refused with EPERM whatever the arguments are.
const REFUSED: &[i64] = &[
    // Other roots and namespaces.
    libc::SYS_chroot,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_pivot_root,
    libc::SYS_setns,
    libc::SYS_umount2,
    libc::SYS_unshare,
    // Files by other ways than their paths, which lead around the root for who may read all.
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    // Other processes.
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    // The kernel itself.
    libc::SYS_acct,
    libc::SYS_bpf,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_perf_event_open,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_userfaultfd,
    // Its keys.
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    // Its clock.
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_settimeofday,
];

/// Refused as if the kernel had none, so that programs do without: `clone3` has its flags where no filter sees them, and
/// what `io_uring` does is not seen by filters at all.
const UNKNOWN: &[i64] =
    &[libc::SYS_clone3, libc::SYS_io_uring_enter, libc::SYS_io_uring_register, libc::SYS_io_uring_setup];

/// Asked by who takes itself for root; an error number of 0 is the answer 0.
const WHO: &[i64] = &[libc::SYS_getuid, libc::SYS_getgid, libc::SYS_geteuid, libc::SYS_getegid];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;
type Made<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Takes the calls from this process, and from what it becomes.
pub(crate) fn refuse(jail: &Jail) -> Result<(), Error> {
    let filters = filters(jail).map_err(Error::Filter)?;
    filters.iter().try_for_each(|filter| {
        seccompiler::apply_filter(filter).map_err(|error| Error::Filter(Box::new(error)))
    })
}

fn filters(jail: &Jail) -> Made<Vec<BpfProgram>> {
    let mut refused: Rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    refused.insert(libc::SYS_clone, vec![user_namespaces()?]);
    refused.insert(libc::SYS_prctl, vec![rule(0, SeccompCmpOp::Eq, libc::PR_SET_PDEATHSIG.try_into()?)?]);
    refused.insert(libc::SYS_socket, families(jail.vsock)?);
    let unknown = UNKNOWN.iter().map(|call| (*call, Vec::new())).collect();
    let mut filters = vec![compile(unknown, libc::ENOSYS)?, compile(refused, libc::EPERM)?];
    if jail.seems_root {
        filters.push(compile(WHO.iter().map(|call| (*call, Vec::new())).collect(), 0)?);
    }
    Ok(filters)
}

fn compile(rules: Rules, errno: i32) -> Made<BpfProgram> {
    let refuse = SeccompAction::Errno(errno.try_into()?);
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, refuse, ARCH.try_into()?)?.try_into()?)
}

/// A thread or process in a user namespace of its own; the other namespaces need a capability.
fn user_namespaces() -> Made<SeccompRule> {
    let flag: u64 = libc::CLONE_NEWUSER.try_into()?;
    rule(0, SeccompCmpOp::MaskedEq(flag), flag)
}

/// All families but unix and IP; AF_VSOCK, which knows no network namespaces and reaches every VM's agent, where it is asked for.
fn families(vsock: bool) -> Made<Vec<SeccompRule>> {
    let family = |operator, family: i32| condition(0, operator, u64::try_from(family)?);
    let between = vec![family(SeccompCmpOp::Gt, libc::AF_INET)?, family(SeccompCmpOp::Lt, libc::AF_INET6)?];
    let mut above = vec![family(SeccompCmpOp::Gt, libc::AF_INET6)?];
    if vsock {
        above.push(family(SeccompCmpOp::Ne, libc::AF_VSOCK)?);
    }
    Ok(vec![SeccompRule::new(between)?, SeccompRule::new(above)?])
}

fn rule(argument: u8, operator: SeccompCmpOp, value: u64) -> Made<SeccompRule> {
    Ok(SeccompRule::new(vec![condition(argument, operator, value)?])?)
}

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Made<SeccompCondition> {
    // The kernel looks at 32 bits of all that is compared here.
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Role, UserRange};

    #[test]
    fn every_filter_can_be_made() {
        for (vsock, seems_root) in [(false, true), (true, false)] {
            let user = UserRange::default().of_process(1, Role::Qemu);
            let jail = Jail { vsock, seems_root, ..Jail::new(user, "/".into()) };
            let made = filters(&jail).unwrap();
            assert_eq!(made.len(), if seems_root { 3 } else { 2 });
            assert!(made.iter().all(|filter| filter.len() >= UNKNOWN.len()));
        }
    }
}
