//! Claims and releases of emulated GPUs, below a sysfs in a folder.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use emulated_gpu::{
    BootFault, Device, Emulator, Faults, IdentityFault, Options, Product, ReplyFault, Timing,
};
use futures_util::future::join_all;
use gpu::lock::{GpuLock, holder};
use gpu::quarantine::{Entry, Quarantine};
use gpu::registers::VfioUser;
use host_claims::cgroup::{CgroupPath, CgroupPlan, CgroupRecord, Limits, SandboxCgroup};
use host_claims::vsock::{PROGRAM, VHOST_USER_SOCKET, VsockPlan};
use shared_types::{GpuMode as Mode, ModePolicy, one_line};
use slog::{Discard, Logger, o};
use tempfile::TempDir;
use vmm_config::config::{AutoOr, NodeConfig};
use vmm_config::passthrough::{Access, HostDevices};

use super::*;

use crate::claims::Claims;
use crate::state::{self, StateDir};

/// Knob and value of confidential computing, as the firmware knows them (`gpu::knob::Knob::CCM`).
const CCM: u16 = 8;

fn quiet() -> Logger {
    Logger::root(Discard, o!())
}

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

    fn of(product: Product) -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("sys/bus/pci/devices")).unwrap();
        let emulators = vec![emulate_product(&root, 0, Timing::FAST, product)];
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
        let planned = DevicesPlan::new(&self.request(), "pod-1").map_err(|error| one_line(&error))?;
        let (mut devices, record) = planned.lock(&quiet()).await.map_err(|error| one_line(&error))?;
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

    fn power_files(&self, index: usize) -> [PathBuf; 2] {
        let device = self.root.path().join("sys/devices").join(address(index).to_string());
        ["d3cold_allowed", "power/control"].map(|name| device.join(name))
    }

    /// Of all: whether they may go to D3cold, and their power management.
    fn set_power(&self, settings: [&str; 2]) {
        for (path, text) in (0..self.emulators.len())
            .flat_map(|index| self.power_files(index))
            .zip(settings.into_iter().cycle())
        {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    fn power(&self, index: usize) -> [String; 2] {
        self.power_files(index).map(|path| std::fs::read_to_string(path).unwrap())
    }

    fn quarantined(&self, index: usize) -> Option<Entry> {
        Quarantine::new(&self.state()).of(address(index)).unwrap()
    }
}

fn emulate(root: &TempDir, index: usize, timing: Timing) -> Emulator {
    emulate_product(root, index, timing, Product::H100)
}

fn emulate_product(root: &TempDir, index: usize, timing: Timing, product: Product) -> Emulator {
    let folder = root.path().join("sys/devices").join(address(index).to_string());
    std::fs::create_dir_all(&folder).unwrap();
    emulated_gpu::sysfs::write(&folder, product).unwrap();
    symlink(&folder, root.path().join("sys/bus/pci/devices").join(address(index).to_string())).unwrap();
    let options = Options {
        product,
        socket: root.path().join(format!("{}.sock", address(index))),
        control: root.path().join(format!("{index}.control")),
        timing,
        memory: None,
        resets_like_vfio: false,
    };
    Emulator::start(&options).unwrap()
}

fn config(cc_mode: ModePolicy, gpu_mode: AutoOr<Mode>) -> NodeConfig {
    NodeConfig { cc_mode, gpu_mode, ..NodeConfig::default() }
}

/// What the fabric manager says of a board of which these two are the modules 1 and 2, and which joins 1 and 3.
fn board(rig: &Rig, modules: [u32; 2]) {
    let folder = rig.state().join("fabric");
    std::fs::create_dir_all(&folder).unwrap();
    let list =
        r#"{"partitionInfo": [{"partitionId": 4, "gpuInfo": [{"physicalId": 1}, {"physicalId": 3}]}]}"#;
    std::fs::write(folder.join("partitions.json"), list).unwrap();
    let lines = format!("{} {}\n{} {}\n", address(0), modules[0], address(1), modules[1]);
    std::fs::write(folder.join("modules"), lines).unwrap();
}

#[tokio::test]
async fn gpus_that_their_board_does_not_join_are_refused_untouched() {
    let rig = Rig::new(2, Timing::FAST);
    let off = config(ModePolicy::Verify, AutoOr::Is(Mode::Off));
    board(&rig, [1, 2]);
    let error = rig.refusal(&off).await;
    for words in ["0000:40:00.0 (module 1)", "no partition", "of 2 GPUs there are the modules 1+3"] {
        assert!(error.contains(words), "{error}");
    }
    assert_eq!((rig.resets(0), rig.resets(1)), (0, 0));
    board(&rig, [3, 1]);
    let (devices, _, facts) = rig.claim(&off).await.unwrap();
    assert_eq!(facts.devices.len(), 2);
    assert_eq!(devices.release().await, Vec::<String>::new());
    std::fs::write(rig.state().join("fabric/modules"), "nonsense\n").unwrap();
    assert!(rig.refusal(&off).await.contains("fabric/modules:1"));
}

#[tokio::test]
async fn a_gpu_is_set_verified_described_and_given_back_clean() {
    let rig = Rig::new(1, Timing::FAST);
    let (mut devices, _, facts) = rig.claim(&config(ModePolicy::Manage, AutoOr::Is(Mode::On))).await.unwrap();
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
    let (devices, _, _) = rig.claim(&config(ModePolicy::Verify, AutoOr::Is(Mode::On))).await.unwrap();
    assert_eq!(rig.resets(0), 3);
    // No VM had it: nothing to wipe.
    assert_eq!(devices.release().await, Vec::<String>::new());
    assert_eq!(rig.resets(0), 3);
}

#[tokio::test]
async fn a_wrong_mode_that_is_not_ours_to_set_is_refused_untouched() {
    let rig = Rig::new(1, Timing::FAST);
    let error = rig.refusal(&config(ModePolicy::Verify, AutoOr::Is(Mode::On))).await;
    assert!(error.contains("cc_mode = \"verify\"") && error.contains("active mode is off"), "{error}");
    std::fs::write(rig.root.path().join("cc-manager"), "").unwrap();
    let error = rig.refusal(&config(ModePolicy::Manage, AutoOr::Is(Mode::On))).await;
    assert!(error.contains("cc-manager owns it") && error.contains("0000:40:00.0"), "{error}");
    // Settings that wait for a reset are not made active by ours.
    rig.emulators[0].with(|device| device.set_knob(CCM, 1));
    let error = rig.refusal(&config(ModePolicy::Verify, AutoOr::Is(Mode::Off))).await;
    assert!(error.contains("its next reset would make it on"), "{error}");
    assert_eq!((rig.resets(0), rig.quarantined(0)), (0, None));
}

#[tokio::test]
async fn two_hopper_gpus_are_no_set_for_a_confidential_vm() {
    let rig = Rig::new(2, Timing::FAST);
    let error = rig.refusal(&config(ModePolicy::Manage, AutoOr::Is(Mode::On))).await;
    assert!(error.contains("these GPUs cannot go to one VM") && error.contains("whole board"), "{error}");
    // Refused before anything was done to them.
    for (index, emulator) in rig.emulators.iter().enumerate() {
        assert_eq!((rig.resets(index), emulator.state().requests), (0, vec![]));
    }
    rig.claim(&config(ModePolicy::Manage, AutoOr::Is(Mode::Off))).await.unwrap();
}

#[tokio::test]
async fn a_gpu_of_somebody_else_or_in_quarantine_is_refused() {
    let rig = Rig::new(1, Timing::FAST);
    let config = config(ModePolicy::Verify, AutoOr::Is(Mode::Off));
    let lock = GpuLock::take(&rig.state(), address(0), "pod-0").await.unwrap();
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
    let off = config(ModePolicy::Verify, AutoOr::Is(Mode::Off));
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
    rig.set_power(["1", "auto"]);
    let (mut devices, record, _) =
        rig.claim(&config(ModePolicy::Verify, AutoOr::Is(Mode::Off))).await.unwrap();
    devices.hand_over();
    let text = serde_json::to_string(&record).unwrap();
    // As when the shim is killed: nothing of it runs, and its locks are gone; the settings stay.
    drop(devices);
    assert_eq!([rig.power(0), rig.power(1)], [["1", "auto"]; 2]);
    rig.set_power(["0", "on"]);
    let _other = GpuLock::take(&rig.state(), address(1), "pod-2").await.unwrap();
    let before = (rig.resets(0), rig.resets(1));
    let mut record: DevicesRecord = serde_json::from_str(&text).unwrap();
    // What is given back, or somebody else's, is so for ever.
    for _ in 0..2 {
        record.release(&quiet()).await.unwrap();
        assert_eq!((rig.resets(0), rig.resets(1)), (before.0 + 1, before.1));
        assert_eq!([rig.power(0), rig.power(1)], [["1", "auto"], ["0", "on"]]);
        assert_eq!(holder(&rig.state(), address(0)).unwrap(), None);
    }
    rig.set_power(["0", "on"]);
    record.release(&quiet()).await.unwrap();
    assert_eq!([rig.power(0), rig.power(1)], [["0", "on"]; 2], "the next pod's");
}

#[tokio::test]
async fn one_that_cannot_be_locked_keeps_no_other_from_being_given_back() {
    let rig = Rig::new(2, Timing::FAST);
    rig.set_power(["1", "auto"]);
    let (devices, mut record, _) =
        rig.claim(&config(ModePolicy::Verify, AutoOr::Is(Mode::Off))).await.unwrap();
    drop(devices);
    rig.set_power(["0", "on"]);
    let lock = rig.state().join("0000:40:00.0.lock");
    std::fs::remove_file(&lock).unwrap();
    std::fs::create_dir(&lock).unwrap();
    let before = (rig.resets(0), rig.resets(1));
    for _ in 0..2 {
        let error = one_line(&record.release(&quiet()).await.unwrap_err());
        assert!(error.contains("cannot lock GPU 0000:40:00.0"), "{error}");
        assert_eq!((rig.resets(0), rig.resets(1)), (before.0, before.1 + 1));
        assert_eq!([rig.power(0), rig.power(1)], [["0", "on"], ["1", "auto"]]);
    }
    std::fs::remove_dir(&lock).unwrap();
    record.release(&quiet()).await.unwrap();
    assert_eq!((rig.resets(0), rig.resets(1)), (before.0 + 1, before.1 + 1));
    assert_eq!(rig.power(0), ["1", "auto"]);
}

#[tokio::test]
async fn gpus_are_given_back_once_whatever_else_stays_of_a_sandbox() {
    let rig = Rig::new(1, Timing::FAST);
    let (devices, record, _) = rig.claim(&config(ModePolicy::Verify, AutoOr::Is(Mode::Off))).await.unwrap();
    drop(devices);
    let root = rig.root.path().join("run");
    let (dir, cgroup) = recorded(&rig, &root, record).await;
    let directory = cgroup.directories().next().unwrap().to_owned();
    let resets = rig.resets(0);
    for _ in 0..2 {
        let failures = state::release(dir.path(), &quiet()).await;
        assert_eq!((failures.len(), rig.resets(0)), (1, resets + 1), "{failures:?}");
        assert_eq!(failures[0].to_string(), "cannot release the sandbox's cgroup");
    }
    std::fs::remove_dir(directory.join("busy")).unwrap();
    assert!(state::release(dir.path(), &quiet()).await.is_empty());
    assert!(!directory.exists() && !dir.path().exists());
    assert_eq!(rig.resets(0), resets + 1);
}

#[tokio::test]
async fn what_a_living_shim_has_given_back_is_not_in_the_record_that_stays() {
    let rig = Rig::new(1, Timing::FAST);
    let (mut devices, record, _) =
        rig.claim(&config(ModePolicy::Verify, AutoOr::Is(Mode::Off))).await.unwrap();
    devices.hand_over();
    let root = rig.root.path().join("run");
    let (dir, cgroup) = recorded(&rig, &root, record).await;
    let path = dir.path().to_owned();
    let directory = cgroup.directories().next().unwrap().to_owned();
    let claims = Claims {
        dir,
        vsock: None,
        network: None,
        cgroup: Some(cgroup),
        devices: Some(devices),
        scratch: None,
    };
    let resets = rig.resets(0);
    let failures = claims.release().await;
    assert!(failures.len() == 1 && failures[0].contains("the sandbox's cgroup"), "{failures:?}");
    assert_eq!(state::release(&path, &quiet()).await.len(), 1);
    std::fs::remove_dir(directory.join("busy")).unwrap();
    assert!(state::release(&path, &quiet()).await.is_empty());
    assert_eq!((rig.resets(0), path.exists()), (resets + 1, false));
}

/// A sandbox whose record names these devices, and a cgroup that cannot be removed.
async fn recorded(rig: &Rig, root: &Path, devices: DevicesRecord) -> (StateDir, SandboxCgroup) {
    let mut dir = StateDir::create(root, "k8s.io", "pod-1", &quiet()).await.unwrap();
    let cgroup = busy_cgroup(rig);
    dir.update(|state| {
        state.devices = Some(devices);
        let directory = cgroup.directories().next().unwrap().to_owned();
        state.cgroup = Some(CgroupRecord { directories: vec![directory] });
    })
    .unwrap();
    (dir, cgroup)
}

/// A cgroup that does not go.
fn busy_cgroup(rig: &Rig) -> SandboxCgroup {
    let root = rig.root.path().join("cgroup");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("cgroup.controllers"), "").unwrap();
    let path = CgroupPath::parse("/pod").unwrap();
    let cgroup = CgroupPlan::new(&root, &path, "pod-1", Limits::Asked).claim().unwrap();
    std::fs::create_dir(cgroup.directories().next().unwrap().join("busy")).unwrap();
    cgroup
}

