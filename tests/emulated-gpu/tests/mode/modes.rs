//! Every mode of every product, back and forth.

use emulated_gpu::{Device, Faults, Product};
use gpu::{Cause, Mode, set};

use crate::rig::{GPUS, Rig, requests};

#[tokio::test]
async fn a_fresh_gpu_is_off() {
    for product in GPUS.into_iter().chain([Product::Nvswitch]) {
        let rig = Rig::one(product);
        let mut gpu = rig.open(0).await.unwrap();
        assert_eq!(gpu.query().await.unwrap().mode, Mode::Off);
        let gpu = gpu.verify(Mode::Off).await.unwrap();
        assert_eq!(gpu.close().mode(), Mode::Off);
        assert_eq!(rig.only().state().resets, 0);
        rig.assert_clean();
    }
}

#[tokio::test]
async fn every_way_from_mode_to_mode() {
    for product in GPUS {
        let rig = Rig::one(product);
        let modes = [Mode::On, Mode::Devtools, Mode::Off, Mode::Devtools, Mode::On, Mode::Off];
        for (count, mode) in (1..).zip(modes) {
            let gpu = rig.open(0).await.unwrap();
            let [gpu] = &set::switch(vec![gpu], mode).await.unwrap()[..] else { panic!() };
            assert_eq!(gpu.mode(), mode, "{product:?}");
            assert_eq!(rig.only().state().resets, count);
        }
        rig.assert_clean();
    }
}

#[tokio::test]
async fn a_gpu_in_its_mode_is_neither_written_nor_reset() {
    let rig = Rig::one(Product::H100);
    let gpu = rig.open(0).await.unwrap();
    set::switch(vec![gpu], Mode::On).await.unwrap();
    rig.only().with(Device::clear_log);
    let gpu = rig.open(0).await.unwrap();
    set::switch(vec![gpu], Mode::On).await.unwrap();
    assert_eq!(rig.only().state().resets, 1);
    assert!(rig.only().state().requests.iter().all(|(_, value)| value.is_none()), "a write");
    rig.assert_clean();
}

/// The writes are those of NVIDIA's tool, in its order, after everything has been looked at.
#[tokio::test]
async fn writes_in_the_tools_order() {
    for (product, mode, tool) in [
        (
            Product::H100,
            Mode::On,
            "002D020C 0002020C 0004020C 0022020C 002D020C 000A020C 000A020D+2 0008020C 0008020D+1 0006020C",
        ),
        (
            Product::H200,
            Mode::Devtools,
            "002D020C 0002020C 0004020C 0022020C 002D020C 000A020C 0008020C 0008020D+1 0006020C 0006020D+1",
        ),
        (Product::B200, Mode::On, "0008020C 0008020D+1 0006020C"),
        (Product::Rubin, Mode::On, "0008020C 0008020D+1 0006020C"),
        (Product::RtxPro6000, Mode::Devtools, "0008020C 0008020D+1 0006020C 0006020D+1"),
    ] {
        let rig = Rig::one(product);
        let mut gpu = rig.open(0).await.unwrap();
        let plan = gpu.plan(mode).await.unwrap();
        assert!(!requests(rig.only()).contains('+'), "planning writes nothing");
        rig.only().with(Device::clear_log);
        gpu.write(&plan).await.unwrap();
        assert_eq!(requests(rig.only()), tool, "{product:?} {mode}");
        assert_eq!(gpu.query().await.unwrap().mode, Mode::Off, "not before a reset");
        let gpu = gpu.reset().await.unwrap();
        gpu.verify(mode).await.unwrap();
        rig.assert_clean();
    }
}

#[tokio::test]
async fn conflicting_features_are_switched_off() {
    for product in [Product::H100, Product::H200] {
        let rig = Rig::one(product);
        for knob in [2, 4, 34] {
            rig.only().with(|device| device.set_knob(knob, 1));
        }
        let gpu = rig.open(0).await.unwrap();
        set::switch(vec![gpu], Mode::On).await.unwrap();
        // The emulator takes offence at a reset with a mode and such a feature.
        rig.assert_clean();
    }
}

/// Blackwell's firmware need not have the features of Hopper's that exclude the mode.
#[tokio::test]
async fn firmware_without_hoppers_features_is_set_all_the_same() {
    for product in [Product::B200, Product::RtxPro6000, Product::Rubin] {
        let rig = Rig::one(product);
        let knob_errors = [1, 2, 3, 4, 33, 34, 45].map(|knob| (knob, 0x1e3)).into();
        rig.only().set_faults(Faults { knob_errors, ..Faults::default() });
        for mode in [Mode::On, Mode::Devtools, Mode::Off] {
            let gpu = rig.open(0).await.unwrap();
            set::switch(vec![gpu], mode).await.unwrap();
        }
        rig.assert_clean();
    }
}

