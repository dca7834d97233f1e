//! `coffer gpu` over emulated GPUs and a sysfs in a folder.

#![allow(clippy::unwrap_used, reason = "all of it is tests")]

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use emulated_gpu::{BootFault, Device, Emulator, Faults, IdentityFault, Options, Product, Timing};
use gpu::lock::{GpuLock, Look};
use gpu::quarantine::Quarantine;
use tempfile::TempDir;

struct Rig {
    root: TempDir,
    emulators: Vec<Emulator>,
}

fn address(index: usize) -> String {
    format!("0000:4{index:x}:00.0")
}

impl Rig {
    fn new(products: &[Product]) -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("sys/bus/pci/devices")).unwrap();
        let mut emulators = Vec::new();
        for (index, product) in products.iter().enumerate() {
            let folder = root.path().join("sys/devices").join(address(index));
            std::fs::create_dir_all(&folder).unwrap();
            let (id, class) = match product {
                Product::H100 => ("0x2330", "0x030200"),
                Product::B200 => ("0x2901", "0x030200"),
                Product::A100 => ("0x20b0", "0x030200"),
                Product::Nvswitch => ("0x22a3", "0x068000"),
                other => panic!("{other:?}"),
            };
            let zeros = "0x0 0x0 0x0\n".repeat(6);
            for (name, text) in [
                ("vendor", "0x10de"),
                ("device", id),
                ("class", class),
                ("subsystem_device", "0x16c1"),
                ("resource", &zeros),
                ("numa_node", "1"),
            ] {
                std::fs::write(folder.join(name), text).unwrap();
            }
            symlink(&folder, root.path().join("sys/bus/pci/devices").join(address(index))).unwrap();
            let options = Options {
                product: *product,
                socket: root.path().join(format!("{index}.sock")),
                control: root.path().join(format!("{index}.control")),
                timing: Timing::FAST,
                memory: None,
                resets_like_vfio: false,
            };
            emulators.push(Emulator::start(&options).unwrap());
        }
        Self { root, emulators }
    }

    fn state(&self) -> PathBuf {
        self.root.path().join("var/lib/coffer/gpu")
    }

    fn coffer(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
        command.arg("gpu").args(args).arg("--root").arg(self.root.path());
        for (index, emulator) in self.emulators.iter().enumerate() {
            command.arg(format!("--emulated={}={}", address(index), emulator.socket().display()));
        }
        command.stdin(Stdio::null()).output().unwrap()
    }

    fn good(&self, args: &[&str]) -> String {
        let output = self.coffer(args);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a failure says; its exit code is 1 and it prints no result.
    fn bad(&self, args: &[&str]) -> String {
        let output = self.coffer(args);
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).unwrap()
    }

    fn word(&self, index: usize) -> u32 {
        let state = self.emulators[index].state();
        assert!(state.violations.is_empty(), "{:?}", state.violations);
        // Without the bit for NVLink's encryption, which Blackwell sets beside the mode.
        state.mode_word & !0x40
    }
}

#[test]
fn a_host_without_gpus_is_told_so_kindly() {
    let rig = Rig::new(&[]);
    assert_eq!(rig.good(&["list"]), "No NVIDIA GPU or NVSwitch on this host.\n");
    assert_eq!(rig.good(&["list", "-o", "json"]), "[]\n");
    assert!(rig.bad(&["cc-mode", "on", "--all"]).contains("there is no NVIDIA GPU"));
}

#[test]
fn list_as_table_and_json() {
    let rig = Rig::new(&[Product::H100, Product::B200, Product::Nvswitch]);
    rig.good(&["cc-mode", "devtools", &address(1)]);
    let expected = "\
ADDRESS       NAME                      CHIP   DRIVER  GROUP  NUMA  CC        PPCIE  HOLDER  STATE
0000:40:00.0  H100 SXM5 80GB            GH100  -       -      1     off       off    -       free
0000:41:00.0  B200                      GB100  -       -      1     devtools  off    -       free
0000:42:00.0  NVSwitch (3rd generation)  LS10   -       -      1     off       off    -       free
0000:42:00.0 not CC-capable: an NVSwitch has protected PCIe only
";
    let squeeze = |text: &str| {
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
    };
    assert_eq!(squeeze(&rig.good(&["list"])), squeeze(expected));
    let list: serde_json::Value = serde_json::from_str(&rig.good(&["list", "-o", "json"])).unwrap();
    let first = &list[0];
    assert_eq!(first["cc-mode"], "off");
    assert_eq!(first["ppcie"], false);
    assert_eq!(first["cc-capable"], true);
    assert_eq!(first["device-id"], "10de:2330");
    assert_eq!(first["quarantine"], serde_json::Value::Null);
}

