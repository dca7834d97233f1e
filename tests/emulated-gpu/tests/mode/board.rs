//! Several GPUs, and the whole Hopper board.

use emulated_gpu::{Faults, Product, Timing};
use gpu::set::{BadSet, Error};
use gpu::{Cause, Mode, set};

use crate::rig::{Rig, address, requests};

fn board(gpus: usize, switches: usize) -> Rig {
    let gpus = std::iter::repeat_n(Product::H100, gpus);
    let products: Vec<_> = gpus.chain(std::iter::repeat_n(Product::Nvswitch, switches)).collect();
    Rig::new(&products, Timing::FAST)
}

#[tokio::test]
async fn protected_pcie_on_a_whole_board_and_off_again() {
    let rig = board(8, 4);
    let verified = set::switch(rig.open_all().await, Mode::Ppcie).await.unwrap();
    let assignable: Vec<_> = verified.into_iter().map(gpu::Gpu::close).collect();
    assert_eq!(set::one_vm(&assignable), Ok(Mode::Ppcie));
    for emulator in &rig.emulators[..8] {
        assert_eq!(emulator.state().mode_word, 0x20);
    }
    for emulator in &rig.emulators[8..] {
        assert_eq!(emulator.state().mode_word, 1);
        assert!(requests(emulator).ends_with(
            "0008020C 0002020C 0004020C 0006020C 0008020C 0022020C 000A020C 002D020C 002D020D+1 002D020C"
        ));
    }
    set::switch(rig.open_all().await, Mode::Off).await.unwrap();
    for emulator in &rig.emulators {
        assert_eq!(emulator.state().mode_word, 0);
        assert_eq!(emulator.state().resets, 2);
    }
    rig.assert_clean();
}

#[tokio::test]
async fn from_protected_pcie_to_confidential_computing_and_back() {
    let rig = board(8, 4);
    set::switch(rig.open_all().await, Mode::Ppcie).await.unwrap();
    let mut gpus = rig.open_all().await;
    gpus.truncate(8);
    set::switch(gpus, Mode::On).await.unwrap();
    set::switch(rig.open_all().await, Mode::Ppcie).await.unwrap();
    rig.assert_clean();
}

#[tokio::test]
async fn less_than_a_board_is_refused_and_nothing_asked() {
    for (gpus, switches) in [(7, 4), (8, 3), (1, 0)] {
        let rig = board(gpus, switches);
        let error = set::switch(rig.open_all().await, Mode::Ppcie).await.unwrap_err();
        assert!(matches!(error, Error::Set(BadSet::NoBoard { .. })), "{error}");
        for emulator in &rig.emulators {
            assert_eq!(requests(emulator), "");
        }
    }
}

#[tokio::test]
async fn one_that_is_locked_keeps_all_from_being_written() {
    let rig = board(8, 4);
    rig.emulators[5].set_faults(Faults { locked: [45].into(), ..Faults::default() });
    let error = set::switch(rig.open_all().await, Mode::Ppcie).await.unwrap_err();
    let Error::Devices { failures, pending } = &error else { panic!("{error}") };
    let [failure] = &failures[..] else { panic!("{failures:?}") };
    assert_eq!(failure.gpu, address(5));
    assert!(matches!(failure.cause, Cause::Locked { .. }));
    assert!(pending.is_empty());
    for emulator in &rig.emulators {
        assert!(!requests(emulator).contains('+'), "something was written");
        assert_eq!(emulator.state().resets, 0);
    }
    rig.assert_clean();
}

#[tokio::test]
async fn one_that_does_not_change_is_named() {
    let rig = Rig::new(&[Product::B200; 4], Timing::FAST);
    rig.emulators[2].set_faults(Faults { not_latched: true, ..Faults::default() });
    let error = set::switch(rig.open_all().await, Mode::On).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("GPU 0000:02:00.0: verifying the mode failed"), "{text}");
    assert!(text.contains("active mode is off") && text.contains("wanted is on"), "{text}");
    let Error::Devices { failures, pending } = error else { panic!("{text}") };
    assert_eq!(
        (failures.len(), pending.iter().map(ToString::to_string).collect()),
        (1, vec!["0000:02:00.0".to_owned()])
    );
}

#[tokio::test]
async fn blackwell_gpus_go_to_one_vm_each_in_mode_on() {
    let rig = Rig::new(&[Product::B200; 8], Timing::FAST);
    let verified = set::switch(rig.open_all().await, Mode::On).await.unwrap();
    let assignable: Vec<_> = verified.into_iter().map(gpu::Gpu::close).collect();
    assert_eq!(set::one_vm(&assignable), Ok(Mode::On));
    rig.assert_clean();
}
