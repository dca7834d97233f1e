//! Known sayings of kernels and of QEMU, and what an operator should make of them.

/// What the last lines of the guest's console and of QEMU's stderr mean, where that is known: one clause that says
/// what happened and what to do.
pub fn diagnose(console: &[String], stderr: &[String]) -> Option<&'static str> {
    let said = |lines: &[String], needle: &str| lines.iter().any(|line| line.contains(needle));
    CONSOLE
        .iter()
        .find(|(needle, _)| said(console, needle))
        .or_else(|| STDERR.iter().find(|(needle, _)| said(stderr, needle)))
        .map(|(_, meaning)| *meaning)
}

/// Sayings of the guest's kernel and of its init, the more specific ones first.
const CONSOLE: &[(&str, &str)] = &[
    (
        "device-mapper: verity",
        "the guest refused its root image: its dm-verity hash is not the one on the kernel command line; \
         reinstall the guest image that the key `image` names",
    ),
    (
        "device-mapper: table: 253:0: verity",
        "the guest refused its root image: its dm-verity hash is not the one on the kernel command line; \
         reinstall the guest image that the key `image` names",
    ),
    (
        "Unable to mount root fs",
        "the guest's kernel cannot mount its root image; reinstall the guest image that the key `image` names",
    ),
    ("Out of memory: Killed process", "the guest ran out of memory; raise the pod's memory limit"),
    (
        "System is deadlocked on memory",
        "the guest's kernel has too little memory to start; raise `overhead_memory_mib` or the pod's limit",
    ),
];

/// Sayings of QEMU.
const STDERR: &[(&str, &str)] = &[
    (
        "cannot set up guest memory",
        "the host cannot give the VM its memory; free some, or lower the pod's memory limit",
    ),
    (
        "Unrecoverable error detected",
        "a GPU reported a fatal bus error or fell off its bus; see the host kernel's log",
    ),
    (
        "VFIO_MAP_DMA failed",
        "the kernel does not lock the VM's memory for its GPUs; set LimitMEMLOCK=infinity",
    ),
    ("Could not access KVM kernel module", "KVM is not usable; load its module, or set `accel = \"tcg\"`"),
    ("KVM internal error", "this host's KVM cannot run the guest; set `accel = \"tcg\"`"),
    ("Failed to get \"write\" lock", "another process holds the image file; end it first"),
    ("No space left on device", "a file system on the host is full; make room on it"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_wrong_verity_hash_is_recognised_before_its_consequence() {
        let console = lines(
            "device-mapper: verity: 254:0: metadata block 5632 is corrupted\n\
             Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(253,0)",
        );
        assert!(diagnose(&console, &[]).unwrap().contains("dm-verity hash"));
    }

    #[test]
    fn qemu_is_heard_where_the_guest_says_nothing() {
        let stderr = lines("qemu-system-x86_64: cannot set up guest memory 'ram': Cannot allocate memory");
        assert!(diagnose(&[], &stderr).unwrap().contains("memory limit"));
    }

    #[test]
    fn the_unknown_stays_unknown() {
        assert_eq!(diagnose(&lines("hello"), &lines("warning: foo")), None);
    }
}
