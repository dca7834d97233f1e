//! A process that ends between any two writes.

use std::io;

use emulated_gpu::Product;
use gpu::registers::{At, Registers, ResetKind, VfioUser, Word};
use gpu::{Cause, Gpu, Mode, Progress, set};

use crate::rig::{GPUS, Rig, id};

/// Registers that are gone after so many writes.
#[derive(Debug)]
struct Cut {
    registers: VfioUser,
    writes: u32,
}

impl Registers for Cut {
    fn read32(&mut self, at: At) -> io::Result<Word> {
        if self.writes == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.registers.read32(at)
    }

    fn write32(&mut self, at: At, value: u32) -> io::Result<()> {
        self.writes = self.writes.checked_sub(1).ok_or(io::ErrorKind::BrokenPipe)?;
        self.registers.write32(at, value)
    }

    fn reset(&mut self, kind: ResetKind) -> io::Result<()> {
        if self.writes == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.registers.reset(kind)
    }
}

/// Wherever a switch is cut off: a reset brings a mode that exists, and the next switch works.
async fn cut_everywhere(product: Product, from: Mode, to: Mode) {
    let rig = Rig::one(product);
    // A request is 7 to 9 writes long: this step meets each of its places over the course of a switch.
    for writes in (1..).step_by(7) {
        let gpu = rig.open(0).await.unwrap();
        set::switch(vec![gpu], from).await.unwrap();
        let registers = Box::new(Cut { registers: rig.registers(0).await.unwrap(), writes });
        let switched = async {
            let gpu = Gpu::open(
                &rig.lock(0).await,
                id(product),
                ResetKind::Function,
                registers,
                &Progress::silent(),
            )
            .await
            .map_err(|_| ())?;
            set::switch(vec![gpu], to).await.map_err(|_| ())
        };
        let done = switched.await.is_ok();
        // As VFIO does when the process is gone.
        let mut gpu = rig.open(0).await.unwrap().reset().await.unwrap();
        match gpu.query().await {
            Ok(active) => assert!(!done || active.mode == to, "{writes}: {active:?}"),
            Err(failure) => {
                panic!("{product:?} {from} to {to}, cut at write {writes}: {failure}: {}", failure.cause)
            }
        }
        set::switch(vec![gpu], to).await.unwrap();
        rig.assert_clean();
        if done {
            return;
        }
    }
}

#[tokio::test]
async fn switching_on_and_off_can_be_cut_anywhere() {
    for product in [Product::H100, Product::B200] {
        cut_everywhere(product, Mode::Off, Mode::Devtools).await;
        cut_everywhere(product, Mode::Devtools, Mode::Off).await;
    }
    cut_everywhere(Product::RtxPro6000, Mode::Devtools, Mode::On).await;
}

/// The vector of the specification: devtools was wanted, confidential computing is written, devtools not yet.
#[tokio::test]
async fn cut_between_the_two_writes_of_devtools_leaves_mode_on() {
    for product in GPUS {
        let rig = Rig::one(product);
        rig.only().with(|device| device.set_knob(8, 1));
        let gpu = rig.open(0).await.unwrap();
        let failure = gpu.verify(Mode::Off).await.unwrap_err();
        assert!(matches!(failure.cause, Cause::Pending { .. }), "{failure:?}");
        let gpu = rig.open(0).await.unwrap().reset().await.unwrap();
        gpu.verify(Mode::On).await.unwrap();
    }
}
