//! Devices that answer anything: every operation ends, in a result, without a panic.

#![allow(clippy::unwrap_used, reason = "all of it is tests")]

use std::io;
use std::sync::Arc;
use std::time::Duration;

use gpu::lock::GpuLock;
use gpu::registers::{At, Registers, ResetKind, Word};
use gpu::{DeviceId, Gpu, Mode, PciAddress, Progress, set};
use proptest::prelude::*;
use tokio::time::Instant;

/// How far the device is well.
#[derive(Debug, Clone, Copy)]
enum Noise {
    /// Not at all.
    Everywhere,
    /// It boots; the firmware processor and the mode are noise.
    AfterBoot,
}

/// Words from a seed, most of them such as mean something somewhere.
#[derive(Debug)]
struct Noisy {
    state: u64,
    noise: Noise,
    boot0: u32,
}

impl Noisy {
    /// Steele and Vigna's splitmix64.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn word(&mut self) -> u32 {
        const TELLING: [u32; 14] = [
            0,
            1,
            2,
            3,
            0xff,
            0x800,
            0x80c,
            0x810,
            0x814,
            0xc000_0000,
            0x1510_de7e,
            0x13,
            0x0500_0000,
            0x0100_0014,
        ];
        let random = self.random();
        let [low, high, choice, index, ..] = random.to_le_bytes();
        match choice {
            0..=0xdf => TELLING[usize::from(index) % TELLING.len()],
            0xe0 => u32::MAX,
            0xe1 => 0xbadf_1234,
            _ => u32::from_le_bytes([low, high, choice, index]),
        }
    }

    fn well(&self, at: At) -> Option<u32> {
        Some(match at {
            At::Config(0) => 0x2330_10de,
            // No capabilities of either kind; memory space is on.
            At::Config(_) => 0x0000_0002,
            At::Bar0(0) => self.boot0,
            At::Bar0(0x2_00bc | 0xad_00bc | 0x6_60bc) => 0xff,
            At::Bar0(0x2_0120 | 0x6_6120 | 0x8a_a128) => 0,
            At::Bar0(_) => return None,
        })
    }
}

impl Registers for Noisy {
    fn read32(&mut self, at: At) -> io::Result<Word> {
        let well = match self.noise {
            Noise::Everywhere => None,
            Noise::AfterBoot => self.well(at),
        };
        Ok(Word::of(well.unwrap_or_else(|| self.word())))
    }

    fn write32(&mut self, _: At, _: u32) -> io::Result<()> {
        Ok(())
    }

    fn reset(&mut self, _: ResetKind) -> io::Result<()> {
        Ok(())
    }
}

/// How long it took, as its own clock counts.
async fn run(seed: u64, noise: Noise, id: u16, boot0: u32, mode: Mode) -> Duration {
    let start = Instant::now();
    let address: PciAddress = "0000:41:00.0".parse().unwrap();
    let registers = Box::new(Noisy { state: seed, noise, boot0 });
    let locks = tempfile::tempdir().unwrap();
    let lock = Arc::new(GpuLock::take(locks.path(), address, "noise").await.unwrap());
    let opened = Gpu::open(&lock, DeviceId(id), ResetKind::Function, registers, &Progress::silent()).await;
    if let Ok(mut gpu) = opened {
        let _ = gpu.pending().await;
        let _ = gpu.scrubbed().await;
        let _ = set::switch(vec![gpu], mode).await;
    }
    start.elapsed()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn every_operation_ends(
        seed in any::<u64>(),
        noise in prop_oneof![Just(Noise::Everywhere), Just(Noise::AfterBoot)],
        (id, boot0) in prop_oneof![
            Just((0x2330, 0x1800_00a1)),
            Just((0x2901, 0x1a00_00a1)),
            Just((0x2bb5, 0x1b20_00a1)),
            Just((0x22a3, 0x0070_00a1)),
        ],
        mode in prop_oneof![Just(Mode::Off), Just(Mode::On), Just(Mode::Devtools)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let took = runtime.block_on(run(seed, noise, id, boot0, mode));
        prop_assert!(took < Duration::from_secs(120), "{took:?}");
    }
}
