//! Claims and releases of emulated GPUs, below a sysfs in a folder.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Instant;

use emulated_gpu::{BootFault, Emulator, Faults, Options, Product, Timing};
use gpu::lock::{GpuLock, holder};
use gpu::quarantine::{Entry, Quarantine};
use slog::{Discard, Logger, o};
use tempfile::TempDir;
use vmm_config::config::{CcMode, GpuMode, NodeConfig};
use vmm_config::passthrough::{Access, HostDevices};

use super::*;
use crate::claims::one_line;

/// Knob and value of confidential computing, as the firmware knows them (`gpu::knob::Knob::CCM`).
const CCM: u16 = 8;

struct Rig {
    root: TempDir,
    emulators: Vec<Emulator>,
}

fn address(index: usize) -> PciAddress {
    format!("0000:4{index:x}:00.0").parse().unwrap()
}

impl Rig {
    fn new(gpus: usize, timing: Timing) -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("sys/bus/pci/devices")).unwrap();
        let emulators = (0..gpus).map(|index| emulate(&root, index, timing)).collect();
        Self { root, emulators }
    }

    fn host(&self) -> GpuHost {
        GpuHost {
            sysfs: self.root.path().join("sys"),
            dev: self.root.path().join("dev"),
            state: self.state(),
            cc_manager: self.root.path().join("cc-manager"),
            emulated: Some(self.root.path().to_owned()),
        }
    }

    fn state(&self) -> PathBuf {
        self.root.path().join("state")
    }

    fn request(&self) -> DevicesRequest {
        let addresses = (0..self.emulators.len()).map(address).collect();
        DevicesRequest { addresses, host: self.host() }
    }

    async fn claim(&self, config: &NodeConfig) -> Result<(Devices, DevicesRecord, HostDevices), String> {
        let log = Logger::root(Discard, o!());
        let planned = DevicesPlan::new(&self.request(), "pod-1").map_err(|error| one_line(&error))?;
        let record = planned.record();
        let mut devices = planned.lock(&log).map_err(|error| one_line(&error))?;
        match devices.verify(config).await {
            Ok(facts) => Ok((devices, record, facts)),
            Err(error) => {
                assert_eq!(devices.release().await, Vec::<String>::new());
                Err(one_line(&error))
            }
        }
    }

    async fn refusal(&self, config: &NodeConfig) -> String {
        let error = self.claim(config).await.map(drop).unwrap_err();
        for index in 0..self.emulators.len() {
            assert_eq!(holder(&self.state(), address(index)).unwrap(), None, "{error}");
        }
        error
    }

    fn resets(&self, index: usize) -> u64 {
        let state = self.emulators[index].state();
        assert!(state.violations.is_empty(), "{:?}", state.violations);
        state.resets
    }

    fn quarantined(&self, index: usize) -> Option<Entry> {
        Quarantine::new(&self.state()).of(address(index)).unwrap()
    }
}

fn emulate(root: &TempDir, index: usize, timing: Timing) -> Emulator {
    let folder = root.path().join("sys/devices").join(address(index).to_string());
    std::fs::create_dir_all(&folder).unwrap();
    // As the kernel shows an H100: three 64-bit BARs, each followed by the line of its upper half.
    let none = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n";
    let resource = format!(
        "0x00000000fd000000 0x00000000fdffffff 0x0000000000140204\n{none}\
         0x0000002000000000 0x0000003fffffffff 0x000000000014220c\n{none}\
         0x0000004000000000 0x0000004001ffffff 0x000000000014220c\n{none}"
    );
    for (name, text) in [
        ("vendor", "0x10de\n"),
        ("device", "0x2330\n"),
        ("class", "0x030200\n"),
        ("subsystem_device", "0x16c1\n"),
        ("resource", &resource),
        ("numa_node", "-1\n"),
    ] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    symlink(&folder, root.path().join("sys/bus/pci/devices").join(address(index).to_string())).unwrap();
    let options = Options {
        product: Product::H100,
        socket: root.path().join(format!("{}.sock", address(index))),
        control: root.path().join(format!("{index}.control")),
        timing,
        memory: None,
        resets_like_vfio: false,
    };
    Emulator::start(&options).unwrap()
}

