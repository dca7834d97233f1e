//! Crate `gpu`, over a way that the test chooses.

use std::path::Path;
use std::sync::Arc;

use emulated_gpu::control::Request;
use gpu::lock::GpuLock;
use gpu::power::{Awake, PowerPlan};
use gpu::registers::{Registers, ResetKind, Resource0, Vfio};
use gpu::sysfs::{Function, Sysfs};
use gpu::{Gpu, Mode, Progress, Unverified, set};
use outer_vm::Slot;
use tokio::runtime::Builder;

/// How registers are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// `resource0`; no driver has the function.
    Sysfs,
    /// VFIO, through the device's own node and iommufd.
    Iommufd,
    /// VFIO, through the group's node and a container.
    Group,
}

pub(crate) const WAYS: [Way; 3] = [Way::Sysfs, Way::Iommufd, Way::Group];

/// A function in our hands; given back when dropped.
struct Opened {
    slot: Slot,
    way: Way,
    _awake: Awake,
}

impl Drop for Opened {
    fn drop(&mut self) {
        if self.way != Way::Sysfs {
            self.slot.unbind().unwrap();
        }
    }
}

async fn open(slot: Slot, way: Way) -> (Opened, Function, Box<dyn Registers>) {
    if way != Way::Sysfs {
        slot.bind().unwrap();
    }
    let address = slot.address().parse().unwrap();
    let function = Sysfs::host().function(address).unwrap().unwrap();
    let awake = PowerPlan::new(address, &function.path).unwrap().claim().await.unwrap();
    let dev = Path::new("/dev");
    let registers: Box<dyn Registers> = match way {
        Way::Sysfs => Box::new(Resource0::open(&function.path).unwrap()),
        Way::Iommufd => {
            let node = function.vfio_device_node(dev).unwrap();
            Box::new(Vfio::open_device(&node, &dev.join("iommu")).unwrap())
        }
        Way::Group => {
            let node = function.vfio_group_node(dev).unwrap();
            Box::new(Vfio::open_group(&node, &dev.join("vfio/vfio"), address).unwrap())
        }
    };
    (Opened { slot, way, _awake: awake }, function, registers)
}

async fn open_gpu(slot: Slot, way: Way) -> (Opened, Gpu<Unverified>) {
    let (opened, function, registers) = open(slot, way).await;
    let reset = function.reset_kind().unwrap();
    let locks = tempfile::tempdir().unwrap();
    let lock = Arc::new(GpuLock::take(locks.path(), function.address, "oracle").await.unwrap());
    let gpu = Gpu::open(&lock, function.id, reset, registers, &Progress::silent()).await.unwrap();
    (opened, gpu)
}

/// Runs it, and makes sure that the devices had nothing to object to.
fn watched<T>(slots: &[Slot], work: impl Future<Output = T>) -> T {
    for slot in slots {
        slot.emulator().unwrap().ask(&Request::ClearLog).unwrap();
    }
    let result = Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
    for slot in slots {
        let violations = slot.emulator().unwrap().state().unwrap().violations;
        assert!(violations.is_empty(), "{slot:?}: {violations:?}");
    }
    result
}

/// The active mode.
pub(crate) fn read(slot: Slot, way: Way) -> Mode {
    watched(&[slot], async {
        let (_opened, mut gpu) = open_gpu(slot, way).await;
        let mode = gpu.query().await.unwrap().mode;
        drop(gpu);
        mode
    })
}

/// Sets all to a mode and verifies it.
pub(crate) fn set(slots: &[Slot], way: Way, mode: Mode) {
    watched(slots, async {
        let mut opened = Vec::new();
        let mut gpus = Vec::new();
        for slot in slots {
            let (function, gpu) = open_gpu(*slot, way).await;
            opened.push(function);
            gpus.push(gpu);
        }
        let set = set::switch(gpus, mode).await.unwrap();
        assert!(set.iter().all(|gpu| gpu.mode() == mode));
        drop(set);
    });
}

/// How many resets the device saw of one that we made.
pub(crate) fn resets_made(slot: Slot, way: Way, kind: ResetKind) -> u64 {
    watched(&[slot], async {
        let (_opened, _, mut registers) = open(slot, way).await;
        let count = || slot.emulator().unwrap().state().unwrap().resets;
        let before = count();
        registers.reset(kind).unwrap();
        let after = count();
        drop(registers);
        after - before
    })
}
