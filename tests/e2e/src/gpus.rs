//! Emulated GPUs, where the rig's shim looks for them: a sysfs, a socket for each, and CDI's names of them.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use emulated_gpu::control::{Client, Request, Value};
use emulated_gpu::sysfs::{show_faults, write_h100};
use emulated_gpu::{Device, Emulator, Faults, IdentityFault, Options, Product, State, Timing};
use gpu::PciAddress;
use gpu::lock::{self, GpuLock};
use gpu::quarantine::{Entry, Quarantine};
use gpu::registers::{RIG, rig_socket};

use crate::or_fail::OrFail;
use crate::wait::until;

/// Locks and quarantine.
pub(crate) const STATE: &str = "/var/lib/coffer/gpu";
const CDI: &str = "/etc/cdi/e2e.json";
/// What CDI calls them.
const KIND: &str = "nvidia.com/pgpu";
/// A boot that is long enough to be waited for, and short for a test.
const TIMING: Timing = Timing { boot: Duration::from_millis(200), ..Timing::FAST };
/// Of the firmware: long enough to be met between two requests.
const SLOW_REPLY: Duration = Duration::from_millis(10);
/// No GPU takes longer to be reset, booted and wiped, on a busy machine.
const FREE: Duration = Duration::from_secs(30);

/// Emulated H100s; they go with the value.
#[derive(Debug)]
pub struct Gpus {
    emulators: Vec<Emulator>,
}

impl Gpus {
    /// Plays this many, each alone in its IOMMU group and bound to vfio-pci.
    pub fn h100(count: usize) -> Self {
        Self::play(count, TIMING, false)
    }

    /// The same, with boots and replies that take as long as on hardware.
    pub fn h100_in_real_time(count: usize) -> Self {
        Self::play(count, Timing::REAL, false)
    }

    /// The same, reset whenever somebody opens or closes one, as VFIO does; their firmware is slow enough to be met between
    /// two requests.
    pub fn h100_like_vfio(count: usize) -> Self {
        Self::play(count, Timing { reply: SLOW_REPLY, ..TIMING }, true)
    }

    /// The same with boots that take as long as on hardware, to be met in one.
    pub fn h100_like_vfio_in_real_time(count: usize) -> Self {
        Self::play(count, Timing { reply: SLOW_REPLY, ..Timing::REAL }, true)
    }

    fn play(count: usize, timing: Timing, resets_like_vfio: bool) -> Self {
        let devices = Path::new(RIG).join("sys/bus/pci/devices");
        fs::create_dir_all(&devices).or_fail("sysfs of the GPUs");
        let emulators = (0..count).map(|index| play(index, timing, resets_like_vfio)).collect();
        fs::create_dir_all("/etc/cdi").or_fail("CDI's folder");
        // With its numbers, since containerd looks for the node else, and there is none.
        let named = (0..count).map(|n| {
            let node = serde_json::json!({
                "path": format!("/dev/vfio/devices/vfio{n}"), "type": "c", "major": 511, "minor": n,
            });
            serde_json::json!({ "name": n.to_string(), "containerEdits": { "deviceNodes": [node] } })
        });
        let spec = serde_json::json!({
            "cdiVersion": "0.5.0", "kind": KIND, "devices": named.collect::<Vec<_>>(),
        });
        fs::write(CDI, spec.to_string()).or_fail(CDI);
        Self { emulators }
    }

    /// The annotation by which a pod that nobody schedules asks for the first `count` of them.
    pub fn annotation(count: usize) -> String {
        Self::annotation_of(&(0..count).collect::<Vec<_>>())
    }

    /// The annotation by which a pod asks for these.
    pub fn annotation_of(indices: &[usize]) -> String {
        let names: Vec<_> = indices.iter().map(|index| Self::device(*index)).collect();
        format!("cdi.k8s.io/e2e={}", names.join(","))
    }

    /// One by its name, as a device plugin gives it to a container.
    pub fn device(index: usize) -> String {
        format!("{KIND}={index}")
    }

    /// As the host knows it.
    pub fn address(index: usize) -> PciAddress {
        address(index)
    }

