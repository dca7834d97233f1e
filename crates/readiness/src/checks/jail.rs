//! The jail of QEMU and its helpers: what it is built of, whose numbers its users have, and what they can read.

use jail::{USERS, UserRange};
use vmm_config::image::ImageManifest;

use crate::check::{Fault, Finding, Step};
use crate::host::Host;

pub(super) const JAIL: Step = Step { name: "jail", title: "QEMU's jail", run: kernel, then: &[RANGE, FILES] };

const RANGE: Step = Step { name: "jail.users", title: "users of the jail", run: users, then: &[] };

const FILES: Step = Step { name: "jail.files", title: "files for the jail", run: files, then: &[] };

/// Names in `/proc/self/ns`, each with the option of the kernel that it comes with.
const NAMESPACES: [(&str, &str); 5] = [
    ("ipc", "CONFIG_IPC_NS"),
    ("mnt", "CONFIG_NAMESPACES"),
    ("net", "CONFIG_NET_NS"),
    ("pid", "CONFIG_PID_NS"),
    ("uts", "CONFIG_UTS_NS"),
];
/// What seccomp can do, where the kernel has its filters.
const SECCOMP: &str = "/proc/sys/kernel/seccomp/actions_avail";
/// Accounts, and their users or groups: the third field is a number.
const ACCOUNTS: [(&str, &str); 2] = [("/etc/passwd", "user"), ("/etc/group", "group")];
/// Numbers that accounts give to their containers: the second field is the first one, the third says how many.
const RANGES: [&str; 2] = ["/etc/subuid", "/etc/subgid"];

fn kernel(host: &Host<'_>) -> Finding {
    let missing = NAMESPACES.iter().filter(|(name, _)| !host.root.exists(&format!("/proc/self/ns/{name}")));
    let mut missing: Vec<&str> = missing.map(|(_, option)| *option).collect();
    let actions = host.root.text(SECCOMP).ok().flatten().unwrap_or_default();
    if !actions.split_ascii_whitespace().any(|action| action == "errno") {
        missing.push("CONFIG_SECCOMP_FILTER");
    }
    if missing.is_empty() {
        return Finding::Ok("namespaces and filters of system calls".to_owned());
    }
    let fix = "use a kernel that was built with them, as every distribution's is; QEMU is not started without its jail";
    Finding::failed(Fault::Kernel, format!("the kernel has no {}", missing.join(", ")), fix)
}

/// Whether an account, or what it may give out, has one of the numbers.
fn users(host: &Host<'_>) -> Finding {
    let range = host.config().qemu_users;
    let (first, last) = (u64::from(range.first()), u64::from(range.first()) + u64::from(USERS) - 1);
    let mut taken = Vec::new();
    for (file, kind) in ACCOUNTS {
        for (name, fields) in entries(host, file) {
            let number = fields.get(1).and_then(|number| number.parse().ok());
            if number.is_some_and(|number: u64| (first..=last).contains(&number)) {
                taken.push(format!("{kind} {name} of {file}"));
            }
        }
    }
    for file in RANGES {
        for (name, fields) in entries(host, file) {
            let number = |at: usize| fields.get(at).and_then(|number| number.parse::<u64>().ok());
            if let (Some(begin), Some(count)) = (number(0), number(1))
                && begin <= last
                && begin.saturating_add(count) > first
            {
                taken.push(format!("{name}'s numbers from {begin} on in {file}"));
            }
        }
    }
    match taken.len() {
        0 => Finding::Ok(format!("{first} to {last}")),
        found => {
            let more = if found > 1 { format!(", and {} more", found - 1) } else { String::new() };
            let evidence =
                format!("the numbers {first} to {last} are not only the jail's: {}{more}", taken[0]);
            let fix = format!(
                "set `qemu_users` in the node's configuration to the first of {USERS} numbers that nobody has{}",
                if range == UserRange::default() { "" } else { ", or remove it for the default" }
            );
            Finding::warning(Fault::Setup, evidence, fix)
        }
    }
}

/// The entries of a file as passwd(5) has them: the name, and the fields after it.
fn entries(host: &Host<'_>, file: &str) -> Vec<(String, Vec<String>)> {
    let text = host.root.text(file).ok().flatten().unwrap_or_default();
    let entry = |line: &str| {
        let mut fields = line.split(':').map(|field| field.trim().to_owned());
        Some((fields.next()?, fields.collect()))
    };
    text.lines().filter(|line| !line.starts_with('#')).filter_map(entry).collect()
}

/// QEMU's user is nobody, and has what everybody may read. What is not there is another check's.
fn files(host: &Host<'_>) -> Finding {
    let config = host.config();
    let mut files: Vec<(String, u32)> = Vec::new();
    let image = config.image.as_str();
    let manifest = host.root.bytes(&format!("{image}/image.json"), 1 << 20).ok().flatten();
    if let Some(Ok(manifest)) = manifest.map(|json| ImageManifest::parse(&json)) {
        files.extend(
            [&manifest.kernel.file, &manifest.root.file]
                .map(|file| (format!("{image}/{}", file.as_str()), 0o4)),
        );
    }
    files.extend(config.firmware.iter().map(|firmware| (firmware.as_str().to_owned(), 0o4)));
    for program in [config.qemu.as_str(), config.vhost_device_vsock.as_str(), "mkfs.erofs"] {
        files.extend(host.program(program).map(|path| (path.display().to_string(), 0o5)));
    }
    if files.is_empty() {
        return Finding::NotApplicable("there are none yet".to_owned());
    }
    let barred = files
        .iter()
        .filter(|(path, wanted)| host.root.mode(path).is_some_and(|mode| mode & wanted != *wanted));
    let barred: Vec<&(String, u32)> = barred.collect();
    let Some((path, wanted)) = barred.first() else {
        return Finding::Ok(format!("{} files, readable for everyone", files.len()));
    };
    let paths: Vec<&str> = barred.iter().map(|(path, _)| path.as_str()).collect();
    let rights = if *wanted == 0o5 { "o+rx" } else { "o+r" };
    let evidence = format!("not readable for everyone: {}", paths.join(", "));
    let more = if paths.len() > 1 { ", and so for the others" } else { "" };
    Finding::failed(Fault::Setup, evidence, format!("chmod {rights} {path}{more}"))
}
