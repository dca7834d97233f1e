//! The seccomp filter.

use agent_client::proto::oci;
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSyscall};

/// What a filtered system call fails with where the filter does not say: `EPERM`, as runc has it.
/// It must be spelled out, for an absent number is zero, "success", to the agent.
const DEFAULT_ERRNO: u32 = 1;

pub(crate) fn seccomp(from: &LinuxSeccomp, notes: &mut Vec<String>) -> oci::LinuxSeccomp {
    if from.listener_path().is_some() {
        notes.push("seccomp.listenerPath left out: the listener is on the host".to_string());
    }
    if from.default_errno_ret().is_some_and(|errno| errno != DEFAULT_ERRNO) {
        notes.push("seccomp.defaultErrnoRet left out: the agent always takes EPERM".to_string());
    }
    oci::LinuxSeccomp {
        DefaultAction: from.default_action().to_string(),
        Architectures: from.architectures().iter().flatten().map(ToString::to_string).collect(),
        Flags: from.flags().iter().flatten().map(ToString::to_string).collect(),
        Syscalls: from.syscalls().iter().flatten().map(syscall).collect(),
        ..Default::default()
    }
}

fn syscall(from: &LinuxSyscall) -> oci::LinuxSyscall {
    oci::LinuxSyscall {
        Names: from.names().clone(),
        Action: from.action().to_string(),
        errnoret: from.errno_ret().unwrap_or(DEFAULT_ERRNO),
        Args: from.args().iter().flatten().map(argument).collect(),
        ..Default::default()
    }
}

fn argument(from: &LinuxSeccompArg) -> oci::LinuxSeccompArg {
    oci::LinuxSeccompArg {
        Index: from.index() as u64,
        Value: from.value(),
        ValueTwo: from.value_two().unwrap_or_default(),
        Op: from.op().to_string(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_arrives_in_the_specs_own_words() {
        let from: LinuxSeccomp = serde_json::from_str(
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"],
                "flags": ["SECCOMP_FILTER_FLAG_LOG"],
                "syscalls": [{"names": ["personality"], "action": "SCMP_ACT_ALLOW",
                              "args": [{"index": 0, "value": 8, "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ"}]},
                             {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
                             {"names": ["bpf"], "action": "SCMP_ACT_ERRNO"}]}"#,
        )
        .unwrap();
        let mut notes = Vec::new();
        let filter = seccomp(&from, &mut notes);
        assert_eq!(filter.DefaultAction, "SCMP_ACT_ERRNO");
        assert_eq!(filter.Architectures, ["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"]);
        assert_eq!(filter.Flags, ["SECCOMP_FILTER_FLAG_LOG"]);
        assert_eq!(filter.Syscalls[0].Action, "SCMP_ACT_ALLOW");
        let arg = &filter.Syscalls[0].Args[0];
        assert_eq!((arg.Value, arg.ValueTwo, arg.Op.as_str()), (8, 3, "SCMP_CMP_MASKED_EQ"));
        assert_eq!(filter.Syscalls[1].errnoret, 38);
        assert_eq!(filter.Syscalls[2].errnoret, 1);
        assert_eq!(notes, Vec::<String>::new());
    }
}
