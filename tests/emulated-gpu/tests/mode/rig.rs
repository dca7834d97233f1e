//! Emulated GPUs in a folder, and the way to them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use emulated_gpu::{Emulator, Options, Product, Timing};
use gpu::lock::GpuLock;
use gpu::registers::{ResetKind, VfioUser};
use gpu::{Chip, DeviceId, Failure, Gpu, PciAddress, Progress, Unverified};
use tempfile::TempDir;

/// So many devices; the address of each has its number as the bus.
pub(crate) struct Rig {
    folder: TempDir,
    pub(crate) emulators: Vec<Emulator>,
    products: Vec<Product>,
    locks: RefCell<BTreeMap<usize, Arc<GpuLock>>>,
}

pub(crate) const GPUS: [Product; 5] =
    [Product::H100, Product::H200, Product::B200, Product::RtxPro6000, Product::Rubin];

pub(crate) fn id(product: Product) -> DeviceId {
    DeviceId(match product {
        Product::H100 => 0x2330,
        Product::H200 => 0x2335,
        Product::B200 => 0x2901,
        Product::RtxPro6000 => 0x2bb5,
        Product::Rubin => 0x3000,
        Product::A100 => 0x20b0,
        Product::Nvswitch => 0x22a3,
    })
}

pub(crate) fn address(index: usize) -> PciAddress {
    format!("0000:{index:02x}:00.0").parse().unwrap()
}

impl Rig {
    pub(crate) fn new(products: &[Product], timing: Timing) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let start = |(index, product): (usize, &Product)| {
            Emulator::start(&Options {
                product: *product,
                socket: folder.path().join(format!("{index}.sock")),
                control: folder.path().join(format!("{index}.control")),
                timing,
                memory: None,
                resets_like_vfio: false,
            })
            .unwrap()
        };
        let emulators = products.iter().enumerate().map(start).collect();
        Self { folder, emulators, products: products.to_vec(), locks: RefCell::default() }
    }

    pub(crate) fn one(product: Product) -> Self {
        Self::new(&[product], Timing::FAST)
    }

    /// The only device.
    pub(crate) fn only(&self) -> &Emulator {
        let [only] = &self.emulators[..] else { panic!("not one device") };
        only
    }

    pub(crate) fn control(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("{index}.control"))
    }

    pub(crate) async fn registers(&self, index: usize) -> io::Result<VfioUser> {
        VfioUser::connect(self.emulators[index].socket(), Duration::from_secs(5)).await
    }

    /// The lock of a device, the same one each time.
    pub(crate) async fn lock(&self, index: usize) -> Arc<GpuLock> {
        if let Some(lock) = self.locks.borrow().get(&index) {
            return Arc::clone(lock);
        }
        let lock = GpuLock::take(&self.folder.path().join("locks"), address(index), "test").await;
        let lock = Arc::new(lock.unwrap());
        self.locks.borrow_mut().insert(index, Arc::clone(&lock));
        lock
    }

    pub(crate) async fn open(&self, index: usize) -> Result<Gpu<Unverified>, Failure> {
        let registers = Box::new(self.registers(index).await.unwrap());
        let gpu = Gpu::open(
            &self.lock(index).await,
            id(self.products[index]),
            ResetKind::Function,
            registers,
            &Progress::silent(),
        )
        .await?;
        assert_eq!(gpu.chip(), Chip::of(id(self.products[index])).unwrap_or(Chip::Other));
        Ok(gpu)
    }

    pub(crate) async fn open_all(&self) -> Vec<Gpu<Unverified>> {
        let mut gpus = Vec::new();
        for index in 0..self.emulators.len() {
            gpus.push(self.open(index).await.unwrap());
        }
        gpus
    }

    /// Nobody did what no well-behaved driver does.
    pub(crate) fn assert_clean(&self) {
        for (index, emulator) in self.emulators.iter().enumerate() {
            let violations = emulator.state().violations;
            assert!(violations.is_empty(), "device {index}: {violations:?}");
        }
    }
}

/// Requests as the specification's vectors write them.
pub(crate) fn requests(emulator: &Emulator) -> String {
    let text = |(first, value): (u32, Option<u32>)| match value {
        None => format!("{first:08X}"),
        Some(value) => format!("{first:08X}+{value}"),
    };
    emulator.state().requests.into_iter().map(text).collect::<Vec<_>>().join(" ")
}
