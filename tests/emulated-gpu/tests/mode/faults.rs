//! GPUs that are not well, and what is said about them.

use std::time::Duration;

use emulated_gpu::{BootFault, Device, Faults, IdentityFault, Product, Timing};
use gpu::quarantine::Quarantine;
use gpu::registers::{ResetKind, Word};
use gpu::release::{Released, give_back};
use gpu::{Cause, Failure, Gpu, Mode, PendingMode, Phase, Progress, set};

use crate::rig::{GPUS, Rig, address, id};

async fn opening(product: Product, faults: Faults) -> Failure {
    let rig = Rig::one(product);
    rig.only().set_faults(faults);
    let registers = Box::new(rig.registers(0).await.unwrap());
    let lock = rig.lock(0).await;
    // The limits of seconds pass at once from here on.
    tokio::time::pause();
    let progress = Progress::silent();
    let failure = Gpu::open(&lock, id(product), ResetKind::Function, registers, &progress).await.unwrap_err();
    tokio::time::resume();
    assert_eq!(failure.gpu, address(0));
    failure
}

#[tokio::test]
async fn gone_from_the_bus() {
    let faults = Faults { identity: Some(IdentityFault::Gone), ..Faults::default() };
    let failure = opening(Product::H100, faults).await;
    assert!(matches!(failure.cause, Cause::Gone { .. }), "{failure:?}");
    assert_eq!(failure.phase, Phase::Open);
}

#[tokio::test]
async fn all_ones_on_bar0() {
    let faults = Faults { identity: Some(IdentityFault::AllOnes), ..Faults::default() };
    for product in [Product::H100, Product::B200, Product::Nvswitch] {
        let failure = opening(product, faults.clone()).await;
        assert!(matches!(failure.cause, Cause::Gone { .. }), "{failure:?}");
        assert_eq!(failure.phase, Phase::Boot);
        assert!(failure.elapsed >= Duration::from_secs(5), "not before a boot can be over: {failure:?}");
    }
}

/// Only a reset helps, so it must not wait for what it is to mend.
#[tokio::test]
async fn one_that_boots_only_after_a_reset_can_be_reset() {
    for product in GPUS {
        let rig = Rig::one(product);
        rig.only().set_faults(Faults { boot: Some(BootFault::UntilReset), ..Faults::default() });
        let registers = Box::new(rig.registers(0).await.unwrap());
        let progress = Progress::silent();
        let gpu = Gpu::attach(&rig.lock(0).await, id(product), ResetKind::Function, registers, &progress)
            .await
            .unwrap();
        let mut gpu = gpu.reset().await.unwrap();
        assert_eq!(gpu.query().await.unwrap().mode, Mode::Off);
        assert_eq!(rig.only().state().resets, 1);
        rig.assert_clean();
    }
}

#[tokio::test]
async fn locked_down_with_the_reason() {
    let faults = Faults { identity: Some(IdentityFault::SecurityFault), ..Faults::default() };
    for product in GPUS {
        let Cause::SecurityFault { word, reason } = opening(product, faults.clone()).await.cause else {
            panic!("{product:?}");
        };
        assert_eq!((word, reason), (Word::SecurityFault(0xbadf_0200), Some(0xc0f)), "{product:?}");
    }
}

#[tokio::test]
async fn in_recovery() {
    let faults = Faults { identity: Some(IdentityFault::Recovery), ..Faults::default() };
    let failure = opening(Product::H100, faults).await;
    assert!(matches!(failure.cause, Cause::Recovery { .. }), "{failure:?}");
    let faults = Faults { recovers: true, boot: Some(BootFault::Never), ..Faults::default() };
    for product in GPUS.into_iter().chain([Product::Nvswitch]) {
        let failure = opening(product, faults.clone()).await;
        assert!(matches!(failure.cause, Cause::Recovery { .. }), "{failure:?}");
    }
}