/// The pod before this one puts its settings back while this one is planned.
#[tokio::test]
async fn power_settings_are_those_that_are_found_under_the_lock() {
    let rig = Rig::new(1, Timing::FAST);
    rig.set_power(["0", "on"]);
    let planned = DevicesPlan::new(&rig.request(), "pod-1").unwrap();
    rig.set_power(["1", "auto"]);
    let (mut devices, mut record) = planned.lock(&quiet()).await.unwrap();
    assert_eq!(rig.power(0), ["1", "auto"], "nothing is changed before it is written down");
    devices.verify(&config(ModePolicy::Verify, AutoOr::Is(Mode::Off))).await.unwrap();
    assert_eq!(rig.power(0), ["0", "on"]);
    assert_eq!(devices.release().await, Vec::<String>::new());
    assert_eq!(rig.power(0), ["1", "auto"]);
    // The record alone does the same.
    rig.set_power(["0", "on"]);
    record.release(&quiet()).await.unwrap();
    assert_eq!(rig.power(0), ["1", "auto"]);
}

#[tokio::test]
async fn what_is_not_there_or_no_gpu_is_named() {
    let mut rig = Rig::new(1, Timing::FAST);
    std::fs::write(rig.root.path().join("sys/devices/0000:40:00.0/vendor"), "0x8086\n").unwrap();
    let off = config(ModePolicy::Verify, AutoOr::Is(Mode::Off));
    assert!(rig.refusal(&off).await.contains("0000:40:00.0 is no GPU or NVSwitch"));
    rig.emulators.push(emulate(&rig.root, 1, Timing::FAST));
    std::fs::remove_file(rig.root.path().join("sys/bus/pci/devices/0000:40:00.0")).unwrap();
    assert!(rig.refusal(&off).await.contains("no PCI device 0000:40:00.0"));
}

