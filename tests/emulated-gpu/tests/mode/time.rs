//! What the work costs, with timers as on hardware.

use std::time::Duration;

use emulated_gpu::{Product, Timing};
use gpu::progress::Event;
use gpu::registers::ResetKind;
use gpu::{Gpu, Mode, Phase, Progress, set};
use tokio::time::Instant;

use crate::rig::{Rig, address, id};

async fn switching(rig: &Rig) -> Duration {
    let gpus = rig.open_all().await;
    let start = Instant::now();
    set::switch(gpus, Mode::On).await.unwrap();
    start.elapsed()
}

/// The best of some tries: what else this machine does is not to be measured.
#[tokio::test]
async fn eight_gpus_take_no_longer_than_one_and_a_third() {
    for product in [Product::H100, Product::B200] {
        let (mut one, mut eight) = (Duration::MAX, Duration::MAX);
        for _ in 0..8 {
            one = one.min(switching(&Rig::new(&[product], Timing::REAL)).await);
            eight = eight.min(switching(&Rig::new(&[product; 8], Timing::REAL)).await);
            if eight.as_secs_f64() <= 1.3 * one.as_secs_f64() {
                break;
            }
        }
        println!("{product:?}: one {one:?}, eight {eight:?}");
        assert!(one >= Timing::REAL.boot, "the boot was waited for");
        assert!(eight.as_secs_f64() <= 1.3 * one.as_secs_f64(), "{product:?}: one {one:?}, eight {eight:?}");
    }
}

/// As above.
#[tokio::test]
async fn verifying_eight_gpus_costs_30_milliseconds() {
    const BOUND: Duration = Duration::from_millis(30);
    let rig = Rig::new(&[Product::H100; 8], Timing::REAL);
    let mut best = Duration::MAX;
    for _ in 0..100 {
        let gpus = rig.open_all().await;
        let start = Instant::now();
        set::verify(gpus, Mode::Off).await.unwrap();
        best = best.min(start.elapsed());
        if best <= BOUND {
            break;
        }
    }
    println!("verifying eight: {best:?}");
    assert!(best <= BOUND, "{best:?}");
}

#[tokio::test]
async fn progress_is_reported_for_each_gpu_and_phase() {
    let rig = Rig::new(&[Product::B200], Timing::REAL);
    let (progress, mut events) = Progress::channel();
    let registers = Box::new(rig.registers(0).await.unwrap());
    let gpu = Gpu::open(&rig.lock(0).await, id(Product::B200), ResetKind::Function, registers, &progress)
        .await
        .unwrap();
    set::switch(vec![gpu], Mode::On).await.unwrap();
    drop(progress);
    let mut seen = Vec::new();
    while let Some(event) = events.recv().await {
        seen.push(event);
    }
    assert!(seen.iter().all(|event| event.gpu == address(0)));
    let phases: Vec<Phase> = seen.iter().filter(|e| e.elapsed.is_zero()).map(|event| event.phase).collect();
    let boot = [Phase::Open, Phase::Firewall, Phase::Boot];
    let expected: Vec<_> = boot
        .into_iter()
        .chain([Phase::Inspect, Phase::Query, Phase::Write, Phase::Reset])
        .chain(boot)
        .chain([Phase::Verify])
        .collect();
    assert_eq!(phases, expected);
    let second = |event: &&Event| event.phase == Phase::Boot && event.elapsed >= Duration::from_millis(500);
    assert!(seen.iter().any(|event| second(&event)) || Timing::REAL.boot < Duration::from_millis(1_300));
}
