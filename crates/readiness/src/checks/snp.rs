//! AMD SEV-SNP: from the CPU up to the secure processor.
//!
//! CPUID Fn8000_001F and MSRs: AMD64 Architecture Programmer's Manual, volumes 2 and 3. What the kernel demands:
//! `arch/x86/virt/svm/sev.c`, `drivers/iommu/amd/init.c`, `arch/x86/kvm/svm/sev.c` of Linux 6.11.

use std::io;

use measurement::ovmf::Kind;

use super::containerd::handler;
use super::tdx::{accepts, at_least, offers, vm_firmware};
use super::{qemu, vm};
use crate::check::{Ask, Class, Fault, Finding, Step};
use crate::host::{Host, is_on};
use crate::probe::SnpState;

/// The first kernel whose KVM starts SNP VMs.
const KERNEL: (u32, u32) = (6, 11);
/// `KVM_X86_SNP_VM` of asm/kvm.h.
const VM_TYPE: u32 = 4;

/// Family, model and stepping.
const SIGNATURE: u32 = 1;
const ENCRYPTION: u32 = 0x8000_001f;
const SYSCFG: u32 = 0xc001_0010;
const RMP_BASE: u32 = 0xc001_0132;
const RMP_END: u32 = 0xc001_0133;

const SEV: &str = "/dev/sev";
/// Oldest interface of the secure processor's firmware that KVM takes.
const API: (u8, u8) = (1, 51);

pub(super) const SNP: Step = Step {
    name: "snp",
    title: "AMD SEV-SNP: CPU",
    run: cpu,
    then: &[
        Step {
            name: "snp.firmware",
            title: "SNP: firmware's setup",
            run: firmware,
            then: &[Step {
                name: "snp.kernel",
                title: "SNP: kernel",
                run: kernel,
                then: &[Step {
                    name: "snp.iommu",
                    title: "SNP: IOMMU",
                    run: iommu,
                    then: &[Step {
                        name: "snp.module",
                        title: "SNP: kvm_amd",
                        run: module,
                        then: &[
                            Step {
                                name: "snp.device",
                                title: "SNP: /dev/sev",
                                run: device,
                                then: &[Step {
                                    name: "snp.platform",
                                    title: "SNP: secure processor",
                                    run: platform,
                                    then: &[],
                                }],
                            },
                            Step {
                                name: "snp.kvm",
                                title: "SNP: KVM's VM type",
                                run: |host| offers(host, VM_TYPE, "SNP"),
                                then: &[],
                            },
                        ],
                    }],
                }],
            }],
        },
        Step { name: "snp.qemu", title: "SNP: QEMU", run: emulator, then: &[] },
        Step {
            name: "snp.ovmf",
            title: "SNP: firmware of the VM",
            run: ovmf,
            then: &[Step {
                name: "snp.accept",
                title: "SNP: firmware leaves memory to the guest",
                run: |host| accepts(host, |firmware| firmware.snp_acceptance(), "edk2-stable202302"),
                then: &[],
            }],
        },
        Step {
            name: "snp.handler",
            title: "SNP: containerd's handler",
            run: |host| handler(host, Class::Snp),
            then: &[],
        },
    ],
};

/// What the shim asks before a start: no MSR, no process. An order in which the first failure is the cause.
pub(crate) const PREFLIGHT: [Ask; 7] = [
    ("AMD SEV-SNP: CPU", cpu),
    ("SNP: firmware's setup", firmware),
    ("SNP: kernel", kernel),
    ("SNP: IOMMU", iommu),
    ("SNP: kvm_amd", module),
    ("SNP: /dev/sev", device),
    ("KVM", vm::device),
];