/// An A100, an L40, or whatever comes next: a plain VM gets it, a confidential one does not, and it is well in both cases.
#[tokio::test]
async fn a_chip_that_is_not_known_goes_to_a_plain_vm() {
    let rig = Rig::of(Product::A100);
    for cc_mode in [ModePolicy::Verify, ModePolicy::Manage] {
        for gpu_mode in [AutoOr::Auto, AutoOr::Is(Mode::Off)] {
            let (mut devices, _, facts) = rig.claim(&config(cc_mode, gpu_mode)).await.unwrap();
            assert_eq!(facts.devices[0].description().id.to_string(), "10de:20b0");
            devices.hand_over();
            assert_eq!(devices.release().await, Vec::<String>::new());
        }
        let error = rig.refusal(&config(cc_mode, AutoOr::Is(Mode::On))).await;
        assert!(error.contains("0000:40:00.0 is not known") && error.contains("plain VM"), "{error}");
    }
    // Before and after each of four VMs, and not once for those that were refused.
    assert_eq!((rig.resets(0), rig.quarantined(0)), (8, None));
    assert_eq!(rig.emulators[0].state().requests, vec![]);
}

/// A firmware that hangs after a VM, until it is reset.
#[tokio::test]
async fn a_gpu_that_does_not_boot_after_a_vm_is_reset_before_it_is_given_up() {
    let rig = Rig::new(1, Timing::FAST);
    let (mut devices, _, _) = rig.claim(&config(ModePolicy::Verify, AutoOr::Is(Mode::Off))).await.unwrap();
    devices.hand_over();
    let before = rig.resets(0);
    rig.emulators[0].set_faults(Faults { boot: Some(BootFault::UntilReset), ..Faults::default() });
    assert_eq!(devices.release().await, Vec::<String>::new());
    assert_eq!((rig.resets(0), rig.quarantined(0)), (before + 1, None));
}

