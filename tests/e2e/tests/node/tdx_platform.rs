//! What our TDX firmware reads and sets in a VM without a TEE, held against what crate `measurement` says it measures.

#![allow(clippy::disallowed_methods, reason = "there is no runtime here, one thread waits for one VM")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use e2e::{Artefacts, Monitor, OrFail, workspace};
use measurement::Sha384Digest;
use measurement::ovmf::Firmware;
use measurement::tdx::{EventLog, TABLE_LOADER, acpi_files, rtmr0};
use serde_json::json;

/// With 128 MiB the firmware finds no room for the kernel.
const MEMORY: u64 = 256 << 20;

/// A VM under emulation, ended with the test.
struct Vm {
    qemu: Child,
    directory: PathBuf,
}

impl Vm {
    /// Boots the image with the firmware to PID 1, with so many vCPUs.
    fn boot(firmware: &Path, vcpus: u32) -> Self {
        let image = Artefacts::find().image;
        let directory = PathBuf::from(format!("/run/e2e-tdx-platform-{vcpus}"));
        fs::create_dir_all(&directory).or_fail("directory of the VM");
        let manifest = fs::read(image.join("image.json")).or_fail("read image.json");
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).or_fail("image.json");
        let place = |name: &str| directory.join(name).display().to_string();
        let disk = format!("file,node-name=root,filename={},read-only=on", image.join("root.img").display());
        let qemu = Command::new("qemu-system-x86_64")
            .args([
                "-nodefaults",
                "-no-user-config",
                "-no-reboot",
                "-no-shutdown",
                "-display",
                "none",
                "-accel",
                "tcg",
            ])
            .args([
                "-machine",
                "q35,smm=off,hpet=off,i8042=off,usb=off,sata=off,smbus=off,graphics=off",
                "-cpu",
                "max",
            ])
            .args(["-smp", &vcpus.to_string(), "-m", &format!("{MEMORY}b"), "-bios"])
            .arg(firmware)
            .arg("-kernel")
            .arg(image.join("vmlinuz"))
            .args(["-append", manifest["cmdline"].as_str().or_fail("command line")])
            .args(["-blockdev", &disk, "-device", "virtio-blk-pci,disable-legacy=on,drive=root"])
            .args(["-serial", &format!("file:{}", place("console"))])
            .args(["-qmp", &format!("unix:{},server=on,wait=off", place("monitor"))])
            .stdin(Stdio::null())
            .spawn()
            .or_fail("start QEMU");
        let vm = Self { qemu, directory };
        let deadline = Instant::now() + Duration::from_secs(120);
        while !vm.console().contains("coffer-init: ") {
            assert!(Instant::now() < deadline, "no PID 1 with {}:\n{}", firmware.display(), vm.console());
            sleep(Duration::from_millis(200));
        }
        vm
    }

    fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.directory.join("console")).unwrap_or_default()).into_owned()
    }

    /// All of the guest's memory.
    fn memory(&self, monitor: &mut Monitor) -> Vec<u8> {
        let file = self.directory.join("memory");
        let arguments = json!({ "val": 0, "size": MEMORY, "filename": file.display().to_string() });
        monitor.execute("pmemsave", &arguments);
        fs::read(file).or_fail("read the guest's memory")
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Digests of what the firmware's variable store in memory has for `name`, all copies.
fn variable(memory: &[u8], candidates: &[usize], name: &str) -> Vec<Sha384Digest> {
    let name: Vec<u8> = name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    let found = candidates.iter().copied().filter(|at| memory[*at..].starts_with(&name));
    let data = found.filter_map(|at| {
        // The header before the name (edk2, VariableFormat.h): sizes of name and data, vendor.
        let header = memory.get(at.checked_sub(24)?..at)?;
        let size =
            |at| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
        let start = at + name.len();
        (size(0) == name.len()).then(|| memory.get(start..start + size(4))).flatten()
    });
    data.map(Sha384Digest::of).collect()
}

/// Where two letters that a variable's name below may begin with are, in UTF-16. Headers are 60 bytes long and aligned
/// to 4, so names are, too.
fn candidates(memory: &[u8]) -> Vec<usize> {
    let words = memory.chunks_exact(4).enumerate();
    words.filter(|(_, word)| matches!(word, [b'B' | b'S' | b'P', 0, _, 0])).map(|(at, _)| at * 4).collect()
}

fn digest(log: &EventLog, name: &str) -> Sha384Digest {
    log.events().iter().find(|event| event.name == name).or_fail("an event").digest
}

#[test]
fn rtmr0_is_of_what_the_firmware_sees_and_sets() {
    let firmware = workspace().join("build/firmware-tdx/OVMF.fd");
    assert!(firmware.is_file(), "{} is not there: run guest-image/build firmware", firmware.display());
    let image = fs::read(&firmware).or_fail("read the firmware");
    let parsed = Firmware::parse(&image).or_fail("parse the firmware");
    let logs = [1, 2].map(|vcpus| {
        let vm = Vm::boot(&firmware, vcpus);
        let mut monitor = Monitor::connect(&vm.directory.join("monitor"));
        monitor.execute("stop", &json!({}));
        let files = monitor.acpi_files(vm.qemu.id());
        assert!(files.contains_key(TABLE_LOADER), "{:?}", files.keys());
        let named = acpi_files(&files[TABLE_LOADER]).or_fail("etc/table-loader");
        assert!(named.contains(&"etc/acpi/tables") && named.contains(&"etc/acpi/rsdp"), "{named:?}");
        let log = rtmr0(&parsed, MEMORY, &files).or_fail("RTMR0");
        let memory = vm.memory(&mut monitor);
        let candidates = candidates(&memory);
        let variable = |name| variable(&memory, &candidates, name);
        for name in ["BootOrder", "Boot0000"] {
            let found = variable(name);
            assert!(!found.is_empty(), "the firmware has no variable {name}");
            let expected = digest(&log, &format!("variable {name}"));
            assert!(found.contains(&expected), "{name}: {found:?} and not {expected}");
        }
        assert_eq!(variable("Boot0001"), [], "a boot option that is not in RTMR0");
        for name in ["SecureBoot", "PK"] {
            assert_eq!(variable(name), [], "a variable that RTMR0 has as missing");
        }
        log
    });
    // One more vCPU is in the tables and what describes them, and nowhere else.
    for (one, two) in logs[0].events().iter().zip(logs[1].events()) {
        assert!(one.digest == two.digest || one.name.starts_with("ACPI: "), "{}", one.name);
    }
    let tables = logs.each_ref().map(|log| digest(log, "ACPI: etc/acpi/tables"));
    assert_ne!(tables[0], tables[1]);
}
