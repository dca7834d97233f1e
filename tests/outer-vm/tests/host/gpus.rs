//! This host's GPUs: the command that manages them, and what there is to see of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::{Artefacts, until};
use emulated_gpu::control::{Request, Value};
use gpu::lock;
use gpu::quarantine::Quarantine;
use gpu::sysfs::{Function, Sysfs};
use outer_vm::{Control, Product, Slot, State};

/// Locks and quarantine.
const STATE: &str = "/var/lib/coffer/gpu";
/// Where containerd reads what CDI names.
const CDI: &str = "/etc/cdi/outer-vm.json";
/// No GPU takes longer to be reset, booted and wiped, on a busy machine.
const FREE: Duration = Duration::from_secs(60);

/// Runs `coffer` to its end; fails the test unless it succeeds. Gives its standard output.
#[track_caller]
pub(crate) fn coffer(arguments: &[&str]) -> String {
    let program = Artefacts::coffer();
    let output = Command::new(&program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "coffer {arguments:?}: {}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// The emulator behind a slot, if nobody misused it.
pub(crate) fn state(slot: Slot) -> State {
    let state = slot.emulator().unwrap().state().unwrap();
    assert!(state.violations.is_empty(), "{slot:?}: {:?}", state.violations);
    state
}

/// What the kernel says of a slot's device.
pub(crate) fn function(slot: Slot) -> Function {
    Sysfs::host().function(slot.address().parse().unwrap()).unwrap().unwrap()
}

/// GPUs under vfio-pci; unbound when dropped.
#[derive(Debug)]
pub(crate) struct Bound(Vec<Slot>);

impl Bound {
    /// The first `count` of a product.
    pub(crate) fn first(count: usize, product: Product) -> Self {
        let slots = Slot::of(product)[..count].to_vec();
        for slot in &slots {
            slot.emulator().unwrap().ask(&Request::ClearLog).unwrap();
            slot.bind().unwrap();
        }
        Self(slots)
    }

    pub(crate) fn slots(&self) -> &[Slot] {
        &self.0
    }

    pub(crate) fn state(&self, index: usize) -> State {
        state(self.0[index])
    }

    /// The device's own node.
    pub(crate) fn device_node(&self, index: usize) -> PathBuf {
        function(self.0[index]).vfio_device_node(Path::new("/dev")).unwrap()
    }

    /// The node of the device's group.
    pub(crate) fn group_node(&self, index: usize) -> PathBuf {
        function(self.0[index]).vfio_group_node(Path::new("/dev")).unwrap()
    }

    /// Writes CDI's names of all, as NVIDIA's device plugin does; gives the annotation that asks for all of them.
    pub(crate) fn cdi(&self) -> String {
        let device = |index: usize| {
            serde_json::json!({
                "name": index.to_string(),
                "containerEdits": { "deviceNodes": [{ "path": self.device_node(index) }] },
            })
        };
        let devices: Vec<_> = (0..self.0.len()).map(device).collect();
        let spec =
            serde_json::json!({ "cdiVersion": "0.5.0", "kind": "nvidia.com/pgpu", "devices": devices });
        fs::create_dir_all("/etc/cdi").unwrap();
        fs::write(CDI, spec.to_string()).unwrap();
        let names: Vec<_> = (0..self.0.len()).map(|n| format!("nvidia.com/pgpu={n}")).collect();
        format!("cdi.k8s.io/outer-vm={}", names.join(","))
    }

    /// Who has each.
    pub(crate) fn holders(&self) -> Vec<Option<String>> {
        let holder = |slot: &Slot| lock::holder(Path::new(STATE), slot.address().parse().unwrap()).unwrap();
        self.0.iter().map(holder).collect()
    }

    /// Waits until nobody has any, and none is in quarantine.
    pub(crate) async fn free(&self) {
        until("the GPUs to be free", FREE, async || self.holders().iter().all(Option::is_none).then_some(()))
            .await;
        for slot in &self.0 {
            let address = slot.address().parse().unwrap();
            assert_eq!(Quarantine::new(Path::new(STATE)).of(address).unwrap(), None);
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        for slot in &self.0 {
            // A failed test may have left a VM with it.
            let _ = slot.unbind();
        }
        let _ = fs::remove_file(CDI);
    }
}

/// Has the device find the page of a VM's memory that begins with `data`, and write there.
pub(crate) fn overwrite(control: &mut Control, data: &[u8], new: &[u8]) {
    let found = control.ask(&Request::DmaFind { data: data.to_vec() }).unwrap();
    let Value::Address(Some(address)) = found else { panic!("{found:?}") };
    control.ask(&Request::DmaWrite { address, data: new.to_vec() }).unwrap();
}