/// As above, since before anybody wanted it. Where the mode is not ours to set, no GPU is reset before its settings are read.
#[tokio::test]
async fn a_gpu_that_does_not_boot_at_a_start_is_reset_where_its_mode_is_ours() {
    let hang = Faults { boot: Some(BootFault::UntilReset), ..Faults::default() };
    for (gpus, mode) in [(1, Mode::On), (2, Mode::Off)] {
        let manage = config(ModePolicy::Manage, AutoOr::Is(mode));
        let (usual, rig) = (Rig::new(gpus, Timing::FAST), Rig::new(gpus, Timing::FAST));
        usual.claim(&manage).await.unwrap();
        rig.emulators[0].set_faults(hang.clone());
        rig.claim(&manage).await.unwrap();
        for index in 0..gpus {
            assert_eq!((rig.resets(index), rig.quarantined(index)), (usual.resets(index) + 1, None));
        }
    }

    let rig = Rig::new(1, Timing::FAST);
    rig.emulators[0].set_faults(hang.clone());
    let error = rig.refusal(&config(ModePolicy::Verify, AutoOr::Is(Mode::Off))).await;
    assert!(error.contains("had not booted") && rig.quarantined(0).is_some(), "{error}");
    assert_eq!(rig.resets(0), 0);

    let rig = Rig::new(1, Timing::FAST);
    rig.emulators[0].set_faults(hang);
    std::fs::write(rig.root.path().join("cc-manager"), "").unwrap();
    let error = rig.refusal(&config(ModePolicy::Manage, AutoOr::Is(Mode::Off))).await;
    assert!(error.contains("had not booted") && rig.resets(0) == 0, "{error}");
}