#[test]
fn modes_are_set_reset_and_verified() {
    let rig = Rig::new(&[Product::H100, Product::B200]);
    assert_eq!(rig.good(&["cc-mode", "on", "--all"]), "0000:40:00.0 on\n0000:41:00.0 on\n");
    assert_eq!((rig.word(0), rig.word(1)), (1, 1));
    rig.good(&["cc-mode", "off", &address(0)]);
    assert_eq!((rig.word(0), rig.word(1)), (0, 1));
    rig.good(&["reset", &address(1)]);
    assert_eq!((rig.word(1), rig.emulators[1].state().resets), (1, 2));
}

#[test]
fn protected_pcie_takes_a_whole_board() {
    let mut products = vec![Product::H100; 8];
    products.extend([Product::Nvswitch; 4]);
    let rig = Rig::new(&products);
    rig.good(&["ppcie", "on", "--all"]);
    assert_eq!((rig.word(0), rig.word(7), rig.word(8), rig.word(11)), (0x20, 0x20, 1, 1));
    rig.good(&["ppcie", "off", "--all"]);
    assert_eq!((rig.word(0), rig.word(11)), (0, 0));
    let seven: Vec<_> = (0..12).filter(|index| *index != 3).map(address).collect();
    let args: Vec<_> = ["ppcie", "on"].into_iter().chain(seven.iter().map(String::as_str)).collect();
    assert!(rig.bad(&args).contains("not 7 and 4"));
}

#[test]
fn a_held_gpu_is_not_touched() {
    let rig = Rig::new(&[Product::H100]);
    let lock = wait(GpuLock::take(&rig.state(), address(0).parse().unwrap(), "pod-7")).unwrap();
    for args in
        [&["cc-mode", "on", "--all"][..], &["reset", "--all"], &["bind", "--all"], &["unbind", "--all"]]
    {
        let error = rig.bad(args);
        assert!(error.contains("in use by pod-7"), "{args:?}: {error}");
    }
    assert!(rig.good(&["list"]).contains("pod-7   in use"));
    assert_eq!((rig.word(0), rig.emulators[0].state().resets), (0, 0));
    drop(lock);
    rig.good(&["cc-mode", "on", "--all"]);
}

/// Runs what waits.
fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

#[test]
fn who_looks_holds_nobody_up_for_longer_than_the_look() {
    let rig = Rig::new(&[Product::H100]);
    let look = wait(Look::begin(&rig.state(), address(0).parse().unwrap())).unwrap();
    std::thread::scope(|scope| {
        let set = scope.spawn(|| rig.good(&["cc-mode", "on", "--all"]));
        wait(async { tokio::time::sleep(Duration::from_millis(500)).await });
        assert!(!set.is_finished(), "it must wait for the look");
        drop(look);
        assert_eq!(set.join().unwrap(), "0000:40:00.0 on\n");
    });
    // Two lists at once, each of which opens the GPU.
    std::thread::scope(|scope| {
        let lists: Vec<_> = (0..3).map(|_| scope.spawn(|| rig.good(&["list"]))).collect();
        for list in lists {
            let list = list.join().unwrap();
            assert!(list.contains(" on ") && list.contains("free") && !list.contains("problem"), "{list}");
        }
    });
}

#[test]
fn a_gpu_that_does_not_boot_is_reset_set_and_released() {
    let rig = Rig::new(&[Product::H100]);
    let stuck = Faults { boot: Some(BootFault::UntilReset), ..Faults::default() };
    rig.emulators[0].set_faults(stuck.clone());
    assert_eq!(rig.good(&["reset", "--all"]), "0000:40:00.0 reset\n");
    let entry = gpu::quarantine::Entry::now(&std::io::Error::other("no answer"), "pod-7");
    Quarantine::new(&rig.state()).put(address(0).parse().unwrap(), &entry).unwrap();
    rig.emulators[0].set_faults(stuck.clone());
    assert_eq!(rig.good(&["release", "--all"]), "0000:40:00.0 released\n");
    assert_eq!(rig.emulators[0].state().resets, 2);
    // Once to have it boot, once for the mode.
    rig.emulators[0].set_faults(stuck);
    assert_eq!(rig.good(&["cc-mode", "on", "--all"]), "0000:40:00.0 on\n");
    assert_eq!(rig.emulators[0].state().resets, 4);
}

#[test]
fn a_gpu_that_hangs_and_cannot_be_reset_is_quarantined_for_hanging() {
    let rig = Rig::new(&[Product::H100]);
    let emulator = &rig.emulators[0];
    emulator.set_faults(Faults { boot: Some(BootFault::UntilReset), ..Faults::default() });
    emulator.with(Device::sleep);
    let error = std::thread::scope(|scope| {
        let set = scope.spawn(|| rig.bad(&["cc-mode", "on", "--all"]));
        // Whoever opens it wakes it, and then waits for it for seconds.
        while emulator.state().power_state != 0 && !set.is_finished() {
            wait(async { tokio::time::sleep(Duration::from_millis(10)).await });
        }
        std::fs::remove_file(emulator.socket()).unwrap();
        set.join().unwrap()
    });
    assert!(error.contains("no reset is possible") && error.contains("had not booted"), "{error}");
    let entry = Quarantine::new(&rig.state()).of(address(0).parse().unwrap()).unwrap().unwrap();
    assert!(entry.reason.contains("had not booted"), "{entry:?}");
    assert_eq!(emulator.state().resets, 0);
}