/// A setting that the firmware does not have is off: a mode that needs it on is not to be had, any other is.
#[tokio::test]
async fn what_the_firmware_does_not_have_is_off() {
    let missing = |knobs: &[u16]| Faults {
        knob_errors: knobs.iter().flat_map(|knob| [(knob - 1, 0x1e3), (*knob, 0x1e3)]).collect(),
        ..Faults::default()
    };
    let hopper = [Product::H100, Product::H200];
    for (products, knobs, possible, impossible) in [
        (&GPUS[..], &[6, 8][..], &[Mode::Off][..], &[Mode::On, Mode::Devtools][..]),
        (&GPUS, &[8], &[Mode::Off], &[Mode::On, Mode::Devtools]),
        (&GPUS, &[6], &[Mode::On, Mode::Off], &[Mode::Devtools]),
        (&hopper, &[10], &[Mode::Devtools, Mode::Off], &[Mode::On]),
        (&hopper, &[2, 4, 34], &[Mode::On, Mode::Devtools, Mode::Off], &[]),
    ] {
        for product in products {
            let rig = Rig::one(*product);
            rig.only().set_faults(missing(knobs));
            for mode in possible {
                let gpu = rig.open(0).await.unwrap();
                let gpus = set::switch(vec![gpu], *mode).await.unwrap();
                let reset = set::reset(gpus).await.unwrap();
                set::verify(reset, *mode).await.unwrap();
            }
            rig.only().with(Device::clear_log);
            for mode in impossible {
                let failure = rig.open(0).await.unwrap().plan(*mode).await.unwrap_err();
                let lacks =
                    matches!(failure.cause, Cause::Unsupported { reason, .. } if reason.contains("lacks"));
                assert!(lacks && failure.cause.is_refusal(), "{product:?} without {knobs:?}: {failure:?}");
            }
            assert!(!requests(rig.only()).contains('+'), "{product:?} without {knobs:?}");
            rig.assert_clean();
        }
    }
    // The switch is looked at for a setting that it need not have.
    for mode in [Mode::Ppcie, Mode::Off] {
        let rig = Rig::one(Product::Nvswitch);
        rig.only().set_faults(missing(&[2, 4, 6, 8, 34]));
        let mut switch = rig.open(0).await.unwrap();
        let plan = switch.plan(mode).await.unwrap();
        switch.write(&plan).await.unwrap();
        switch.reset().await.unwrap().verify(mode).await.unwrap();
        rig.assert_clean();
    }
}

/// A chip that is not known goes to a plain VM: it is reset, and nothing is asked of a firmware that it may not have.
#[tokio::test]
async fn a_chip_that_is_not_known_is_off_and_has_no_other_mode() {
    let rig = Rig::one(Product::A100);
    let gpu = rig.open(0).await.unwrap();
    let verified = set::switch(vec![gpu], Mode::Off).await.unwrap();
    let gpus: Vec<_> = set::reset(verified).await.unwrap();
    let verified: Vec<_> =
        set::verify(gpus, Mode::Off).await.unwrap().into_iter().map(gpu::Gpu::close).collect();
    assert_eq!(set::one_vm(&verified), Ok(Mode::Off));
    assert_eq!(rig.only().state().resets, 1);
    for mode in [Mode::On, Mode::Devtools, Mode::Ppcie] {
        let mut gpu = rig.open(0).await.unwrap();
        let planned = gpu.plan(mode).await.unwrap_err();
        let verified = gpu.verify(mode).await.unwrap_err();
        for failure in [planned, verified] {
            assert!(matches!(failure.cause, Cause::UnknownChip(_)), "{failure:?}");
            assert!(failure.cause.is_refusal());
        }
    }
    assert!(rig.only().state().requests.is_empty());
    rig.assert_clean();
}

#[tokio::test]
async fn modes_that_a_product_does_not_have_are_refused_before_anything_is_asked() {
    for (product, mode) in
        [(Product::Nvswitch, Mode::On), (Product::B200, Mode::Ppcie), (Product::Rubin, Mode::Ppcie)]
    {
        let rig = Rig::one(product);
        let mut gpu = rig.open(0).await.unwrap();
        let failure = gpu.plan(mode).await.unwrap_err();
        assert!(matches!(failure.cause, Cause::Unsupported { .. }), "{failure}");
        assert_eq!(requests(rig.only()), "");
    }
}

#[tokio::test]
async fn bits_beside_the_mode_do_not_matter() {
    let rig = Rig::one(Product::H100);
    rig.only().set_faults(emulated_gpu::Faults { mode_extra: 0x180, ..Default::default() });
    let gpu = rig.open(0).await.unwrap();
    set::switch(vec![gpu], Mode::On).await.unwrap();
}

#[tokio::test]
async fn memory_is_scrubbed_or_nobody_can_tell() {
    use gpu::boot::Scrubbed;
    for (product, mode, expected) in [
        (Product::H100, Mode::Off, Scrubbed::Yes),
        (Product::B200, Mode::Off, Scrubbed::Yes),
        (Product::H100, Mode::On, Scrubbed::CannotTell),
        (Product::Nvswitch, Mode::Off, Scrubbed::CannotTell),
    ] {
        let rig = Rig::one(product);
        let gpu = rig.open(0).await.unwrap();
        let [gpu] = &mut set::switch(vec![gpu], mode).await.unwrap()[..] else { panic!() };
        assert_eq!(gpu.scrubbed().await.unwrap(), expected);
    }
}