/// Whichever of a set it is that cannot be opened again for the reset.
#[tokio::test]
async fn a_gpu_that_hangs_and_cannot_be_reset_is_quarantined_for_hanging() {
    let runs = [0, 1].map(async |index: usize| {
        let rig = Rig::new(2, Timing::FAST);
        rig.emulators[0].set_faults(Faults { boot: Some(BootFault::UntilReset), ..Faults::default() });
        // Whoever opens them wakes them, and then waits for the first one for seconds.
        rig.emulators.iter().for_each(|emulator| emulator.with(Device::sleep));
        let close = async {
            while rig.emulators.iter().any(|emulator| emulator.state().power_state != 0) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            std::fs::remove_file(rig.emulators[index].socket()).unwrap();
        };
        let manage = config(ModePolicy::Manage, AutoOr::Is(Mode::Off));
        let close = tokio::time::timeout(Duration::from_secs(30), close);
        let (error, closed) = tokio::join!(rig.refusal(&manage), close);
        closed.unwrap();
        assert!(error.contains("0000:40:00.0") && error.contains("had not booted"), "{error}");
        let entry = rig.quarantined(0).unwrap();
        assert!(entry.reason.contains("had not booted"), "{entry:?}");
        assert_eq!((rig.quarantined(1), rig.resets(0), rig.resets(1)), (None, 0, 0));
    });
    join_all(runs).await;
}

/// A known chip whose firmware knows no confidential computing goes to a plain VM, as it is off.
#[tokio::test]
async fn a_firmware_without_the_modes_settings_goes_to_a_plain_vm() {
    for product in [Product::H100, Product::B200] {
        for cc_mode in [ModePolicy::Verify, ModePolicy::Manage] {
            let rig = Rig::of(product);
            let knob_errors = [5, 6, 7, 8].map(|knob| (knob, 0x1e3)).into();
            rig.emulators[0].set_faults(Faults { knob_errors, ..Faults::default() });
            let (devices, _, _) = rig.claim(&config(cc_mode, AutoOr::Is(Mode::Off))).await.unwrap();
            assert_eq!(devices.release().await, Vec::<String>::new());
            let resets = rig.resets(0);
            let error = rig.refusal(&config(cc_mode, AutoOr::Is(Mode::On))).await;
            let words = match cc_mode {
                ModePolicy::Manage => "mode on is not to be had: its firmware lacks a setting",
                ModePolicy::Verify => "active mode is off",
            };
            assert!(error.contains(words), "{error}");
            // A refusal: nothing to clean.
            assert_eq!((rig.resets(0), rig.quarantined(0)), (resets, None));
        }
    }
}

