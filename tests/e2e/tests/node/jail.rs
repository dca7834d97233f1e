//! QEMU and its helper run without root and see nothing of the host.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use e2e::{BUSYBOX, OrFail, Process, Run, Victim, e2e, fixture, processes};

const FOREVER: [&str; 2] = ["sleep", "100000"];
/// The first user that `coffer config` names for `qemu_users`.
const FIRST_USER: u32 = 0x7000_0000;
/// So many processes a host can have (`PID_MAX_LIMIT`, include/linux/threads.h).
const PROCESSES: u32 = 4 << 20;

fn status(process: &Process, field: &str) -> String {
    let path = format!("/proc/{}/status", process.pid);
    let text = fs::read_to_string(&path).or_fail(path);
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).or_fail(field);
    line.trim().to_owned()
}

fn one(victim: Victim) -> Process {
    victim.processes().into_iter().next().or_fail(format!("{victim:?}"))
}

fn namespace(pid: i32, kind: &str) -> String {
    let link = format!("/proc/{pid}/ns/{kind}");
    fs::read_link(&link).or_fail(link).display().to_string()
}

fn names(directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).or_fail(directory).flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// What holds for every jailed process; returns its user. `part` is which of the range's three parts that is in.
fn is_jailed(process: &Process, part: u32) -> u32 {
    let shim = one(Victim::Shim);
    let users = status(process, "Uid");
    let user: u32 = users.split_whitespace().next().or_fail("a user").parse().or_fail("a user");
    assert_eq!(user, FIRST_USER + part * PROCESSES + shim.pid.unsigned_abs(), "the user is the shim's own");
    let four = [user.to_string(), user.to_string(), user.to_string(), user.to_string()].join("\t");
    assert_eq!((users.as_str(), status(process, "Gid").as_str()), (four.as_str(), four.as_str()));
    assert_eq!(status(process, "Groups"), "");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(process, set), "0000000000000000", "{set}");
    }
    assert_eq!(status(process, "NoNewPrivs"), "1");
    assert_eq!(status(process, "Seccomp"), "2");
    assert_eq!(
        status(process, "NSpid").split_whitespace().last(),
        Some("1"),
        "the only process that it sees"
    );
    for kind in ["mnt", "net", "ipc", "uts", "pid"] {
        assert_ne!(namespace(process.pid, kind), namespace(shim.pid, kind), "{kind}");
    }
    let limits = fs::read_to_string(format!("/proc/{}/limits", process.pid)).or_fail("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).or_fail("limits");
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    user
}

