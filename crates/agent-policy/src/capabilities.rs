//! Capabilities: what a container gets on the ground of the engine's usual ones, and which system calls go with them.

use std::collections::BTreeSet;

use pod_manifest::spec::Capabilities;

use crate::PolicyError;

/// What containerd gives a container that asks for nothing (`pkg/oci/spec.go`).
const CONTAINERD: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// What CRI-O gives it (`internal/config/capabilities`).
const CRIO: [&str; 9] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETGID", "SETPCAP", "SETUID"];
/// The other capabilities of Linux (`linux/capability.h`, up to 40).
const EVERY_OTHER: [&str; 27] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "DAC_READ_SEARCH",
    "IPC_LOCK",
    "IPC_OWNER",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "NET_ADMIN",
    "NET_BROADCAST",
    "PERFMON",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// System calls that containerd's filter allows with a capability (`contrib/seccomp/seccomp_default.go`).
const CALLS: [(&str, &[&str]); 14] = [
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
    (
        "CAP_SYS_ADMIN",
        &[
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    ("CAP_SYS_BOOT", &["reboot"]),
    ("CAP_SYS_CHROOT", &["chroot"]),
    ("CAP_SYS_MODULE", &["delete_module", "finit_module", "init_module"]),
    ("CAP_SYS_PACCT", &["acct"]),
    (
        "CAP_SYS_PTRACE",
        &["kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace"],
    ),
    ("CAP_SYS_RAWIO", &["ioperm", "iopl"]),
    ("CAP_SYS_TIME", &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    ("CAP_SYS_TTY_CONFIG", &["vhangup"]),
    ("CAP_SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    ("CAP_SYSLOG", &["syslog"]),
    ("CAP_BPF", &["bpf"]),
    ("CAP_PERFMON", &["perf_event_open"]),
];

/// The sets that the engines come to, each under the kernel's names and sorted.
///
/// # Errors
/// [`PolicyError::Capability`]: engines put `CAP_` before whatever is there, so that a name with it, or one that Linux has
/// not, would be neither given nor taken away.
pub(crate) fn sets(container: &str, asked: &Capabilities) -> Result<BTreeSet<Vec<String>>, PolicyError> {
    let is_known = |name: &&String| {
        let upper = name.to_ascii_uppercase();
        upper == "ALL" || CONTAINERD.iter().chain(&EVERY_OTHER).any(|known| *known == upper)
    };
    if let Some(name) = asked.add.iter().chain(&asked.drop).find(|name| !is_known(name)) {
        return Err(PolicyError::Capability { container: container.to_owned(), name: name.clone() });
    }
    Ok([set(&CONTAINERD, asked), set(&CRIO, asked)].into())
}

/// As containerd computes them: `ALL` first, then one by one, dropped after added.
fn set(usual: &[&str], asked: &Capabilities) -> Vec<String> {
    let name = |name: &String| name.to_ascii_uppercase();
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let texts = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut set: BTreeSet<String> = texts(usual).into_iter().collect();
    if asked.add.iter().any(is_all) {
        set.extend(texts(&CONTAINERD));
        set.extend(texts(&EVERY_OTHER));
    }
    if asked.drop.iter().any(is_all) {
        set.clear();
    }
    set.extend(asked.add.iter().filter(|name| !is_all(name)).map(name));
    for dropped in asked.drop.iter().filter(|name| !is_all(name)).map(name) {
        set.remove(&dropped);
    }
    set.into_iter().map(|name| format!("CAP_{name}")).collect()
}

/// The system calls that come with any of these.
pub(crate) fn calls(sets: &BTreeSet<Vec<String>>) -> BTreeSet<&'static str> {
    let has = |name: &str| sets.iter().flatten().any(|capability| capability == name);
    CALLS.iter().filter(|(name, _)| has(name)).flat_map(|(_, calls)| calls.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(add: &[&str], drop: &[&str]) -> Vec<Vec<String>> {
        let texts = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        sets("c", &Capabilities { add: texts(add), drop: texts(drop) }).unwrap().into_iter().collect()
    }

    #[test]
    fn capabilities_are_the_engines() {
        assert_eq!(of(&[], &[]).iter().map(Vec::len).collect::<Vec<_>>(), [14, 9]);
        assert_eq!(of(&["NET_BIND_SERVICE"], &["ALL"]), [["CAP_NET_BIND_SERVICE"]]);
        assert_eq!(of(&[], &["all"]), [Vec::<String>::new()]);
        assert_eq!(of(&["ALL"], &[])[0].len(), 41);
        assert!(of(&["sys_ptrace"], &[])[0].contains(&"CAP_SYS_PTRACE".to_owned()));
        for name in ["CAP_SYS_PTRACE", "SYS_FOO", ""] {
            let asked = Capabilities { add: vec![], drop: vec![name.into()] };
            assert!(
                matches!(sets("c", &asked), Err(PolicyError::Capability { name: n, .. }) if n == name),
                "{name}"
            );
        }
        assert!(!of(&[], &["KILL"]).iter().flatten().any(|name| name == "CAP_KILL"));
    }

    #[test]
    fn system_calls_come_with_them() {
        let of = |add: &str| {
            calls(&sets("c", &Capabilities { add: vec![add.into()], drop: vec!["ALL".into()] }).unwrap())
        };
        assert_eq!(of("SYS_CHROOT"), ["chroot"].into());
        assert!(of("SYS_ADMIN").contains("mount") && of("CHOWN").is_empty());
    }
}
