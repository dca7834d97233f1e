//! Hosts that are ready, and each way in which one is not: what is said of it, word for word.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]

mod fixture;

use std::fmt::Write;

use fixture::{Fixture, Image, OVMF, SLOW, volume};
use gpu::Mode;
use readiness::{Check, Class, Gpus, Offer, Outcome, Report, SnpState, Verdict};
use vmm_config::config::{NodeConfig, Tee};
use vmm_config::tee::HostTee;

/// A way to be broken: its name, and what it does to a host.
type Breakage = (&'static str, fn(&mut Fixture));

/// A host, its breakages, and the class that is asked for.
type Broken = (fn() -> Fixture, &'static [Breakage], Class);

const PLAIN: &[Breakage] = &[
    ("configuration with a mistake", |h| h.write("/etc/coffer/config.toml", "quemu = \"q\"\n")),
    ("control groups of version 1", |h| {
        h.remove("/sys/fs/cgroup/cgroup.controllers");
        h.write("/sys/fs/cgroup/memory/tasks", "");
    }),
    ("no control groups", |h| h.remove("/sys/fs/cgroup")),
    ("huge pages reserved", |h| {
        h.write(
            "/proc/meminfo",
            "HugePages_Total:    1024\nHugePages_Free:     1024\nHugetlb:         2097152 kB\n",
        );
    }),
    ("virtualization off in the firmware", |h| {
        h.cpu("GenuineIntel", "Intel(R) Xeon(R) Gold 6226R CPU @ 2.90GHz", "aes");
        h.remove("/dev/kvm");
    }),
    ("KVM's module not loaded", |h| {
        h.remove("/dev/kvm");
        h.remove("/sys/module/kvm");
    }),
    ("/dev/kvm missing in a container", |h| h.remove("/dev/kvm")),
    ("/dev/kvm not permitted", |h| _ = h.answers.errors.insert("/dev/kvm", 13)),
    ("/dev/kvm not allowed by the device cgroup", |h| _ = h.answers.errors.insert("/dev/kvm", 1)),
    ("a VM without nested virtualization", |h| {
        h.cpu("GenuineIntel", "Intel(R) Xeon(R) Processor", "aes hypervisor");
        h.remove("/dev/kvm");
    }),
    ("a VM whose KVM does not work", |h| {
        h.cpu("GenuineIntel", "Intel(R) Xeon(R) Processor", "aes hypervisor");
        h.answers.trial = Err("the test guest stopped with InternalError".to_owned());
    }),
    ("KVM busy", |h| h.answers.trial = Err("KVM_CREATE_VM failed: Device or resource busy".to_owned())),
    ("no vsock", |h| h.remove("/dev/vhost-vsock")),
    ("vsock's module missing", |h| _ = h.answers.errors.insert("/dev/vhost-vsock", 19)),
    ("vsock not permitted", |h| _ = h.answers.errors.insert("/dev/vhost-vsock", 13)),
    ("no QEMU", |h| h.remove("/usr/bin/qemu-system-x86_64")),
    ("old QEMU", |h| h.answers.version.major = 10),
    ("QEMU without vhost-vsock", |h| h.answers.types.retain(|t| *t != "vhost-vsock-pci")),
    ("a kernel without PID namespaces", |h| h.remove("/proc/self/ns/pid")),
    ("a kernel without seccomp", |h| h.remove("/proc/sys/kernel/seccomp")),
    ("an account within QEMU's users", |h| {
        h.write("/etc/passwd", "root:x:0:0:root:/root:/bin/bash\nbob:x:1879048200:1000::/home/bob:/bin/sh\n");
    }),
    ("groups within QEMU's users", |h| {
        h.write("/etc/group", "# of a directory\na:x:1879048192:\nb:x:1891631103:\nc:x:1891631104:\n")
    }),
    ("an account's containers within QEMU's users", |h| {
        h.write("/etc/coffer/config.toml", "qemu_users = 165535\n");
    }),
    ("guest image that only root may read", |h| {
        for file in ["vmlinuz", "root.img"] {
            h.allow(&format!("/opt/coffer/share/guest-image/{file}"), 0o600);
        }
    }),
    ("QEMU that only root may run", |h| h.allow("/usr/bin/qemu-system-x86_64", 0o750)),
    ("no mkfs.erofs", |h| h.remove("/usr/bin/mkfs.erofs")),
    ("no guest image", |h| h.remove("/opt/coffer")),
    ("guest image without its kernel", |h| h.remove("/opt/coffer/share/guest-image/vmlinuz")),
    ("guest image of another format", |h| {
        h.write("/opt/coffer/share/guest-image/image.json", "{\"format\": 2}");
    }),
    ("no containerd", |h| h.remove("/etc/containerd")),
    ("containerd's file no TOML", |h| h.write("/etc/containerd/config.toml", "version = \n")),
    ("no shim in PATH", |h| h.remove("/usr/bin/containerd-shim-coffer-v2")),
    ("no handler", |h| h.write("/etc/containerd/config.toml", "version = 3\n")),
    ("no handler in a file of version 2", |h| h.write("/etc/containerd/config.toml", "version = 2\n")),
    ("handler of another runtime", |h| {
        let text = "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.coffer]\n\
                    runtime_type = 'io.containerd.runc.v2'\n";
        h.write("/etc/containerd/config.toml", text);
    }),
    ("drop-in of another version", |h| h.write("/etc/containerd/conf.d/a.toml", "version = 2\n")),
    ("drop-in that nobody imports", |h| {
        let main = std::fs::read_to_string(h.path().join("etc/containerd/config.toml")).unwrap();
        h.write("/etc/containerd/conf.d/coffer.toml", &main);
        h.write("/etc/containerd/config.toml", "version = 3\n");
    }),
    ("another snapshotter", |h| edit(h, "/etc/containerd/config.toml", "snapshotter = 'erofs'", "")),
    ("erofs as a module that is not loaded", |h| {
        h.write("/proc/filesystems", "nodev\tproc\n\text4\n");
        h.write("/lib/modules/6.12.57+deb13-amd64/modules.dep", "kernel/fs/erofs/erofs.ko.xz:\n");
    }),
    ("k0s without a handler", |h| {
        h.write("/etc/k0s/containerd.toml", "# k0s_managed=true\nversion = 3\nimports = []\n");
    }),
    ("erofs without its differ", |h| {
        edit(h, "/etc/containerd/config.toml", "['erofs', 'walking']", "['walking']")
    }),
];

const TDX: &[Breakage] = &[
    ("CPU without TDX", |h| {
        h.cpu("GenuineIntel", "Intel(R) Xeon(R) Gold 6226R CPU @ 2.90GHz", "vmx aes");
        h.answers.msrs.insert(0xfe, 0x1d0a);
    }),
    ("memory encryption off", |h| {
        unfound(h);
        h.answers.msrs.insert(0x982, 0);
    }),
    ("no private keys", |h| {
        unfound(h);
        h.answers.msrs.insert(0x87, 0x1f);
    }),
    ("SEAM range off", |h| {
        unfound(h);
        h.answers.msrs.insert(0x1401, 0);
    }),
    ("memory populated wrongly", |h| {
        unfound(h);
        h.answers.msrs.insert(0xa0, 0x20);
    }),
    ("sample CPU", |h| _ = h.answers.msrs.insert(0xce, 1 << 27)),
    ("MSRs not readable, and TDX not found", |h| {
        unfound(h);
        h.answers.msrs.clear();
    }),
    ("kernel too old", |h| h.write("/proc/sys/kernel/osrelease", "6.12.57+deb13-amd64\n")),
    ("kernel that can hibernate", |h| {
        unfound(h);
        h.write("/sys/power/disk", "[platform] shutdown reboot suspend test_resume \n");
    }),
    ("kernel without TDX", unfound),
    ("module off", |h| h.write("/sys/module/kvm_intel/parameters/tdx", "N\n")),
    ("module not loaded", |h| h.remove("/sys/module/kvm_intel")),
    ("module without TDX", |h| h.remove("/sys/module/kvm_intel/parameters/tdx")),
    ("KVM makes no TDX VMs", |h| h.answers.vm_types = 1),
    ("/dev/kvm not permitted", |h| _ = h.answers.errors.insert("/dev/kvm", 13)),
    ("QEMU without TDX", |h| h.answers.types.retain(|t| *t != "tdx-guest")),
    ("no firmware configured", |h| h.remove("/etc/coffer/config.toml")),
    ("firmware missing", |h| h.remove(OVMF)),
    ("firmware that only root may read", |h| h.allow(OVMF, 0o640)),
    ("firmware for SNP", |h| h.put(OVMF, &Image::amdsev().build())),
    ("firmware with Secure Boot", |h| {
        h.put(OVMF, &Fixture::firmware(Image { variables: true, ..Image::inteltdx() }, &volume::TDX));
    }),
    ("firmware truncated", |h| h.put(OVMF, &Image::inteltdx().build()[..5000])),
    ("firmware that accepts all memory", |h| {
        h.put(OVMF, &Fixture::firmware(Image::inteltdx(), &volume::TDX[..1]));
    }),
    ("firmware that is not edk2's", |h| h.put(OVMF, &Image::inteltdx().build())),
    ("no QGS", |h| h.remove("/var/run/tdx-qgs/qgs.socket")),
    ("QGS dead", |h| _ = h.answers.errors.insert("/var/run/tdx-qgs/qgs.socket", 111)),
    ("QGS stuck", |h| _ = h.answers.errors.insert("/var/run/tdx-qgs/qgs.socket", 11)),
    ("QGS on vsock, configured with a unix socket", |h| {
        h.remove("/var/run/tdx-qgs/qgs.socket");
        h.write("/etc/qgs.conf", "port = 4050\nnumber_threads = 4\n");
    }),
    ("QGS with a unix socket, configured on vsock", |h| {
        quotes(h, "vsock:2:4050");
        h.answers.vsock = Some((2, 1024));
    }),
    ("QGS on another vsock port", |h| {
        quotes(h, "vsock:2:4050");
        h.answers.vsock = Some((2, 4051));
        h.write("/etc/qgs.conf", "port = 4051\n");
    }),
    ("QGS on vsock dead", |h| {
        quotes(h, "vsock:2:4050");
        h.answers.vsock = Some((2, 1024));
        h.write("/etc/qgs.conf", "port = 4050\n");
    }),
    ("vsock not carried within the host", |h| quotes(h, "vsock:2:4050")),
    ("QGS at another path", |h| quotes(h, "unix:/run/qgs/other.socket")),
    ("no quotes wanted", |h| quotes(h, "none")),
    ("no handler", |h| edit(h, "/etc/containerd/config.toml", "runtimes.coffer-tdx", "runtimes.other")),
];

const SNP: &[Breakage] = &[
    ("CPU without SNP", |h| _ = h.answers.cpuid.insert(0x8000_001f, [0xf, 0x16f, 509, 1])),
    ("CPU without encryption", |h| h.answers.cpuid.clear()),
    ("a VM on an EPYC", |h| {
        h.cpu("AuthenticAMD", "AMD EPYC 9654 96-Core Processor", "svm aes hypervisor");
        h.answers.cpuid.clear();
    }),
    ("EPYC 7003", |h| _ = h.answers.cpuid.insert(1, [0x00a0_0f11, 0, 0, 0])),
    ("no key ids for SNP", |h| h.answers.cpuid.get_mut(&0x8000_001f).unwrap()[3] = 1),
    ("memory encryption off", |h| _ = h.answers.msrs.insert(0xc001_0010, 0x74_0000)),
    ("no RMP table", |h| {
        h.answers.msrs.insert(0xc001_0132, 0);
        h.answers.msrs.insert(0xc001_0133, 0);
    }),
    ("MSRs not readable, and SNP off", |h| {
        h.answers.msrs.clear();
        h.write("/sys/module/kvm_amd/parameters/sev_snp", "N\n");
    }),
    ("kernel too old", |h| h.write("/proc/sys/kernel/osrelease", "6.8.0-88-generic\n")),
    ("IOMMU passes through", |h| h.write("/proc/cmdline", "BOOT_IMAGE=/vmlinuz ro iommu=pt\n")),
    ("no IOMMU", |h| h.remove("/sys/class/iommu/ivhd0")),
    ("module off", |h| h.write("/sys/module/kvm_amd/parameters/sev_snp", "N\n")),
    ("module not loaded", |h| h.remove("/sys/module/kvm_amd")),
    ("module without SNP", |h| h.remove("/sys/module/kvm_amd/parameters/sev_snp")),
    ("/dev/sev missing", |h| h.remove("/dev/sev")),
    ("/dev/sev not permitted", |h| _ = h.answers.errors.insert("/dev/sev", 13)),
    ("/dev/sev dead", |h| _ = h.answers.errors.insert("/dev/sev", 19)),
    ("secure processor too old", |h| h.answers.snp.api = (1, 49)),
    ("secure processor not initialised", |h| h.answers.snp.state = SnpState::Uninitialised),
    ("aliases not looked for", |h| h.answers.snp.alias_check = false),
    ("firmware not committed", |h| h.answers.snp.reported_tcb = 0xd114_0000_0000_0004),
    ("KVM makes no SNP VMs", |h| h.answers.vm_types = 0b1101),
    ("QEMU without SNP", |h| h.answers.types.retain(|t| *t != "sev-snp-guest")),
    ("QEMU reads another C bit", |h| h.answers.sev = Ok((47, 1))),
    ("QEMU cannot use SEV", |h| h.answers.sev = Err("SEV: Failed to open /dev/sev 'Permission denied'")),
    ("firmware for TDX", |h| h.put(OVMF, &Image::inteltdx().build())),
    ("firmware without kernel hashes", |h| {
        let mut image = Image::amdsev();
        image.sev.as_mut().unwrap().pop();
        h.put(OVMF, &image.build());
    }),
    ("firmware that accepts all memory", |h| {
        h.put(OVMF, &Fixture::firmware(Image::amdsev(), &volume::SNP[..1]));
    }),
    ("firmware that is not edk2's", |h| h.put(OVMF, &Image::amdsev().build())),
    ("no handler", |h| edit(h, "/etc/containerd/config.toml", "runtimes.coffer-snp", "runtimes.other")),
];

const GPU: &[Breakage] = &[
    ("no IOMMU", |h| h.remove("/sys/class/iommu/dmar0")),
    ("IOMMU off by parameter", |h| {
        h.remove("/sys/class/iommu/dmar0");
        h.write("/proc/cmdline", "BOOT_IMAGE=/vmlinuz ro intel_iommu=off\n");
    }),
    ("no vfio-pci", |h| {
        h.remove("/sys/devices/pci0000:40/0000:41:00.0/driver");
        h.remove("/sys/bus/pci/drivers/vfio-pci");
    }),
    ("no iommufd", |h| h.remove("/dev/iommu")),
    ("iommufd not permitted", |h| _ = h.answers.errors.insert("/dev/iommu", 13)),
    ("bound to NVIDIA's driver", |h| {
        h.remove("/sys/devices/pci0000:40/0000:41:00.0/driver");
        h.write("/sys/bus/pci/drivers/nvidia/new_id", "");
        h.link("/sys/bus/pci/drivers/nvidia", "/sys/devices/pci0000:40/0000:41:00.0/driver");
    }),
    ("another device in the group", |h| {
        let nic = "/sys/devices/pci0000:40/0000:42:00.0";
        h.write(&format!("{nic}/class"), "0x020000\n");
        h.write("/sys/bus/pci/drivers/mlx5_core/new_id", "");
        h.link("/sys/bus/pci/drivers/mlx5_core", &format!("{nic}/driver"));
        h.link(nic, "/sys/kernel/iommu_groups/17/devices/0000:42:00.0");
    }),
    ("fallen off its bus", |h| h.remove("/sys/devices/pci0000:40/0000:41:00.0/vendor")),
    ("modes differ", |h| {
        h.gpu("0000:51:00.0", 18);
        h.answers.gpus.insert("0000:51:00.0", Mode::Off);
    }),
    ("asleep", |h| h.answers.gpu = Err("it sleeps (power/runtime_status is \"suspended\")")),
    ("locked memory limited", |h| {
        let text = "Max locked memory         8388608              8388608              bytes     \n";
        h.write("/proc/812/comm", "containerd\n");
        h.write("/proc/812/limits", text);
    }),
    ("QEMU without iommufd", |h| h.answers.types.retain(|t| *t != "iommufd")),
];

/// The kernel has not found TDX, or does not want it.
fn unfound(host: &mut Fixture) {
    host.cpu("GenuineIntel", "INTEL(R) XEON(R) PLATINUM 8568Y+", "vmx aes tme");
}

/// Adds the key `quote_service` to the node's configuration.
fn quotes(host: &Fixture, service: &str) {
    host.write("/etc/coffer/config.toml", &format!("firmware = \"{OVMF}\"\nquote_service = \"{service}\"\n"));
}

fn edit(host: &Fixture, path: &str, from: &str, to: &str) {
    let text = std::fs::read_to_string(host.root().path(path)).unwrap();
    assert!(text.contains(from));
    host.write(path, &text.replace(from, to));
}

/// What is not well, and the verdict.
fn findings(report: &Report, class: Class) -> String {
    let mut text = String::new();
    for check in report.checks.iter().filter(|c| concerns(c, class)).flat_map(Check::all) {
        let Some(fix) = &check.fix else { continue };
        writeln!(text, "{} {}: {}", check.result.word(), check.name, check.evidence).unwrap();
        writeln!(text, "    -> {fix} [{}]", check.fault.unwrap()).unwrap();
        let below = check.all().skip(1).filter(|c| c.result == Outcome::Skipped && c.fix.is_none());
        for skipped in below {
            writeln!(text, "    skipped {}", skipped.name).unwrap();
        }
    }
    writeln!(text, "{class}: {}", report.verdict(class)).unwrap();
    text
}

/// The other TEE's checks say only that it is not this host's.
fn concerns(check: &Check, class: Class) -> bool {
    match check.name {
        "tdx" => class == Class::Tdx,
        "snp" => class == Class::Snp,
        _ => true,
    }
}

/// Every breakage of a host in one text; each must be told from all others.
fn broken(host: fn() -> Fixture, breakages: &[Breakage], class: Class) -> String {
    let mut all = String::new();
    let mut seen = Vec::new();
    for (name, break_it) in breakages {
        let mut fixture = host();
        break_it(&mut fixture);
        let report = fixture.examine();
        let mut text = findings(&report, class);
        assert!(text.lines().count() > 1, "{name} is not seen");
        match fixture.preflight(class) {
            Err(failed) => writeln!(text, "start: {failed}").unwrap(),
            Ok(warnings) => {
                warnings.iter().for_each(|warned| writeln!(text, "start warns: {warned}").unwrap())
            }
        }
        // The directory's name is no part of what is said.
        let text = text.replace(fixture.path().to_str().unwrap(), "");
        assert!(!seen.contains(&text), "{name} is told like another:\n{text}");
        writeln!(all, "## {name}\n{text}").unwrap();
        seen.push(text);
    }
    all
}

#[test]
fn hosts_that_are_ready() {
    for (host, class) in
        [(Fixture::plain(), Class::Plain), (Fixture::tdx(), Class::Tdx), (Fixture::snp(), Class::Snp)]
    {
        let report = host.with_gpu_if(class != Class::Snp).examine();
        assert_eq!(findings(&report, class), format!("{class}: ready\n"));
        assert_eq!(report.class, class);
        assert_eq!(report.verdict(Class::Plain), Verdict::Ready);
        for other in Class::ALL.into_iter().filter(|c| ![Class::Plain, class].contains(c)) {
            assert_eq!(report.verdict(other), Verdict::NotReady, "{other} on {class}'s host");
        }
    }
}

#[test]
fn plain_hosts_that_are_broken() {
    insta::assert_snapshot!(broken(Fixture::plain, PLAIN, Class::Plain));
}

#[test]
fn tdx_hosts_that_are_broken() {
    insta::assert_snapshot!(broken(Fixture::tdx, TDX, Class::Tdx));
}

#[test]
fn snp_hosts_that_are_broken() {
    insta::assert_snapshot!(broken(Fixture::snp, SNP, Class::Snp));
}

#[test]
fn gpu_hosts_that_are_broken() {
    insta::assert_snapshot!(broken(|| Fixture::tdx().with_gpu(), GPU, Class::Tdx));
}

/// In one line, for who installs.
#[test]
fn what_pods_can_have_of_the_gpus() {
    assert_eq!(Fixture::plain().examine().gpus(), Gpus::None);
    let host = Fixture::tdx().with_gpu();
    assert_eq!(host.examine().gpus(), Gpus::Ready("1 GPUs, 0 NVSwitches: GH100".to_owned()));
    host.remove("/sys/class/iommu/dmar0");
    let reason = "GPUs: IOMMU: the kernel uses no IOMMU; switch on VT-d in the firmware's setup, and boot with intel_iommu=on";
    assert_eq!(host.examine().gpus(), Gpus::NotReady(reason.to_owned()));
}

#[test]
fn one_breakage_is_one_cause() {
    let hosts: [Broken; 3] = [
        (Fixture::plain, PLAIN, Class::Plain),
        (Fixture::tdx, TDX, Class::Tdx),
        (Fixture::snp, SNP, Class::Snp),
    ];
    for (host, breakages, class) in hosts {
        for (name, break_it) in breakages {
            let mut fixture = host();
            break_it(&mut fixture);
            let report = fixture.examine();
            let checks = report.checks.iter().filter(|c| concerns(c, class)).flat_map(Check::all);
            let failed: Vec<_> = checks.filter(|c| c.result == Outcome::Failed).map(|c| c.name).collect();
            assert!(failed.len() <= 1, "{name}: {failed:?}");
        }
    }
}

#[test]
fn emulation_stands_in_for_kvm_unless_it_must_not() {
    let verdict = |accel: &str, class| {
        let host = Fixture::plain();
        host.write("/etc/coffer/config.toml", &format!("accel = \"{accel}\"\n"));
        host.remove("/dev/kvm");
        host.examine().verdict(class)
    };
    assert_eq!(verdict("auto", Class::Plain), Verdict::ReadyWithWarnings);
    assert_eq!(verdict("tcg", Class::Plain), Verdict::Ready);
    assert_eq!(verdict("kvm", Class::Plain), Verdict::NotReady);
}

#[test]
fn a_program_stands_in_for_vhost_vsock() {
    let host = Fixture::plain();
    host.remove("/dev/vhost-vsock");
    host.write("/usr/bin/vhost-device-vsock", "");
    host.allow("/usr/bin/vhost-device-vsock", 0o755);
    assert_eq!(host.examine().verdict(Class::Plain), Verdict::Ready);
}

#[test]
fn the_mode_of_gpus_is_shown() {
    let mut host = Fixture::plain().with_gpu();
    host.gpu("0000:51:00.0", 18);
    host.answers.gpu = Ok(Mode::Off);
    let report = host.examine();
    let check = report.checks.iter().flat_map(Check::all).find(|c| c.name == "gpu.mode").unwrap();
    assert_eq!((check.result, check.evidence.as_str()), (Outcome::Ok, "2 off"));
}

#[test]
fn before_a_start_nothing_slow_is_asked() {
    for (host, class) in
        [(Fixture::plain(), Class::Plain), (Fixture::tdx(), Class::Tdx), (Fixture::snp(), Class::Snp)]
    {
        assert_eq!(host.preflight(class).unwrap(), [], "{class}");
        let asked = host.answers.asked.take();
        assert!(asked.iter().all(|what| !SLOW.contains(what)), "{class}: {asked:?}");
        assert!(asked.len() <= 5, "{class}: {asked:?}");
    }
}

#[test]
fn without_its_quote_service_a_tdx_vm_is_not_started() {
    let host = Fixture::tdx();
    host.remove("/var/run/tdx-qgs/qgs.socket");
    for tee in [Tee::Tdx, Tee::Auto] {
        let config = NodeConfig { tee, ..host.config() };
        let said = match readiness::tee_with(&host.root(), &host.answers, &config) {
            Err(failed) => failed.to_string(),
            Ok(Offer { tee: HostTee::Absent { reason }, .. }) => reason,
            Ok(offered) => panic!("{offered:?} without QGS"),
        };
        assert!(
            said.contains("quote generation service: /var/run/tdx-qgs/qgs.socket does not exist: guests"),
            "{said}"
        );
    }
    // The same host, told that its guests need not prove anything.
    quotes(&host, "none");
    let config = NodeConfig { tee: Tee::Tdx, ..host.config() };
    let offer = readiness::tee_with(&host.root(), &host.answers, &config).unwrap();
    assert_eq!(offer.tee, HostTee::Tdx);
    let [warned] = &offer.warnings[..] else { panic!("{offer:?}") };
    assert!(warned.to_string().contains("guests cannot prove what they are"), "{warned}");
}

/// A start goes on, and its log has what `coffer doctor` warns of.
#[test]
fn a_start_on_a_processor_whose_root_seed_is_public_is_warned_of() {
    let mut host = Fixture::snp();
    let offer = |host: &Fixture, tee| {
        let config = NodeConfig { tee, ..host.config() };
        readiness::tee_with(&host.root(), &host.answers, &config).unwrap()
    };
    assert_eq!(offer(&host, Tee::Snp).warnings, []);
    host.answers.cpuid.insert(1, [0x00a0_0f11, 0, 0, 0]);
    for tee in [Tee::Snp, Tee::Auto] {
        let Offer { tee: HostTee::Snp(_), warnings } = offer(&host, tee) else { panic!("{tee:?}") };
        let [warned] = &warnings[..] else { panic!("{warnings:?}") };
        assert!(warned.to_string().contains("take no report of EPYC 7003 at the verifier"), "{warned}");
    }
    assert_eq!(offer(&host, Tee::None).warnings, []);
}

#[test]
fn the_quote_service_is_asked_where_the_configuration_has_it() {
    let mut host = Fixture::tdx();
    host.remove("/var/run/tdx-qgs/qgs.socket");
    host.write("/run/qgs/other.socket", "");
    quotes(&host, "unix:/run/qgs/other.socket");
    assert_eq!(host.examine().verdict(Class::Tdx), Verdict::Ready);
    assert_eq!(host.preflight(Class::Tdx), Ok(vec![]));

    host.remove("/run/qgs/other.socket");
    quotes(&host, "vsock:2:4050");
    assert!(host.preflight(Class::Tdx).is_err());
    host.answers.vsock = Some((2, 4050));
    assert_eq!(host.examine().verdict(Class::Tdx), Verdict::Ready);
    assert_eq!(host.preflight(Class::Tdx), Ok(vec![]));
}

#[test]
fn a_host_cannot_start_the_others_class() {
    let error = Fixture::snp().preflight(Class::Tdx).unwrap_err();
    assert_eq!(
        error.to_string(),
        "this host cannot start coffer-tdx VMs: Intel TDX: CPU: the CPU is not Intel's (AuthenticAMD) \
         (the CPU cannot); use the class that this host's CPU has, or another node"
    );
    assert!(Fixture::tdx().preflight(Class::Snp).is_err());
    assert!(Fixture::plain().preflight(Class::Plain).is_ok());
}

#[test]
fn json_has_the_tree() {
    let mut host = Fixture::tdx();
    host.write("/sys/module/kvm_intel/parameters/tdx", "N\n");
    host.answers.types.retain(|t| *t != "tdx-guest");
    let json = serde_json::to_value(host.examine()).unwrap();
    assert_eq!(json["class"], "coffer-tdx");
    assert_eq!(json["classes"][1], serde_json::json!({ "class": "coffer-tdx", "verdict": "not-ready" }));
    let tdx = json["checks"].as_array().unwrap().iter().find(|c| c["name"] == "tdx").unwrap();
    insta::assert_snapshot!(serde_json::to_string_pretty(tdx).unwrap());
}

#[test]
fn a_host_that_is_empty_is_examined_to_the_end() {
    let host = Fixture::plain();
    for entry in std::fs::read_dir(host.path()).unwrap() {
        std::fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    let report = host.examine();
    assert!(Class::ALL.iter().all(|class| report.verdict(*class) == Verdict::NotReady));
}

#[test]
fn partitions_of_a_board_are_told() {
    let host = Fixture::plain().with_gpu();
    let told = || {
        let report = host.examine();
        let check =
            report.checks.iter().flat_map(Check::all).find(|check| check.name == "gpu.partitions").unwrap();
        (check.result, check.evidence.clone())
    };
    assert_eq!(told().0, Outcome::NotApplicable);
    let (list, modules) =
        ("/var/lib/coffer/gpu/fabric/partitions.json", "/var/lib/coffer/gpu/fabric/modules");
    host.write(list, r#"{"partitionInfo": [{"partitionId": 7, "gpuInfo": [{"physicalId": 3}]}]}"#);
    host.write(modules, "0000:41:00.0 3\n");
    assert_eq!(told(), (Outcome::Ok, "1 of 1 GPUs".to_owned()));
    host.write(modules, "");
    assert!(told().0 == Outcome::Warning && told().1.contains("0000:41:00.0"));
    host.write(list, "{}");
    assert!(told().0 == Outcome::Failed && told().1.contains("missing field"), "{:?}", told());
}
