//! Firmware that gives each answer in time, and takes too long altogether.

use std::io;
use std::time::{Duration, Instant};

use emulated_gpu::{Device, Product, Timing};
use gpu::fsp::Error;
use gpu::lock::GpuLock;
use gpu::registers::{At, Registers, ResetKind, Word};
use gpu::{Cause, Gpu, Mode, Progress, Unverified, set};

use crate::rig::{address, id};

/// A device by the clock of the test, which need not wait.
#[derive(Debug)]
struct Clocked {
    device: Device,
    begun: (Instant, tokio::time::Instant),
    /// A reset is made on another thread, where the test's clock is not known.
    now: Instant,
}

impl Clocked {
    fn new(reply: Duration) -> Self {
        let timing = Timing { reply, ..Timing::FAST };
        let now = Instant::now();
        let device = Device::new(Product::H100, [0; 3], timing, now).unwrap();
        Self { device, begun: (now, tokio::time::Instant::now()), now }
    }

    fn tick(&mut self) -> Instant {
        self.now = self.begun.0 + self.begun.1.elapsed();
        self.now
    }
}

impl Registers for Clocked {
    fn read32(&mut self, at: At) -> io::Result<Word> {
        let now = self.tick();
        Ok(Word::of(match at {
            At::Bar0(offset) => self.device.read(now, offset),
            At::Config(offset) => {
                let mut word = [0; 4];
                self.device.config_read(now, offset.into(), &mut word);
                u32::from_le_bytes(word)
            }
        }))
    }

    fn write32(&mut self, at: At, value: u32) -> io::Result<()> {
        let now = self.tick();
        match at {
            At::Bar0(offset) => self.device.write(now, offset, value),
            At::Config(offset) => self.device.config_write(now, offset.into(), &value.to_le_bytes()),
        }
        Ok(())
    }

    fn reset(&mut self, _: ResetKind) -> io::Result<()> {
        self.device.reset(self.now);
        Ok(())
    }
}

/// An H100 that takes so long for each answer.
async fn slow(folder: &tempfile::TempDir, reply: Duration) -> Gpu<Unverified> {
    let lock = GpuLock::take(folder.path(), address(0), "test").await.unwrap();
    let registers = Box::new(Clocked::new(reply));
    let progress = Progress::silent();
    Gpu::open(&lock.into(), id(Product::H100), ResetKind::Function, registers, &progress).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_firmware_that_takes_too_long_altogether_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut gpu = slow(&folder, Duration::from_millis(1_900)).await;
    let begun = tokio::time::Instant::now();
    // As a pod's start does: looks whether the mode is right, plans, writes, each in a conversation of its own.
    gpu.pending().await.unwrap();
    let error = set::switch(vec![gpu], Mode::On).await.unwrap_err();
    let took = begun.elapsed();
    let set::Error::Devices { failures, .. } = &error else { panic!("{error}") };
    assert!(matches!(&failures[0].cause, Cause::Fsp(Error::TooSlow { .. })), "{error}");
    assert!((20..25).contains(&took.as_secs()), "{took:?}");
}

/// What is asked before a reset and after it takes more than the limit together, and each part less.
#[tokio::test(start_paused = true)]
async fn a_reset_begins_the_limit_anew() {
    let folder = tempfile::tempdir().unwrap();
    let gpu = slow(&folder, Duration::from_millis(990)).await;
    let begun = tokio::time::Instant::now();
    set::switch(vec![gpu], Mode::On).await.unwrap();
    assert!(begun.elapsed() > Duration::from_secs(20), "{:?}", begun.elapsed());
}