pub(crate) fn cpu(host: &Host<'_>) -> Finding {
    let cpu = host.cpu();
    if cpu.vendor != "AuthenticAMD" {
        return Finding::NotApplicable(format!("the CPU is not AMD's ({})", cpu.vendor));
    }
    let fix = "use a server with EPYC 9004 (Genoa) or newer";
    match host.probe.cpuid(ENCRYPTION) {
        Some([eax, ..]) if eax >> 4 & 1 == 1 && host.probe.cpuid(SIGNATURE).is_some_and(is_milan) => {
            Finding::warning(
                Fault::Cpu,
                format!(
                    "{}: SNP, but a published attack by software has its processors' root seed (arXiv 2605.12990), so \
                     that anybody may sign reports of this generation",
                    cpu.model
                ),
                "use a server with EPYC 9004 (Genoa) or newer, and take no report of EPYC 7003 at the verifier",
            )
        }
        Some([eax, ebx, ecx, _]) if eax >> 4 & 1 == 1 => {
            let (cbit, reduced) = (ebx & 0x3f, ebx >> 6 & 0x3f);
            Finding::Ok(format!("{}: C-bit {cbit}, {reduced} address bits less, {ecx} keys", cpu.model))
        }
        _ if cpu.is_guest() => Finding::failed(
            Fault::Cpu,
            "this machine is itself a VM, and SNP starts VMs on hardware only",
            fix,
        ),
        Some(_) => Finding::failed(Fault::Cpu, format!("{} has SEV, and not SEV-SNP", cpu.model), fix),
        None => Finding::failed(Fault::Cpu, format!("{} does not encrypt memory", cpu.model), fix),
    }
}

/// Family 0x19, models 0 to 15 (AMD, "Processor Programming Reference", CPUID leaf 1 EAX): EPYC 7003.
fn is_milan([eax, ..]: [u32; 4]) -> bool {
    let (base, extended) = (eax >> 8 & 0xf, eax >> 20 & 0xff);
    let model = eax >> 4 & 0xf | eax >> 12 & 0xf0;
    base + extended == 0x19 && model < 0x10
}

fn firmware(host: &Host<'_>) -> Finding {
    let off = |evidence: &str, fix: &str| Finding::failed(Fault::Firmware, evidence, fix);
    // EDX is the lowest key id of a VM without encrypted registers; SNP's are below.
    if host.probe.cpuid(ENCRYPTION).is_some_and(|[_, _, _, edx]| edx <= 1) {
        return off(
            "no key ids are set apart for SEV-ES and SNP",
            "set \"SEV-ES ASID Space Limit\" in the firmware's setup above 1",
        );
    }
    let read =
        || Ok::<_, io::Error>((host.probe.msr(SYSCFG)?, host.probe.msr(RMP_BASE)?, host.probe.msr(RMP_END)?));
    match read() {
        Ok((syscfg, ..)) if syscfg >> 23 & 1 == 0 => {
            off("memory encryption is off (SYSCFG bit 23)", "switch on SMEE in the firmware's setup")
        }
        Ok((_, base, end)) if base == 0 || end <= base => off(
            "no memory is reserved for the RMP table",
            "switch on \"SNP Memory (RMP Table) Coverage\" in the firmware's setup",
        ),
        Ok((_, base, end)) => {
            Finding::Ok(format!("memory encryption on, RMP table of {} MiB", (end - base).div_ceil(1 << 20)))
        }
        Err(_) if module_on(host) => Finding::Ok("kvm_amd has SNP on".to_owned()),
        Err(error) => Finding::unknown(
            Fault::Setup,
            format!("MSRs cannot be read: {error}"),
            "run `coffer doctor` as root after `modprobe msr`",
        ),
    }
}

fn module_on(host: &Host<'_>) -> bool {
    host.parameter("kvm_amd", "sev_snp").is_some_and(|value| is_on(&value))
}

pub(crate) fn kernel(host: &Host<'_>) -> Finding {
    at_least(host, KERNEL, "SNP")
}

/// The kernel leaves SNP off unless the IOMMU translates by default.
pub(crate) fn iommu(host: &Host<'_>) -> Finding {
    let words = ["iommu=pt", "iommu.passthrough=1", "iommu=off", "amd_iommu=off"];
    if let Some(word) = host.booted_with(&words) {
        let fix = format!("boot without {word}");
        return Finding::failed(
            Fault::Kernel,
            format!("the kernel was booted with {word}, and leaves SNP off for that"),
            fix,
        );
    }
    match host.root.names("/sys/class/iommu") {
        names if names.is_empty() => Finding::failed(
            Fault::Firmware,
            "the kernel has found no IOMMU",
            "switch on the IOMMU in the firmware's setup",
        ),
        names => Finding::Ok(format!("{} units", names.len())),
    }
}