    /// What can be seen of one from outside; the test fails if anybody misused it.
    pub fn state(&self, index: usize) -> State {
        let state = self.emulators[index].state();
        assert!(state.violations.is_empty(), "{:?}", state.violations);
        state
    }

    /// Does something to one.
    pub fn with<T>(&self, index: usize, change: impl FnOnce(&mut Device) -> T) -> T {
        self.emulators[index].with(change)
    }

    /// Has one report a fatal bus error.
    pub fn fall_off_the_bus(&self, index: usize) {
        self.ask(index, &Request::BusError).or_fail("bus error");
    }

    /// Takes one off its bus: from now on nothing of it answers.
    pub fn vanish(&self, index: usize) {
        let faults = Faults { identity: Some(IdentityFault::Gone), ..Faults::default() };
        self.ask(index, &Request::SetFaults { faults }).or_fail("a GPU off its bus");
    }

    /// Does something to one from outside.
    ///
    /// # Errors
    /// It cannot be done now.
    pub fn ask(&self, index: usize, request: &Request) -> io::Result<Value> {
        if let Request::SetFaults { faults } = request {
            show_faults(&folder(address(index)), faults)?;
        }
        Client::connect(&control(index)).or_fail("control socket").ask(request)
    }

    /// Takes one as another sandbox would.
    pub async fn take(&self, index: usize, holder: &str) -> GpuLock {
        GpuLock::take(Path::new(STATE), address(index), holder).await.or_fail("lock of a GPU")
    }

    /// Who has one.
    pub fn holder(&self, index: usize) -> Option<String> {
        lock::holder(Path::new(STATE), address(index)).or_fail("lock of a GPU")
    }

    /// Why one is in quarantine.
    pub fn quarantined(&self, index: usize) -> Option<Entry> {
        Quarantine::new(Path::new(STATE)).of(address(index)).or_fail("quarantine")
    }

    /// Waits until nobody has one.
    pub async fn free(&self, index: usize) {
        until(format!("{} to be free", address(index)), FREE, async || {
            self.holder(index).is_none().then_some(())
        })
        .await;
    }
}

impl Drop for Gpus {
    fn drop(&mut self) {
        self.emulators.clear();
        for path in [RIG, STATE] {
            let _ = fs::remove_dir_all(path);
        }
        let _ = fs::remove_file(CDI);
    }
}

fn address(index: usize) -> PciAddress {
    format!("0000:4{index:x}:00.0").parse().or_fail("address")
}

/// Its folder in sysfs.
fn folder(gpu: PciAddress) -> PathBuf {
    Path::new(RIG).join("sys/devices").join(gpu.to_string())
}

fn control(index: usize) -> PathBuf {
    Path::new(RIG).join(format!("{index}.control"))
}

/// One GPU with its folder in sysfs.
fn play(index: usize, timing: Timing, resets_like_vfio: bool) -> Emulator {
    let (root, gpu) = (Path::new(RIG), address(index));
    let address = gpu.to_string();
    let sys = root.join("sys");
    let folder = folder(gpu);
    let group = sys.join(format!("kernel/iommu_groups/{index}"));
    for path in [&folder.join(format!("vfio-dev/vfio{index}")), &group.join("devices")] {
        fs::create_dir_all(path).or_fail(path.display());
    }
    write_h100(&folder).or_fail(folder.display());
    let drivers = sys.join("bus/pci/drivers/vfio-pci");
    fs::create_dir_all(&drivers).or_fail("driver");
    for (target, link) in [
        (&folder, sys.join("bus/pci/devices").join(&address)),
        (&folder, group.join("devices").join(&address)),
        (&group, folder.join("iommu_group")),
        (&drivers, folder.join("driver")),
    ] {
        symlink(target, &link).or_fail(link.display());
    }
    let options = Options {
        product: Product::H100,
        socket: rig_socket(root, gpu),
        control: control(index),
        timing,
        memory: None,
        resets_like_vfio,
    };
    Emulator::start(&options).or_fail("emulated GPU")
}
