//! The process, of a container or of an exec.

use std::collections::HashSet;

use agent_client::proto::oci;
use oci_spec::runtime::{Capability, LinuxCapabilities, PosixRlimit, PosixRlimitType, Process, User};
use protobuf::MessageField;

/// Translates a process; what the guest cannot be told is left out and noted.
pub fn process(from: &Process, notes: &mut Vec<String>) -> oci::Process {
    let mut note = |present: bool, what: &str| {
        if present {
            notes.push(format!("process.{what} left out: not in the agent's contract"));
        }
    };
    note(from.user().umask().is_some(), "user.umask");
    note(from.io_priority().is_some(), "ioPriority");
    note(from.scheduler().is_some(), "scheduler");
    note(from.exec_cpu_affinity().is_some(), "execCPUAffinity");
    if from.apparmor_profile().as_ref().is_some_and(|profile| !profile.is_empty()) {
        notes.push("process.apparmorProfile left out: profiles are the host's".to_string());
    }
    if from.selinux_label().as_ref().is_some_and(|label| !label.is_empty()) {
        notes.push("process.selinuxLabel left out: labels are the host's".to_string());
    }

    let rlimits = from.rlimits().iter().flatten().map(|limit| rlimit(limit, notes)).collect();
    oci::Process {
        Terminal: from.terminal().unwrap_or_default(),
        ConsoleSize: from
            .console_size()
            .map(|size| oci::Box {
                Height: saturate(size.height()),
                Width: saturate(size.width()),
                ..Default::default()
            })
            .into(),
        User: MessageField::some(user(from.user())),
        Args: from.args().clone().unwrap_or_default(),
        Env: from.env().clone().unwrap_or_default(),
        Cwd: from.cwd().display().to_string(),
        // The agent refuses a process without; none at all is what an absent set comes to.
        Capabilities: MessageField::some(from.capabilities().as_ref().map(capabilities).unwrap_or_default()),
        Rlimits: rlimits,
        NoNewPrivileges: from.no_new_privileges().unwrap_or_default(),
        OOMScoreAdj: from.oom_score_adj().map_or(0, i64::from),
        ..Default::default()
    }
}

fn saturate(cells: u64) -> u32 {
    u32::try_from(cells).unwrap_or(u32::MAX)
}

fn user(from: &User) -> oci::User {
    oci::User {
        UID: from.uid(),
        GID: from.gid(),
        AdditionalGids: from.additional_gids().clone().unwrap_or_default(),
        Username: from.username().clone().unwrap_or_default(),
        ..Default::default()
    }
}

/// What a kernel takes at most as RLIMIT_NOFILE unless told otherwise (`sysctl_nr_open` in its `fs/file.c`). Hosts have it
/// raised, by systemd for one, and engines pass their own limit on.
const MOST_FILES: u64 = 1 << 20;

fn rlimit(from: &PosixRlimit, notes: &mut Vec<String>) -> oci::POSIXRlimit {
    let most = if from.typ() == PosixRlimitType::RlimitNofile { MOST_FILES } else { u64::MAX };
    if from.hard() > most {
        notes.push(format!("process.rlimits: RLIMIT_NOFILE of {} is {most}, the guest's most", from.hard()));
    }
    oci::POSIXRlimit {
        Type: from.typ().to_string(),
        Hard: from.hard().min(most),
        Soft: from.soft().min(most),
        ..Default::default()
    }
}

fn capabilities(from: &LinuxCapabilities) -> oci::LinuxCapabilities {
    oci::LinuxCapabilities {
        Bounding: names(from.bounding().as_ref()),
        Effective: names(from.effective().as_ref()),
        Inheritable: names(from.inheritable().as_ref()),
        Permitted: names(from.permitted().as_ref()),
        Ambient: names(from.ambient().as_ref()),
        ..Default::default()
    }
}

/// The kernel's names, in a fixed order: the set has none, and the guest's policy may compare.
fn names(set: Option<&HashSet<Capability>>) -> Vec<String> {
    let mut names: Vec<String> = set.into_iter().flatten().map(|cap| format!("CAP_{cap}")).collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(json: &str) -> (oci::Process, Vec<String>) {
        let mut notes = Vec::new();
        let from: Process = serde_json::from_str(json).unwrap();
        (process(&from, &mut notes), notes)
    }

    #[test]
    fn more_open_files_than_the_guests_kernel_allows_are_as_many_as_it_does() {
        let (process, notes) = translated(
            r#"{"user": {"uid": 0, "gid": 0}, "cwd": "/", "rlimits": [
                {"type": "RLIMIT_NOFILE", "hard": 1073741816, "soft": 1024},
                {"type": "RLIMIT_CORE", "hard": 18446744073709551615, "soft": 18446744073709551615}]}"#,
        );
        let limits: Vec<_> = process.Rlimits.iter().map(|limit| (limit.Hard, limit.Soft)).collect();
        assert_eq!(limits, [(1 << 20, 1024), (u64::MAX, u64::MAX)]);
        assert!(notes.len() == 1 && notes[0].contains("1073741816"), "{notes:?}");
    }

    #[test]
    fn what_the_guest_understands_is_kept() {
        let (process, notes) = translated(
            r#"{"terminal": true, "consoleSize": {"height": 24, "width": 80},
                "user": {"uid": 1000, "gid": 100, "additionalGids": [10, 20], "username": "app"},
                "args": ["sh", "-c", "id"], "env": ["A=b"], "cwd": "/srv", "noNewPrivileges": true, "oomScoreAdj": -997,
                "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 4096, "soft": 1024}],
                "capabilities": {"bounding": ["CAP_SYS_PTRACE", "CAP_CHOWN"]}}"#,
        );
        assert!(process.Terminal && process.NoNewPrivileges);
        assert_eq!((process.ConsoleSize.Height, process.ConsoleSize.Width), (24, 80));
        assert_eq!((process.User.UID, process.User.GID), (1000, 100));
        assert_eq!(process.User.AdditionalGids, [10, 20]);
        assert_eq!(process.Cwd, "/srv");
        assert_eq!(process.OOMScoreAdj, -997);
        assert_eq!(process.Rlimits[0].Type, "RLIMIT_NOFILE");
        assert_eq!(process.Capabilities.Bounding, ["CAP_CHOWN", "CAP_SYS_PTRACE"]);
        assert_eq!(notes, Vec::<String>::new());
    }

    #[test]
    fn what_it_does_not_is_noted() {
        let (process, notes) = translated(
            r#"{"user": {"uid": 0, "gid": 0, "umask": 63}, "args": ["x"], "cwd": "/",
                "apparmorProfile": "cri-containerd.apparmor.d", "selinuxLabel": "system_u:system_r:container_t:s0"}"#,
        );
        assert_eq!(notes.len(), 3, "{notes:?}");
        assert!(process.Capabilities.is_some(), "the agent insists");
        assert_eq!((process.ApparmorProfile, process.SelinuxLabel), (String::new(), String::new()));
    }
}
