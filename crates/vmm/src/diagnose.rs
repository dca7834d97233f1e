//! Known sayings of kernels and of QEMU, and what an operator should make of them.

/// What the last lines of the guest's console and of QEMU's stderr mean, where that is known: one clause that says
/// what happened and what to do.
pub(crate) fn diagnose(console: &[String], stderr: &[String]) -> Option<&'static str> {
    let said = |lines: &[String], needle: &str| lines.iter().any(|line| line.contains(needle));
    CONSOLE
        .iter()
        .find(|(needle, _)| said(console, needle))
        .or_else(|| TEE.iter().chain(STDERR).find(|(needle, _)| said(stderr, needle)))
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

/// QEMU's refusals of a confidential VM: words of QEMU 11.1 up to the first number in them (`target/i386/sev.c`,
/// `target/i386/kvm/tdx.c`, `hw/i386/pc.c`). The processor's firmware speaks through the last clause of SNP_LAUNCH_*
/// (`sev_fw_errlist`).
const TEE: &[(&str, &str)] = &[
    (
        "cbitpos check failed, host '",
        "QEMU reads another encryption bit from the processor than Coffer did (CPUID leaf 8000_001F, EBX): something on \
         this host changes what CPUID says, such as a hypervisor below it; `coffer doctor` shows what QEMU reads",
    ),
    (
        "reduced_phys_bits check failed, it should be in the range",
        "QEMU does not take the number of address bits that encryption costs (CPUID leaf 8000_001F, EBX): something on \
         this host changes what CPUID says, such as a hypervisor below it; `coffer doctor` shows what QEMU reads",
    ),
    (
        "TDX requires guest CPU physical bits (",
        "TDX takes no guest whose physical addresses are shorter or longer than the host's: QEMU's host-phys-bits must \
         not be limited (host-phys-bits-limit) by a wrapper or a configuration of QEMU's own",
    ),
    (
        "Address space limit 0x",
        "the VM's memory and its GPUs' windows reach beyond the processor's physical addresses; give the pod less memory \
         or fewer GPUs, or take a host with longer addresses (`address sizes` in /proc/cpuinfo)",
    ),
    (
        "SNP_LAUNCH_START ret=",
        "the secure processor refuses to begin the guest; where it says that the policy is not allowed, its firmware does \
         not know a restriction of `snp_policy`, or this host does not fulfil it",
    ),
    (
        "SNP_LAUNCH_FINISH ret=",
        "the secure processor refuses the finished guest: the ID block in `snp_id_blocks` is for another guest or \
         wrongly signed; make it anew with `coffer measure id-block`",
    ),
    (
        "VMSA contains unsupported sev_features",
        "the host's kernel does not have a SEV feature that the guest is to have; boot a newer one",
    ),
    (
        "host kernel does not support the requested SEV configuration",
        "KVM makes no SEV-SNP guests here; `coffer doctor` says what is missing",
    ),
    (
        "guest firmware has no hashes table GUID",
        "the firmware cannot check the kernel; set `firmware` to an AmdSev build of OVMF",
    ),
    (
        "failed to parse TDVF for TDX VM",
        "the firmware is none for TDX; set `firmware` to a build of OVMF for TDX",
    ),
    (
        "Hardware RNG (Random Number Generator) is busy",
        "the TDX module got no random numbers: other programs drain the processor's generator (RDRAND, RDSEED); find and \
         stop them",
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
    fn another_encryption_bit_than_the_processors_is_named() {
        for said in [
            "qemu-system-x86_64: sev_common_kvm_init: cbitpos check failed, host '51' requested '47'",
            "qemu-system-x86_64: sev_common_kvm_init: reduced_phys_bits check failed, it should be in the range of 1 to \
             63, requested '0'",
        ] {
            let meaning = diagnose(&[], &lines(said)).unwrap();
            assert!(meaning.contains("8000_001F") && meaning.contains("coffer doctor"), "{meaning}");
        }
    }

    #[test]
    fn addresses_of_another_length_are_named() {
        let said = "qemu-system-x86_64: TDX requires guest CPU physical bits (46) to match host CPU physical bits (52)";
        let meaning = diagnose(&[], &lines(said)).unwrap();
        assert!(meaning.contains("host-phys-bits-limit"), "{meaning}");
        let said =
            "qemu-system-x86_64: Address space limit 0x7fffffffff < 0x480000000000 phys-bits too low (39)";
        let meaning = diagnose(&[], &lines(said)).unwrap();
        assert!(meaning.contains("fewer GPUs"), "{meaning}");
    }

    #[test]
    fn the_secure_processors_refusal_names_policy_or_id_block() {
        let said = "qemu-system-x86_64: sev_snp_launch_start: SNP_LAUNCH_START ret=-5 fw_error=7 'Policy is not allowed'";
        assert!(diagnose(&[], &lines(said)).unwrap().contains("`snp_policy`"));
        let said = "qemu-system-x86_64: SNP_LAUNCH_FINISH ret=-5 fw_error=11 'Bad measurement'";
        assert!(diagnose(&[], &lines(said)).unwrap().contains("`snp_id_blocks`"));
    }

    /// The texts are formats in the program of the tests' Debian root; a QEMU that says it otherwise fails here.
    #[test]
    fn qemu_has_these_words() {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../../build/forky/usr/bin/qemu-system-x86_64");
        let Ok(program) = std::fs::read(program) else {
            let required = std::env::var_os("COFFER_REQUIRE_FIRMWARE").is_some_and(|value| value == "1");
            assert!(!required, "{program} is not there: run tools/forky-root");
            return;
        };
        for (needle, _) in TEE {
            let found = program.windows(needle.len()).any(|window| window == needle.as_bytes());
            assert!(found, "QEMU does not say {needle:?}");
        }
    }

    #[test]
    fn the_unknown_stays_unknown() {
        assert_eq!(diagnose(&lines("hello"), &lines("warning: foo")), None);
    }
}
