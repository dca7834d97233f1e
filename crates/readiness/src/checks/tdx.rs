//! Intel TDX: from the CPU up to the service that signs quotes.
//!
//! MSRs: Intel's TDX module base architecture specification and `MSR-index` (MTRRCAP.SEAMRR, IA32_TME_ACTIVATE,
//! IA32_SEAMRR_PHYS_MASK, IA32_MKTME_KEYID_PARTITIONING), read as canonical/tdx's host tests read them. What the
//! kernel demands: `Documentation/arch/x86/tdx.rst`, `arch/x86/virt/vmx/tdx/tdx.c` of Linux 6.16.

use measurement::ovmf::{Acceptance, Firmware, Kind, MAX_FIRMWARE};

use super::containerd::handler;
use super::{kernel_version, qemu, qgs};
use crate::check::{Ask, Class, Fault, Finding, Step};
use crate::host::{Host, is_on};

/// The first kernel whose KVM starts trust domains.
const KERNEL: (u32, u32) = (6, 16);
/// `KVM_X86_TDX_VM` of asm/kvm.h.
const VM_TYPE: u32 = 5;
/// Set by the kernel once it has found the firmware's part done, and nothing in its own way.
const FLAG: &str = "tdx_host_platform";

const MTRRCAP: u32 = 0xfe;
const KEYID_PARTITIONING: u32 = 0x87;
const MCHECK_ERROR: u32 = 0xa0;
const PLATFORM_INFO: u32 = 0xce;
const TME_ACTIVATE: u32 = 0x982;
const SEAMRR_MASK: u32 = 0x1401;

pub(super) const TDX: Step = Step {
    name: "tdx",
    title: "Intel TDX: CPU",
    run: cpu,
    then: &[
        Step {
            name: "tdx.firmware",
            title: "TDX: firmware's setup",
            run: firmware,
            then: &[Step {
                name: "tdx.kernel",
                title: "TDX: kernel",
                run: kernel,
                then: &[Step {
                    name: "tdx.platform",
                    title: "TDX: kernel has found TDX",
                    run: platform,
                    then: &[Step {
                        name: "tdx.module",
                        title: "TDX: kvm_intel",
                        run: module,
                        then: &[Step {
                            name: "tdx.kvm",
                            title: "TDX: KVM's VM type",
                            run: vm_type,
                            then: &[],
                        }],
                    }],
                }],
            }],
        },
        Step {
            name: "tdx.qemu",
            title: "TDX: QEMU",
            run: |host| qemu::has(host, &["tdx-guest", "memory-backend-ram"]),
            then: &[],
        },
        Step {
            name: "tdx.ovmf",
            title: "TDX: firmware of the VM",
            run: ovmf,
            then: &[Step {
                name: "tdx.accept",
                title: "TDX: firmware leaves memory to the guest",
                run: |host| accepts(host, |firmware| firmware.tdx_acceptance(), "edk2-stable202211"),
                then: &[],
            }],
        },
        Step { name: "tdx.qgs", title: "TDX: quote generation service", run: qgs::answers, then: &[] },
        Step {
            name: "tdx.handler",
            title: "TDX: containerd's handler",
            run: |host| handler(host, Class::Tdx),
            then: &[],
        },
    ],
};

/// What the shim asks before a start: no MSR, no process. An order in which the first failure is the cause.
pub(crate) const PREFLIGHT: [Ask; 6] = [
    ("Intel TDX: CPU", cpu),
    ("TDX: kernel", kernel),
    ("TDX: kernel has found TDX", platform),
    ("TDX: kvm_intel", module),
    ("KVM", super::vm::device),
    ("TDX: quote generation service", qgs::answers),
];

pub(crate) fn cpu(host: &Host<'_>) -> Finding {
    let cpu = host.cpu();
    if cpu.vendor != "GenuineIntel" {
        return Finding::NotApplicable(format!("the CPU is not Intel's ({})", cpu.vendor));
    }
    if cpu.has(FLAG) {
        return Finding::Ok(cpu.model.clone());
    }
    let fix = "use a server with 5th generation Xeon Scalable, Xeon 6, or newer";
    if cpu.is_guest() {
        return Finding::failed(
            Fault::Cpu,
            "this machine is itself a VM, and TDX starts VMs on hardware only",
            fix,
        );
    }
    match host.probe.msr(MTRRCAP) {
        Ok(capability) if capability >> 15 & 1 == 1 => Finding::Ok(cpu.model.clone()),
        Ok(_) => Finding::failed(Fault::Cpu, format!("{} has no SEAM mode", cpu.model), fix),
        Err(error) => unreadable(&error),
    }
}