#[tokio::test]
async fn a_boot_that_never_ends() {
    for (product, limit) in
        [(Product::H100, 5), (Product::Nvswitch, 5), (Product::B200, 10), (Product::RtxPro6000, 10)]
    {
        let faults = Faults { boot: Some(BootFault::Never), ..Faults::default() };
        let failure = opening(product, faults).await;
        let Cause::NotBooted { limit: waited, scratch, .. } = &failure.cause else { panic!("{failure:?}") };
        assert_eq!(waited.as_secs(), limit);
        assert!(failure.elapsed >= Duration::from_secs(limit), "{failure:?}");
        assert_eq!(scratch.to_string(), "FSP scratch 9f 0 0 5 0 44c 0 0");
    }
}

#[tokio::test]
async fn a_boot_register_that_is_blocked_is_an_error_on_hopper_only() {
    let faults = Faults { boot: Some(BootFault::Blocked), ..Faults::default() };
    let rig = Rig::new(&[Product::H100, Product::B200], Timing::REAL);
    for emulator in &rig.emulators {
        emulator.set_faults(faults.clone());
    }
    let failure = rig.open(0).await.unwrap_err();
    assert!(matches!(failure.cause, Cause::Unreadable { word: Word::BusError(_), .. }), "{failure:?}");
    rig.open(1).await.unwrap();
}

#[tokio::test]
async fn a_firewall_that_stays_up() {
    for product in [Product::B200, Product::RtxPro6000] {
        let faults = Faults { firewall_stuck: true, ..Faults::default() };
        let failure = opening(product, faults).await;
        assert!(matches!(failure.cause, Cause::FirewallUp { .. }), "{failure:?}");
        assert_eq!(failure.phase, Phase::Firewall);
    }
}

#[tokio::test]
async fn a_firewall_whose_state_is_hidden_is_waited_for_on_bar0() {
    for product in [Product::B200, Product::RtxPro6000] {
        let rig = Rig::one(product);
        rig.only().set_faults(Faults { capabilities_hidden: true, ..Faults::default() });
        let gpu = rig.open(0).await.unwrap();
        set::switch(vec![gpu], Mode::On).await.unwrap();
        rig.assert_clean();
    }
}

#[tokio::test]
async fn asleep_is_woken_and_one_that_stays_so_is_named() {
    for product in GPUS {
        let rig = Rig::one(product);
        rig.only().with(Device::sleep);
        rig.open(0).await.unwrap();
        assert_eq!(rig.only().state().power_state, 0);
        rig.only().with(Device::sleep);
        rig.only().set_faults(Faults { stays_asleep: true, ..Faults::default() });
        let failure = rig.open(0).await.unwrap_err();
        assert!(matches!(failure.cause, Cause::Asleep { state: 3 }), "{failure:?}");
        rig.assert_clean();
    }
}

#[tokio::test]
async fn a_reset_that_takes_too_long() {
    let rig = Rig::one(Product::H100);
    let gpu = rig.open(0).await.unwrap();
    let slow = Timing { boot: Duration::from_secs(600), ..Timing::FAST };
    rig.only().with(|device| device.set_timing(slow));
    tokio::time::pause();
    let failure = gpu.reset().await.unwrap_err();
    assert!(matches!(failure.cause, Cause::NotBooted { .. }), "{failure:?}");
    assert_eq!(failure.phase, Phase::Boot);
}

#[tokio::test]
async fn a_mode_that_the_reset_did_not_bring() {
    for product in GPUS {
        let rig = Rig::one(product);
        rig.only().set_faults(Faults { not_latched: true, ..Faults::default() });
        let mut gpu = rig.open(0).await.unwrap();
        let plan = gpu.plan(Mode::On).await.unwrap();
        gpu.write(&plan).await.unwrap();
        let gpu = gpu.reset().await.unwrap();
        let failure = gpu.verify(Mode::On).await.unwrap_err();
        let Cause::WrongMode { wanted: Mode::On, active: Mode::Off, .. } = failure.cause else {
            panic!("{failure:?}");
        };
    }
}