pub(crate) fn module(host: &Host<'_>) -> Finding {
    let path = "/sys/module/kvm_amd/parameters/sev_snp";
    if !host.root.exists("/sys/module/kvm_amd") {
        return Finding::failed(
            Fault::Kernel,
            "the module kvm_amd is not loaded",
            "modprobe kvm_amd sev_snp=1",
        );
    }
    match host.parameter("kvm_amd", "sev_snp") {
        Some(value) if is_on(&value) => Finding::Ok(format!("{path} is {value}")),
        Some(value) => Finding::failed(
            Fault::Kernel,
            format!("{path} is {value}"),
            "load kvm_amd with sev=1 sev_es=1 sev_snp=1; if it is, `dmesg | grep -iE 'sev|rmp'` says what stopped it",
        ),
        None => Finding::failed(
            Fault::Kernel,
            "kvm_amd has no parameter sev_snp: this kernel is built without SNP",
            "boot a kernel with CONFIG_KVM_AMD_SEV=y",
        ),
    }
}

pub(crate) fn device(host: &Host<'_>) -> Finding {
    match host.probe.open(&host.root.path(SEV)) {
        Ok(()) => Finding::Ok(format!("{SEV} can be opened")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Finding::failed(
            Fault::Kernel,
            format!("{SEV} is missing: the driver of the secure processor has not made it"),
            "modprobe ccp; `dmesg | grep ccp` says why if it stays missing",
        ),
        Err(error) => vm::barred(SEV, &error),
    }
}

fn platform(host: &Host<'_>) -> Finding {
    let update = "update the machine's firmware, or the secure processor's in /lib/firmware/amd";
    let status = match host.probe.snp_status(&host.root.path(SEV)) {
        Ok(status) => status,
        Err(error) => {
            let fix = "see `dmesg | grep -iE 'ccp|sev'`";
            return Finding::failed(
                Fault::Firmware,
                format!("it does not tell its SNP status: {error}"),
                fix,
            );
        }
    };
    let (major, minor) = status.api;
    let seen = format!("firmware {major}.{minor}, build {}", status.build);
    if status.api < API {
        return Finding::failed(Fault::Firmware, format!("{seen}: 1.51 is the oldest that will do"), update);
    }
    match status.state {
        SnpState::Initialised => {}
        other => {
            let fix = "load kvm_amd anew: it initialises SNP; `dmesg | grep -i sev` says what stopped it";
            return Finding::failed(
                Fault::Kernel,
                format!("{seen}: SNP is not initialised ({other:?})"),
                fix,
            );
        }
    }
    if !status.alias_check {
        let evidence = format!("{seen}: memory has not been checked for aliases (BadRAM, CVE-2024-21944)");
        return Finding::warning(Fault::Firmware, evidence, update);
    }
    if status.current_tcb != status.reported_tcb {
        let (current, reported) = (status.current_tcb, status.reported_tcb);
        let evidence = format!("{seen}: reports name TCB {reported:#018x}, and {current:#018x} is running");
        return Finding::warning(Fault::Firmware, evidence, "commit the new firmware: `snphost commit`");
    }
    Finding::Ok(seen)
}

fn emulator(host: &Host<'_>) -> Finding {
    let found = qemu::has(host, &["sev-snp-guest", "memory-backend-ram"]);
    let (Finding::Ok(seen), Some(Ok(qemu)), true) = (&found, host.qemu(), module_on(host)) else {
        return found;
    };
    // QEMU refuses a guest whose C bit is not the one that it reads itself, and Coffer takes it from CPUID.
    let c_bit = host.probe.cpuid(ENCRYPTION).map_or(0, |[_, ebx, ..]| ebx & 0x3f);
    match &qemu.sev {
        Ok(sev) if sev.cbitpos != c_bit => Finding::failed(
            Fault::Cpu,
            format!("QEMU reads C-bit {} from CPUID leaf 8000_001F, and Coffer {c_bit}", sev.cbitpos),
            "find what changes CPUID on this host, such as a hypervisor below it or a wrapper around QEMU",
        ),
        Ok(sev) => {
            Finding::Ok(format!("{seen}; C-bit {}, {} address bits less", sev.cbitpos, sev.reduced_phys_bits))
        }
        Err(error) => Finding::failed(
            Fault::Setup,
            format!("QEMU cannot use SEV: {error}"),
            "see the checks of /dev/sev and KVM; QEMU needs both open to it",
        ),
    }
}

fn ovmf(host: &Host<'_>) -> Finding {
    let wanted = "an OVMF build that checks kernel hashes, as Debian's /usr/share/ovmf/OVMF.amdsev.fd is";
    vm_firmware(host, wanted, Kind::measures_snp_kernel)
}