fn unreadable(error: &std::io::Error) -> Finding {
    let fix = "run `coffer doctor` as root after `modprobe msr`";
    Finding::unknown(Fault::Setup, format!("MSRs cannot be read: {error}"), fix)
}

fn firmware(host: &Host<'_>) -> Finding {
    match switches(host) {
        Ok(None) => Finding::Ok("memory encryption, SEAM range and private key ids are set up".to_owned()),
        Ok(Some(finding)) => finding,
        Err(_) if host.cpu().has(FLAG) => Finding::Ok(format!("the kernel reports {FLAG}")),
        Err(error) => unreadable(&error),
    }
}

/// What is wrong with the firmware's setup.
fn switches(host: &Host<'_>) -> std::io::Result<Option<Finding>> {
    let msr = |register| host.probe.msr(register);
    let off = |evidence: &str, fix: &str| Ok(Some(Finding::failed(Fault::Firmware, evidence, fix)));
    if msr(TME_ACTIVATE)? >> 1 & 1 == 0 {
        return off(
            "total memory encryption is off (IA32_TME_ACTIVATE)",
            "switch on TME and TME-MT in the firmware's setup, then TDX",
        );
    }
    let keys = msr(KEYID_PARTITIONING)? >> 32;
    if keys < 2 {
        let evidence = format!("{keys} private key ids; each TDX VM needs one, and the module another");
        return off(
            &evidence,
            "switch on TDX in the firmware's setup and set \"TME-MT/TDX key split\" to 1 or more",
        );
    }
    if msr(SEAMRR_MASK)? >> 11 & 1 == 0 {
        return off(
            "the SEAM range is not enabled (IA32_SEAMRR_PHYS_MASK)",
            "switch on TDX and the TDX SEAM loader in the firmware's setup",
        );
    }
    let error = msr(MCHECK_ERROR)?;
    if error != 0 {
        let evidence = format!("the microcode's check of the memory failed with {error:#x}");
        return off(
            &evidence,
            "populate all memory channels alike, and update the firmware and its microcode",
        );
    }
    if msr(PLATFORM_INFO)? >> 27 & 1 == 1 {
        let fix = "use a production CPU: no verifier accepts this one";
        return Ok(Some(Finding::warning(Fault::Cpu, "the CPU is a pre-production sample", fix)));
    }
    Ok(None)
}

pub(crate) fn kernel(host: &Host<'_>) -> Finding {
    at_least(host, KERNEL, "TDX")
}

/// Whether the kernel is new enough.
pub(super) fn at_least(host: &Host<'_>, oldest: (u32, u32), tee: &str) -> Finding {
    let release = host.release().unwrap_or_default();
    let (major, minor) = oldest;
    match kernel_version(&release) {
        Some(version) if version >= oldest => Finding::Ok(format!("Linux {release}")),
        Some(_) => Finding::failed(
            Fault::Kernel,
            format!("Linux {release} is too old to start {tee} VMs"),
            format!("boot Linux {major}.{minor} or newer"),
        ),
        None => Finding::unknown(
            Fault::Kernel,
            format!("the kernel's release is {release:?}"),
            format!("boot Linux {major}.{minor} or newer"),
        ),
    }
}

pub(crate) fn platform(host: &Host<'_>) -> Finding {
    if host.cpu().has(FLAG) {
        return Finding::Ok(format!("/proc/cpuinfo has {FLAG}"));
    }
    // The kernel leaves TDX alone while it could hibernate; "[disabled]" is what nohibernate makes of the file.
    let hibernation = host.root.text("/sys/power/disk").ok().flatten();
    if hibernation.is_some_and(|modes| !modes.contains("[disabled]")) {
        return Finding::failed(
            Fault::Kernel,
            "the kernel can hibernate, and leaves TDX off for that",
            "boot with nohibernate",
        );
    }
    match switches(host) {
        Ok(Some(Finding::Failed(problem))) => Finding::Failed(problem),
        Ok(_) => Finding::failed(
            Fault::Kernel,
            "the firmware has TDX set up, and the kernel has not found it",
            "boot a kernel with CONFIG_INTEL_TDX_HOST=y; `dmesg | grep virt/tdx` says what stopped it",
        ),
        Err(_) => Finding::failed(
            Fault::Firmware,
            format!(
                "/proc/cpuinfo has no {FLAG}: the CPU, the firmware's setup or the kernel is without TDX"
            ),
            "`modprobe msr` and `coffer doctor` as root tell which; most often TDX is off in the firmware's setup",
        ),
    }
}