#[tokio::test]
async fn devtools_alone_is_no_mode_and_setting_one_mends_it() {
    for product in GPUS {
        let rig = Rig::one(product);
        rig.only().with(|device| {
            device.set_knob(6, 1);
            device.reset(std::time::Instant::now());
        });
        let mut gpu = rig.open(0).await.unwrap();
        let failure = gpu.query().await.unwrap_err();
        assert!(matches!(failure.cause, Cause::InvalidMode(_)), "{failure:?}");
        assert_eq!(gpu.pending().await.unwrap(), PendingMode::None);
        set::switch(vec![gpu], Mode::On).await.unwrap();
        rig.assert_clean();
    }
}

/// Opening a GPU for a VM resets it. A mode that somebody else has set meanwhile would come with that.
#[tokio::test]
async fn settings_that_the_next_reset_would_bring_are_seen() {
    for product in GPUS {
        let rig = Rig::one(product);
        let gpu = rig.open(0).await.unwrap();
        set::switch(vec![gpu], Mode::On).await.unwrap();
        rig.only().with(|device| device.set_knob(8, 0));
        let gpu = rig.open(0).await.unwrap();
        let failure = gpu.verify(Mode::On).await.unwrap_err();
        let Cause::Pending { active: Mode::On, pending: PendingMode::Mode(Mode::Off) } = failure.cause else {
            panic!("{failure:?}");
        };
    }
}

#[tokio::test]
async fn settings_locked_against_the_host_are_all_named_and_none_written() {
    for product in GPUS {
        let rig = Rig::one(product);
        rig.only().set_faults(Faults { locked: [6, 8].into(), ..Faults::default() });
        let mut gpu = rig.open(0).await.unwrap();
        let failure = gpu.plan(Mode::Devtools).await.unwrap_err();
        let Cause::Locked { knobs } = &failure.cause else { panic!("{failure:?}") };
        assert_eq!(knobs.iter().map(|knob| knob.0).collect::<Vec<_>>(), [8, 6]);
        // What is not to be changed may be locked.
        assert!(gpu.plan(Mode::Off).await.unwrap().changes().is_empty());
        rig.assert_clean();
    }
}

#[tokio::test]
async fn it_vanishes_while_it_is_used() {
    for product in GPUS {
        let rig = Rig::one(product);
        let mut gpu = rig.open(0).await.unwrap();
        rig.only().set_faults(Faults { identity: Some(IdentityFault::Gone), ..Faults::default() });
        assert!(matches!(gpu.query().await.unwrap_err().cause, Cause::Gone { .. }));
        let failure = gpu.plan(Mode::On).await.unwrap_err();
        let Cause::Fsp(gpu::fsp::Error::Unreadable { word: Word::AllOnes, .. }) = failure.cause else {
            panic!("{failure:?}");
        };
        let failure = gpu.reset().await.unwrap_err();
        assert!(matches!(failure.cause, Cause::Gone { .. }));
    }
}

#[tokio::test]
async fn what_does_not_come_back_after_a_vm_is_quarantined_and_the_rest_is_free() {
    let rig = Rig::new(&[Product::H100, Product::B200, Product::Nvswitch], Timing::FAST);
    let gpus = rig.open_all().await;
    rig.emulators[1].set_faults(Faults { identity: Some(IdentityFault::AllOnes), ..Faults::default() });
    let folder = tempfile::tempdir().unwrap();
    let quarantine = Quarantine::new(folder.path());
    let released = give_back(gpus, &quarantine, "pod-7").await;
    assert!(matches!(released[0], Released::Clean(gpu) if gpu == address(0)));
    assert!(matches!(&released[1], Released::Quarantined(failure) if failure.gpu == address(1)));
    assert!(matches!(released[2], Released::Clean(_)));
    assert_eq!(quarantine.of(address(0)).unwrap(), None);
    let entry = quarantine.of(address(1)).unwrap().unwrap();
    assert_eq!(entry.sandbox, "pod-7");
    assert!(entry.reason.contains("nothing answers at register 0x000000"), "{}", entry.reason);
    for emulator in &rig.emulators {
        assert_eq!(emulator.state().resets, 1);
    }
}