/// A firmware that refuses every request says nothing of what the next reset will bring. Nobody has explained the code.
#[tokio::test]
async fn a_firmware_that_refuses_every_request_is_refused_for_a_plain_vm_too() {
    for cc_mode in [ModePolicy::Verify, ModePolicy::Manage] {
        let rig = Rig::new(1, Timing::FAST);
        rig.emulators[0].set_faults(Faults { every_error: Some(0x202), ..Faults::default() });
        let error = rig.refusal(&config(cc_mode, AutoOr::Is(Mode::Off))).await;
        assert!(error.contains("0x202") && error.contains("try another VBIOS"), "{error}");
        assert_eq!(rig.quarantined(0), None);
        rig.emulators[0].set_faults(Faults::default());
        rig.claim(&config(cc_mode, AutoOr::Is(Mode::Off))).await.unwrap();
    }
}

/// All that is documented to go wrong with a GPU: told with its cause, and then it is free if it comes back from a reset, or
/// in quarantine.
#[tokio::test]
async fn every_fault_stops_the_start_and_leaves_the_gpu_free_or_in_quarantine() {
    type Change = fn(&mut Faults);
    let faults: [(Change, &str, bool); 15] = [
        (|f| f.boot = Some(BootFault::Never), "had not booted after 5 s", true),
        (|f| f.boot = Some(BootFault::Blocked), "blocked or not ready", true),
        (|f| f.identity = Some(IdentityFault::Gone), "off its bus", true),
        (|f| f.identity = Some(IdentityFault::AllOnes), "off its bus", true),
        (|f| f.identity = Some(IdentityFault::SecurityFault), "locked itself down", true),
        (|f| f.identity = Some(IdentityFault::Recovery), "recovery mode", true),
        (|f| f.recovers = true, "recovery mode", true),
        (|f| f.reply = Some(ReplyFault::Lost), "did not do what it was asked for", false),
        (|f| f.reply = Some(ReplyFault::Short), "did not do what it was asked for", false),
        (|f| f.reply = Some(ReplyFault::OtherType), "did not do what it was asked for", false),
        (|f| f.reply = Some(ReplyFault::OtherRequest), "did not do what it was asked for", false),
        (|f| f.every_error = Some(0x202), "0x202", false),
        (|f| f.locked = [CCM].into(), "locked against the host", false),
        (|f| f.not_latched = true, "active mode is off", false),
        (|f| f.mode_word = Some(2), "devtools without confidential computing", false),
    ];
    let on = config(ModePolicy::Manage, AutoOr::Is(Mode::On));
    // Long enough for a boot to be seen that is not over, on a busy machine, too.
    let timing = Timing { boot: Duration::from_secs(1), ..Timing::FAST };
    let runs = faults.map(async |(change, words, lost)| {
        let rig = Rig::new(1, timing);
        let mut faults = Faults::default();
        change(&mut faults);
        rig.emulators[0].set_faults(faults);
        let error = rig.refusal(&on).await;
        assert!(error.contains(words) && error.contains("0000:40:00.0"), "{words}: {error}");
        assert_eq!(rig.quarantined(0).is_some_and(|entry| entry.reason.contains(words)), lost, "{error}");
        if !lost {
            // The next pod gets it.
            rig.emulators[0].set_faults(Faults::default());
            rig.claim(&on).await.unwrap();
        }
    });
    join_all(runs).await;
}

/// Whoever has it next, and only reads the mode, finds one that is the settings'.
#[tokio::test]
async fn a_gpu_that_does_not_take_its_settings_is_reset_once_more() {
    let rig = Rig::new(1, Timing::FAST);
    rig.emulators[0].set_faults(Faults { not_latched: true, ..Faults::default() });
    let error = rig.refusal(&config(ModePolicy::Manage, AutoOr::Is(Mode::On))).await;
    assert!(error.contains("active mode is off"), "{error}");
    assert_eq!((rig.emulators[0].state().resets, rig.quarantined(0).is_some()), (2, false));
}

#[tokio::test]
async fn what_is_only_unusual_is_no_fault() {
    let faults: [fn(&mut Faults); 3] =
        [|f| f.no_ppcie = true, |f| f.reply = Some(ReplyFault::Late(300)), |f| f.mode_extra = 0x100];
    for change in faults {
        let rig = Rig::new(1, Timing::FAST);
        let mut faults = Faults::default();
        change(&mut faults);
        rig.emulators[0].set_faults(faults);
        rig.emulators[0].with(|device| {
            device.sleep();
            device.leave_stale_reply();
        });
        rig.claim(&config(ModePolicy::Manage, AutoOr::Is(Mode::On))).await.unwrap();
    }
}