#[test]
fn a_chip_that_is_not_known_is_shown_reset_and_released() {
    let rig = Rig::new(&[Product::A100]);
    let list = rig.good(&["list"]);
    assert!(list.contains("free") && list.contains("plain VMs"), "{list}");
    rig.good(&["reset", "--all"]);
    let entry = gpu::quarantine::Entry::now(&std::io::Error::other("no answer"), "pod-7");
    Quarantine::new(&rig.state()).put(address(0).parse().unwrap(), &entry).unwrap();
    assert_eq!(rig.good(&["release", "--all"]), "0000:40:00.0 released\n");
    assert!(rig.bad(&["cc-mode", "on", "--all"]).contains("no chip that Coffer knows"));
    assert!(Quarantine::new(&rig.state()).of(address(0).parse().unwrap()).unwrap().is_none());
    assert_eq!(rig.emulators[0].state().resets, 2);
}

#[test]
fn what_sysfs_does_not_tell_is_said_as_such() {
    let rig = Rig::new(&[Product::H100, Product::B200]);
    std::fs::write(rig.root.path().join("sys/devices").join(address(1)).join("resource"), "gibberish")
        .unwrap();
    let output = rig.coffer(&["list"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("H100"));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("cannot be read") && error.contains("0000:41:00.0/resource"), "{error}");
    assert!(rig.bad(&["reset", &address(1)]).contains("0000:41:00.0/resource"));
    rig.good(&["reset", &address(0)]);
    assert!(rig.bad(&["reset", "0000:77:00.0"]).contains("no PCI device 0000:77:00.0"));
}

#[test]
fn cc_manager_owns_the_mode_where_it_runs() {
    let rig = Rig::new(&[Product::H100]);
    let folder = rig.root.path().join("run/nvidia/validations");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(".cc-manager-ctr-ready"), "").unwrap();
    assert!(rig.bad(&["cc-mode", "on", "--all"]).contains("cc-manager owns the mode"));
    assert_eq!(rig.word(0), 0);
}

#[test]
fn one_that_does_not_come_back_is_quarantined_until_it_does() {
    let rig = Rig::new(&[Product::H100]);
    let gpu = address(0).parse().unwrap();
    // Known from its last life: a reset that failed.
    let entry = gpu::quarantine::Entry::now(&std::io::Error::other("no answer"), "pod-7");
    Quarantine::new(&rig.state()).put(gpu, &entry).unwrap();
    assert!(rig.bad(&["cc-mode", "on", "--all"]).contains("had it: no answer"));
    assert!(rig.good(&["list"]).contains("quarantined"));
    rig.emulators[0].set_faults(Faults { identity: Some(IdentityFault::SecurityFault), ..Faults::default() });
    assert!(rig.bad(&["release", "--all"]).contains("stays in quarantine"));
    assert!(Quarantine::new(&rig.state()).of(gpu).unwrap().is_some());
    rig.emulators[0].set_faults(Faults::default());
    assert_eq!(rig.good(&["release", "--all"]), "0000:40:00.0 released\n");
    assert_eq!(rig.good(&["release", "--all"]), "0000:40:00.0 is not in quarantine\n");
    rig.good(&["cc-mode", "on", "--all"]);
}

#[test]
fn a_mode_that_does_not_come_is_told_and_locked_settings_are_named() {
    let rig = Rig::new(&[Product::B200]);
    rig.emulators[0].set_faults(Faults { not_latched: true, ..Faults::default() });
    assert!(rig.bad(&["cc-mode", "on", "--all"]).contains("its active mode is off"));
    let rig = Rig::new(&[Product::B200]);
    rig.emulators[0].set_faults(Faults { locked: [8].into(), ..Faults::default() });
    assert!(rig.bad(&["cc-mode", "on", "--all"]).contains("locked against the host"));
}

#[test]
fn a_gpu_of_a_driver_is_refused() {
    let rig = Rig::new(&[Product::H100]);
    let folder = rig.root.path().join("sys/devices").join(address(0));
    symlink(rig.root.path().join("sys/bus/pci/drivers/nvidia"), folder.join("driver")).unwrap();
    for args in [&["bind", "--all"][..], &["unbind", "--all"], &["reset", "--all"]] {
        assert!(rig.bad(args).contains("nvidia"), "{args:?}");
    }
    assert_eq!(rig.emulators[0].state().resets, 0);
}