fn config(cc_mode: CcMode, gpu_mode: GpuMode) -> NodeConfig {
    NodeConfig { cc_mode, gpu_mode, ..NodeConfig::default() }
}

#[tokio::test]
async fn a_gpu_is_set_verified_described_and_given_back_clean() {
    let rig = Rig::new(1, Timing::FAST);
    let (mut devices, _, facts) = rig.claim(&config(CcMode::Manage, GpuMode::On)).await.unwrap();
    assert_eq!(holder(&rig.state(), address(0)).unwrap().as_deref(), Some("pod-1"));
    assert_eq!((rig.emulators[0].state().mode_word & 1, rig.resets(0)), (1, 1));
    let description = facts.devices[0].description();
    assert_eq!(description.address.to_string(), "0000:40:00.0");
    assert_eq!((description.id.to_string().as_str(), description.bars.len()), ("10de:2330", 3));
    assert_eq!(description.bars[1].size, 128 << 30);
    assert!(matches!(&description.access, Access::VfioUser { socket } if socket.as_str().ends_with(".sock")));
    devices.hand_over();
    assert_eq!(devices.release().await, Vec::<String>::new());
    assert_eq!(rig.resets(0), 2);
    assert_eq!((holder(&rig.state(), address(0)).unwrap(), rig.quarantined(0)), (None, None));
    // In the mode already: reset all the same, since nobody knows who had it.
    let (devices, _, _) = rig.claim(&config(CcMode::Verify, GpuMode::On)).await.unwrap();
    assert_eq!(rig.resets(0), 3);
    // No VM had it: nothing to wipe.
    assert_eq!(devices.release().await, Vec::<String>::new());
    assert_eq!(rig.resets(0), 3);
}

#[tokio::test]
async fn a_wrong_mode_that_is_not_ours_to_set_is_refused_untouched() {
    let rig = Rig::new(1, Timing::FAST);
    let error = rig.refusal(&config(CcMode::Verify, GpuMode::On)).await;
    assert!(error.contains("cc_mode = \"verify\"") && error.contains("active mode is off"), "{error}");
    std::fs::write(rig.root.path().join("cc-manager"), "").unwrap();
    let error = rig.refusal(&config(CcMode::Manage, GpuMode::On)).await;
    assert!(error.contains("cc-manager owns it") && error.contains("0000:40:00.0"), "{error}");
    // Settings that wait for a reset are not made active by ours.
    rig.emulators[0].with(|device| device.set_knob(CCM, 1));
    let error = rig.refusal(&config(CcMode::Verify, GpuMode::Off)).await;
    assert!(error.contains("its next reset would make it on"), "{error}");
    assert_eq!((rig.resets(0), rig.quarantined(0)), (0, None));
}

#[tokio::test]
async fn two_hopper_gpus_are_no_set_for_a_confidential_vm() {
    let rig = Rig::new(2, Timing::FAST);
    let error = rig.refusal(&config(CcMode::Manage, GpuMode::On)).await;
    assert!(error.contains("these GPUs cannot go to one VM") && error.contains("whole board"), "{error}");
    rig.claim(&config(CcMode::Manage, GpuMode::Off)).await.unwrap();
}