#[tokio::test]
async fn a_gpu_that_goes_while_it_is_set_is_not_for_the_next_pod() {
    let timing = Timing { reply: Duration::from_millis(20), ..Timing::FAST };
    let rig = Rig::new(1, timing);
    let go = async {
        while rig.emulators[0].state().knobs[&CCM] == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let identity = Some(IdentityFault::SecurityFault);
        rig.emulators[0].set_faults(Faults { identity, ..Faults::default() });
    };
    let config = config(ModePolicy::Manage, AutoOr::Is(Mode::Devtools));
    let (error, ()) = tokio::join!(rig.refusal(&config), go);
    assert!(error.contains("writing settings failed"), "{error}");
    assert!(rig.quarantined(0).unwrap().reason.contains("locked itself down"));
}

#[tokio::test]
async fn settings_that_were_written_for_a_pod_that_did_not_start_do_not_wait_for_the_next() {
    let rig = Rig::new(2, Timing::FAST);
    for emulator in &rig.emulators {
        emulator.with(|device| {
            device.set_knob(CCM, 1);
            device.reset(Instant::now());
        });
    }
    // Both are to be off; the second can be read, and does not write.
    rig.emulators[1].set_faults(Faults { write_error: Some(0x202), ..Faults::default() });
    let error = rig.refusal(&config(ModePolicy::Manage, AutoOr::Is(Mode::Off))).await;
    assert!(error.contains("0000:41:00.0: writing settings failed"), "{error}");
    let first = rig.emulators[0].state();
    assert_eq!((first.knobs[&CCM], first.mode_word & 1, first.resets), (0, 0, 2));
    assert_eq!((rig.quarantined(0), rig.quarantined(1)), (None, None));
}

#[tokio::test]
async fn gpus_in_different_modes_are_told_by_name() {
    let rig = Rig::new(2, Timing::FAST);
    rig.emulators[1].with(|device| {
        device.set_knob(CCM, 1);
        device.reset(Instant::now());
    });
    let error = rig.refusal(&config(ModePolicy::Verify, AutoOr::Is(Mode::Off))).await;
    assert!(error.contains("0000:41:00.0") && error.contains("active mode is on"), "{error}");
    assert!(!error.contains("0000:40:00.0"), "{error}");
    assert_eq!((rig.resets(0), rig.resets(1)), (0, 1));
}

#[tokio::test]
async fn seven_gpus_of_eight_are_no_board() {
    let rig = Rig::new(7, Timing::FAST);
    for cc_mode in [ModePolicy::Verify, ModePolicy::Manage] {
        let error = rig.refusal(&config(cc_mode, AutoOr::Is(Mode::Ppcie))).await;
        assert!(error.contains("8 GPUs and 4 NVSwitches, not 7 and 0"), "{error}");
        for (index, emulator) in rig.emulators.iter().enumerate() {
            assert_eq!((rig.resets(index), emulator.state().requests), (0, vec![]));
        }
    }
}

#[test]
fn a_gpu_that_another_driver_has_or_none_is_refused() {
    let rig = Rig::new(1, Timing::FAST);
    let request =
        DevicesRequest { host: GpuHost { emulated: None, ..rig.host() }, addresses: vec![address(0)] };
    let refusal = || one_line(&DevicesPlan::new(&request, "pod-1").unwrap_err());
    assert!(refusal().contains("0000:40:00.0 is without a driver"), "{}", refusal());
    let drivers = rig.root.path().join("sys/bus/pci/drivers/nvidia");
    std::fs::create_dir_all(&drivers).unwrap();
    symlink(&drivers, rig.root.path().join("sys/devices/0000:40:00.0/driver")).unwrap();
    let error = refusal();
    assert!(error.contains("bound to driver \"nvidia\"") && error.contains("coffer gpu bind"), "{error}");
}

#[tokio::test]
async fn a_vm_that_lets_go_late_is_waited_for_and_one_that_does_not_costs_the_gpu() {
    let rig = Rig::new(2, Timing::FAST);
    let (mut devices, _, _) = rig.claim(&config(ModePolicy::Verify, AutoOr::Is(Mode::Off))).await.unwrap();
    devices.hand_over();
    let hold = async |index: usize| {
        VfioUser::connect(rig.emulators[index].socket(), Duration::from_secs(5)).await.unwrap()
    };
    let (late, never) = (hold(0).await, hold(1).await);
    let go = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(late);
    };
    let (failures, ()) = tokio::join!(devices.release(), go);
    assert_eq!(failures, Vec::<String>::new());
    assert_eq!(rig.quarantined(0), None);
    let reason = rig.quarantined(1).unwrap().reason;
    assert!(reason.contains("cannot reach") && reason.contains("timed out"), "{reason}");
    drop(never);
}