pub(crate) fn module(host: &Host<'_>) -> Finding {
    let path = "/sys/module/kvm_intel/parameters/tdx";
    if !host.root.exists("/sys/module/kvm_intel") {
        let fix = "modprobe kvm_intel tdx=1";
        return Finding::failed(Fault::Kernel, "the module kvm_intel is not loaded", fix);
    }
    match host.parameter("kvm_intel", "tdx") {
        Some(value) if is_on(&value) => Finding::Ok(format!("{path} is {value}")),
        Some(value) => Finding::failed(
            Fault::Kernel,
            format!("{path} is {value}"),
            "boot with kvm_intel.tdx=1; if it is set, `dmesg | grep -i tdx` says what stopped it",
        ),
        None => Finding::failed(
            Fault::Kernel,
            "kvm_intel has no parameter tdx: this kernel is built without TDX",
            "boot a kernel with CONFIG_KVM_INTEL_TDX=y",
        ),
    }
}

fn vm_type(host: &Host<'_>) -> Finding {
    offers(host, VM_TYPE, "TDX")
}

/// Whether KVM makes VMs of a type.
pub(super) fn offers(host: &Host<'_>, vm_type: u32, tee: &str) -> Finding {
    match host.probe.vm_types(&host.root.path("/dev/kvm")) {
        Ok(types) if types >> vm_type & 1 == 1 => {
            Finding::Ok(format!("KVM makes {tee} VMs (KVM_CAP_VM_TYPES is {types:#x})"))
        }
        Ok(types) => Finding::failed(
            Fault::Kernel,
            format!("KVM makes no {tee} VMs (KVM_CAP_VM_TYPES is {types:#x})"),
            "`dmesg | grep -iE 'kvm|tdx|sev'` says what stopped it",
        ),
        Err(error) => Finding::unknown(
            Fault::Setup,
            format!("/dev/kvm cannot be asked: {error}"),
            "see the check of KVM",
        ),
    }
}

fn ovmf(host: &Host<'_>) -> Finding {
    let wanted = "an OVMF build for TDX without Secure Boot (edk2's IntelTdxX64.dsc)";
    vm_firmware(host, wanted, Kind::starts_tdx)
}

/// Whether the configured firmware leaves a large guest's memory to its kernel, as edk2 does from release `since` on.
pub(super) fn accepts(host: &Host<'_>, of: fn(&Firmware<'_>) -> Acceptance, since: &str) -> Finding {
    let path = host.config().firmware.as_ref().map_or("", |path| path.as_str());
    let Ok(Some(image)) = host.root.bytes(path, MAX_FIRMWARE as u64 + 1) else {
        return Finding::NotApplicable("there is no firmware".to_owned());
    };
    let newer = format!("set `firmware` in the node's configuration to a build of {since} or newer");
    match Firmware::parse(&image).map(|firmware| of(&firmware)) {
        Ok(Acceptance::Lazy) => Finding::Ok(format!("{path}: the kernel accepts what is above 4 GiB")),
        Ok(Acceptance::Eager) => Finding::warning(
            Fault::Setup,
            format!(
                "{path} accepts all memory before the kernel starts: a VM of 64 GiB boots for minutes, and says nothing"
            ),
            newer,
        ),
        Ok(Acceptance::Unknown) | Err(_) => Finding::unknown(
            Fault::Setup,
            format!("{path} does not tell: no volume that can be unpacked has edk2's driver for it"),
            format!("{newer}, or see how long a pod of 64 GiB takes to start"),
        ),
    }
}

/// Whether the configured firmware is of the right kind, by its own metadata; `wanted` is what to take instead.
pub(super) fn vm_firmware(host: &Host<'_>, wanted: &str, fits: fn(Kind) -> bool) -> Finding {
    let set = format!("set `firmware` in the node's configuration to {wanted}");
    let failed = |evidence: String| Finding::failed(Fault::Setup, evidence, set.clone());
    let Some(path) = &host.config().firmware else {
        return failed("the configuration names no firmware".to_owned());
    };
    let image = match host.root.bytes(path.as_str(), MAX_FIRMWARE as u64 + 1) {
        Ok(Some(image)) => image,
        Ok(None) => return failed(format!("{path} does not exist")),
        Err(error) => return failed(error.to_string()),
    };
    match Firmware::parse(&image).and_then(|firmware| firmware.kind()) {
        Ok(kind) if fits(kind) => Finding::Ok(format!("{path}: {kind}")),
        Ok(kind) => failed(format!("{path} is firmware for other VMs: {kind}")),
        Err(error) => failed(format!("{path} is no firmware: {error}")),
    }
}