#[test]
fn qemu_and_the_vsock_program_are_nobody_on_the_host() {
    e2e(async |_| {
        let container = Run::new("jailed", BUSYBOX, &FOREVER).start().await;
        let qemu = one(Victim::Qemu);
        let user = is_jailed(&qemu, 0);
        // Of the two filters of the jail, and QEMU's own.
        assert_eq!(status(&qemu, "Seccomp_filters"), "3");
        for helper in Victim::VsockDevice.processes() {
            assert_ne!(is_jailed(&helper, 1), user);
        }

        // Its root: programs and libraries, its files, and nothing that another program left there.
        let root = format!("/proc/{}/root", qemu.pid);
        let image = e2e::Artefacts::find().image;
        let first = image.components().nth(1).or_fail("a path").as_os_str().to_string_lossy().into_owned();
        let mut known: BTreeSet<String> =
            ["bin", "dev", "etc", "lib", "lib64", "sbin", "usr", "vm"].map(str::to_owned).into();
        known.insert(first);
        let found = names(&root);
        assert!(found.is_subset(&known), "{found:?}");
        assert_eq!(names(&format!("{root}/etc")), ["ld.so.cache".to_owned()].into());
        let harmless = ["null", "random", "urandom", "zero"].map(str::to_owned);
        let nodes: BTreeSet<String> =
            names(&format!("{root}/dev")).into_iter().filter(|name| name != "kvm").collect();
        assert_eq!(nodes, harmless.into());
        assert_eq!(fs::metadata(format!("{root}/vm")).or_fail("/vm").uid(), user);
        let writable = fs::read_to_string(format!("/proc/{}/mountinfo", qemu.pid)).or_fail("mountinfo");
        let writable: Vec<&str> = writable
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .filter(|words| words[5].split(',').any(|option| option == "rw"))
            .map(|words| words[4])
            .collect();
        let known = ["/vm", "/vm/vhost.sock"];
        assert!(
            writable.contains(&"/vm") && writable.iter().all(|path| known.contains(path)),
            "{writable:?}"
        );

        // Files of the host come by descriptor, and none can be written to.
        let fds = fs::read_dir(format!("/proc/{}/fd", qemu.pid)).or_fail("fd").flatten();
        for fd in fds {
            let target = fs::read_link(fd.path()).or_fail("a descriptor");
            let allowed = ["socket:", "pipe:", "anon_inode:", "/memfd:", "/dev/"];
            let known = allowed.iter().any(|kind| target.to_string_lossy().starts_with(kind));
            if !known {
                let info = Path::new("/proc").join(qemu.pid.to_string()).join("fdinfo").join(fd.file_name());
                let info = fs::read_to_string(info).or_fail("fdinfo");
                let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).or_fail("flags");
                let flags = u32::from_str_radix(flags.trim(), 8).or_fail("flags");
                assert_eq!(flags & 3, 0, "{} is open for writing", target.display());
            }
        }
        container.remove().await;
    });
}

#[test]
fn two_sandboxes_have_two_users() {
    e2e(async |_| {
        let one = Run::new("first", BUSYBOX, &FOREVER).start().await;
        let two = Run::new("second", BUSYBOX, &FOREVER).start().await;
        let users: BTreeSet<String> =
            Victim::Qemu.processes().iter().map(|process| status(process, "Uid")).collect();
        assert_eq!(users.len(), 2, "{users:?}");
        one.remove().await;
        two.remove().await;
    });
}

#[test]
fn whoever_takes_qemu_over_gets_nowhere() {
    e2e(async |rig| {
        let neighbour = Run::new("neighbour", BUSYBOX, &FOREVER).start().await;
        // Everybody: containerd, the neighbour's shim, its QEMU and its vsock program.
        let others: Vec<i32> = processes().iter().map(|process| process.pid).collect();
        assert!(others.len() >= 4, "{others:?}");
        let script = fs::read_to_string(fixture("fake-qemu-escapes")).or_fail("the fixture");
        let script = script.replace("OTHERS = []", &format!("OTHERS = {others:?}"));
        assert!(script.contains(&others[0].to_string()));
        let program = Path::new("/run/e2e/fake-qemu-escapes");
        fs::write(program, script).or_fail("a program");
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).or_fail("a program");
        let config = rig.config().path("qemu", program).write("escapes");
        let refused = Run::new("escapes", BUSYBOX, &FOREVER).config(&config).refused().await;
        refused.failed_with(&["fake-qemu-escapes: tried ", "worked: nothing"]);
        neighbour.remove().await;
    });
}

#[test]
fn a_file_that_qemus_user_may_not_read_is_named() {
    e2e(async |rig| {
        let directory = Path::new("/run/e2e/unreadable-image");
        fs::create_dir_all(directory).or_fail("a directory");
        for entry in fs::read_dir(e2e::Artefacts::find().image).or_fail("the image").flatten() {
            fs::copy(entry.path(), directory.join(entry.file_name())).or_fail("a copy of the image");
            let mode = fs::Permissions::from_mode(0o600);
            fs::set_permissions(directory.join(entry.file_name()), mode).or_fail("a mode");
        }
        let config = rig.config().path("image", directory).write("unreadable");
        let refused = Run::new("unreadable", BUSYBOX, &FOREVER).config(&config).refused().await;
        refused.failed_with(&["unreadable-image/", "chmod o+r"]);
        fs::remove_dir_all(directory).or_fail("remove the copy");
    });
}