/// Over the kernel's vhost it is so: an open descriptor keeps QEMU's memory, and that the device.
#[tokio::test]
async fn a_device_is_opened_only_after_what_keeps_it_busy_is_closed() {
    let rig = Rig::new(1, Timing::FAST);
    let (mut devices, _, _) = rig.claim(&config(ModePolicy::Verify, AutoOr::Is(Mode::Off))).await.unwrap();
    devices.hand_over();
    let resets = rig.resets(0);
    let root = rig.root.path().join("run");
    let dir = StateDir::create(&root, "k8s.io", "pod-1", &quiet()).await.unwrap();
    let program = rig.root.path().join(PROGRAM);
    std::fs::write(&program, "#!/bin/sh\n: > vsock.sock; : > vhost.sock; exec sleep 600\n").unwrap();
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let socket = dir.path().join(VHOST_USER_SOCKET);
    let vsock = VsockPlan::User { program, state_dir: dir.path().to_owned() }.claim(None).await.unwrap();
    let held = VfioUser::connect(rig.emulators[0].socket(), Duration::from_secs(5)).await.unwrap();
    let go = async {
        while socket.exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(held);
    };
    let claims = Claims {
        dir,
        vsock: Some(vsock),
        network: None,
        cgroup: None,
        devices: Some(devices),
        scratch: None,
    };
    let (failures, ()) = tokio::join!(claims.release(), go);
    assert_eq!((failures, rig.quarantined(0)), (Vec::<String>::new(), None));
    assert!(rig.resets(0) > resets);
}

#[tokio::test]
async fn a_gpu_that_vanishes_under_its_vm_goes_into_quarantine() {
    let rig = Rig::new(1, Timing::FAST);
    let (mut devices, _, _) = rig.claim(&config(ModePolicy::Verify, AutoOr::Is(Mode::Off))).await.unwrap();
    devices.hand_over();
    rig.emulators[0].set_faults(Faults { identity: Some(IdentityFault::Gone), ..Faults::default() });
    assert_eq!(devices.release().await, Vec::<String>::new());
    assert!(rig.quarantined(0).unwrap().reason.contains("off its bus"));
}

/// With a boot that takes as long as hardware's. The best of some tries: what else this machine does is not to be measured.
#[tokio::test]
async fn eight_are_set_in_hardly_more_time_than_one() {
    let set = async |gpus| {
        let rig = Rig::new(gpus, Timing::REAL);
        let booted = Instant::now().checked_sub(Timing::REAL.boot).unwrap();
        for emulator in &rig.emulators {
            emulator.with(|device| {
                device.set_knob(CCM, 1);
                device.reset(booted);
            });
        }
        let start = Instant::now();
        rig.claim(&config(ModePolicy::Manage, AutoOr::Is(Mode::Off))).await.unwrap();
        start.elapsed()
    };
    let (mut one, mut eight) = (Duration::MAX, Duration::MAX);
    for _ in 0..3 {
        (one, eight) = (one.min(set(1).await), eight.min(set(8).await));
        if eight.as_secs_f64() <= 1.3 * one.as_secs_f64() {
            break;
        }
    }
    println!("set: one {one:?}, eight {eight:?}");
    assert!(one >= Timing::REAL.boot, "the boot was waited for");
    assert!(eight.as_secs_f64() <= 1.3 * one.as_secs_f64(), "one {one:?}, eight {eight:?}");
}

#[tokio::test]
async fn a_gpu_whose_quarantine_cannot_be_written_stays_locked() {
    let rig = Rig::new(1, Timing::FAST);
    std::fs::create_dir_all(rig.state().join(".0000:40:00.0.draft")).unwrap();
    rig.emulators[0].set_faults(Faults { boot: Some(BootFault::Never), ..Faults::default() });
    rig.claim(&config(ModePolicy::Verify, AutoOr::Is(Mode::Off))).await.map(drop).unwrap_err();
    assert_eq!(holder(&rig.state(), address(0)).unwrap().as_deref(), Some("pod-1"));
}