#[tokio::test]
async fn a_gpu_of_somebody_else_or_in_quarantine_is_refused() {
    let rig = Rig::new(1, Timing::FAST);
    let config = config(CcMode::Verify, GpuMode::Off);
    let lock = GpuLock::take(&rig.state(), address(0), "pod-0").unwrap();
    let error = rig.claim(&config).await.map(drop).unwrap_err();
    assert!(error.contains("0000:40:00.0 is in use by pod-0"), "{error}");
    drop(lock);
    let entry = Entry { reason: "it burns".into(), sandbox: "pod-0".into(), since: 0 };
    Quarantine::new(&rig.state()).put(address(0), &entry).unwrap();
    let error = rig.refusal(&config).await;
    assert!(error.contains("it burns") && error.contains("coffer gpu release 0000:40:00.0"), "{error}");
    assert_eq!(rig.resets(0), 0);
}

#[tokio::test]
async fn a_gpu_that_does_not_come_back_goes_into_quarantine_before_and_after_a_vm() {
    let rig = Rig::new(2, Timing::FAST);
    let off = config(CcMode::Verify, GpuMode::Off);
    let (mut devices, _, _) = rig.claim(&off).await.unwrap();
    devices.hand_over();
    rig.emulators[1].set_faults(Faults { boot: Some(BootFault::Never), ..Faults::default() });
    assert_eq!(devices.release().await, Vec::<String>::new());
    assert_eq!(rig.quarantined(0), None);
    let entry = rig.quarantined(1).unwrap();
    assert!(entry.reason.contains("had not booted") && entry.sandbox == "pod-1", "{entry:?}");
    assert_eq!(holder(&rig.state(), address(1)).unwrap(), None);

    Quarantine::new(&rig.state()).release(address(1)).unwrap();
    let error = rig.refusal(&off).await;
    assert!(error.contains("0000:41:00.0") && error.contains("had not booted"), "{error}");
    assert!(rig.quarantined(1).is_some());
}

#[tokio::test]
async fn the_record_alone_gives_gpus_back_and_leaves_those_of_others() {
    let rig = Rig::new(2, Timing::FAST);
    let (mut devices, record, _) = rig.claim(&config(CcMode::Verify, GpuMode::Off)).await.unwrap();
    devices.hand_over();
    let text = serde_json::to_string(&record).unwrap();
    // As when the shim is killed: nothing of it runs, and its locks are gone.
    drop(devices);
    let _other = GpuLock::take(&rig.state(), address(1), "pod-2").unwrap();
    let before = (rig.resets(0), rig.resets(1));
    let record: DevicesRecord = serde_json::from_str(&text).unwrap();
    record.release().await.unwrap();
    assert_eq!((rig.resets(0), rig.resets(1)), (before.0 + 1, before.1));
    assert_eq!(holder(&rig.state(), address(0)).unwrap(), None);
}

#[tokio::test]
async fn what_is_not_there_or_no_gpu_is_named() {
    let mut rig = Rig::new(1, Timing::FAST);
    std::fs::write(rig.root.path().join("sys/devices/0000:40:00.0/vendor"), "0x8086\n").unwrap();
    let off = config(CcMode::Verify, GpuMode::Off);
    assert!(rig.refusal(&off).await.contains("0000:40:00.0 is no GPU or NVSwitch"));
    rig.emulators.push(emulate(&rig.root, 1, Timing::FAST));
    std::fs::remove_file(rig.root.path().join("sys/bus/pci/devices/0000:40:00.0")).unwrap();
    assert!(rig.refusal(&off).await.contains("no PCI device 0000:40:00.0"));
}

#[tokio::test]
async fn eight_take_hardly_longer_than_one() {
    let timing = Timing { boot: std::time::Duration::from_millis(600), ..Timing::FAST };
    let time = async |gpus| {
        let rig = Rig::new(gpus, timing);
        // The first boot, at power-on, is not what is measured.
        tokio::time::sleep(timing.boot).await;
        let start = Instant::now();
        rig.claim(&config(CcMode::Verify, GpuMode::Off)).await.unwrap();
        start.elapsed()
    };
    let (one, eight) = (time(1).await, time(8).await);
    assert!(eight.as_secs_f64() < 1.3 * one.as_secs_f64(), "one {one:?}, eight {eight:?}");
}
