//! Firmware that does not answer as it should.

use emulated_gpu::{Device, Faults, MailboxFault, Product, ReplyFault};
use gpu::fsp::{Code, Error};
use gpu::{Cause, Mode, set};

use crate::rig::{GPUS, Rig};

/// What becomes of a request under these faults. The GPU is in mode off.
async fn asking(product: Product, faults: Faults) -> Error {
    let rig = Rig::one(product);
    let mut gpu = rig.open(0).await.unwrap();
    rig.only().set_faults(faults);
    tokio::time::pause();
    let failure = gpu.plan(Mode::On).await.unwrap_err();
    let Cause::Fsp(error) = failure.cause else { panic!("{failure:?}") };
    // As soon as it answers again, all is well.
    rig.only().set_faults(Faults::default());
    if !matches!(error, Error::NotTaken { .. } | Error::Mailbox { .. }) {
        gpu.plan(Mode::On).await.unwrap();
    }
    tokio::time::resume();
    rig.assert_clean();
    error
}

fn reply(fault: ReplyFault) -> Faults {
    Faults { reply: Some(fault), ..Faults::default() }
}

#[tokio::test]
async fn no_reply() {
    for product in [Product::H100, Product::Nvswitch, Product::B200, Product::RtxPro6000] {
        let mode = if product == Product::Nvswitch { Mode::Ppcie } else { Mode::On };
        let rig = Rig::one(product);
        let mut gpu = rig.open(0).await.unwrap();
        rig.only().set_faults(reply(ReplyFault::Lost));
        tokio::time::pause();
        let failure = gpu.plan(mode).await.unwrap_err();
        let Cause::Fsp(Error::NoReply { limit, .. }) = &failure.cause else { panic!("{failure:?}") };
        assert_eq!(limit.as_secs(), 5);
        tokio::time::resume();
        assert_eq!(rig.only().state().requests.len(), 1, "asked once only");
        rig.assert_clean();
    }
}

#[tokio::test]
async fn replies_that_are_none() {
    for product in [Product::H100, Product::B200] {
        let error = asking(product, reply(ReplyFault::Short)).await;
        assert!(matches!(error, Error::Short { words: 4 }), "{error:?}");
        let error = asking(product, reply(ReplyFault::OtherType)).await;
        assert!(matches!(error, Error::Foreign { index: 1, found: 0x1410_de7e }), "{error:?}");
        let error = asking(product, reply(ReplyFault::OtherRequest)).await;
        assert!(matches!(error, Error::Foreign { index: 3, found: 0x14 }), "{error:?}");
        let error = asking(product, reply(ReplyFault::Long)).await;
        assert!(matches!(error, Error::Payload { expected: 1, found: 2 }), "{error:?}");
    }
}

#[tokio::test]
async fn the_mailbox_never_takes_a_message() {
    let faults = Faults { mailbox: Some(MailboxFault::NotReady), ..Faults::default() };
    let error = asking(Product::B200, faults).await;
    assert!(matches!(error, Error::NotTaken { limit, .. } if limit.as_secs() == 5), "{error:?}");
}

#[tokio::test]
async fn the_mailbox_reports_an_error() {
    let faults = Faults { mailbox: Some(MailboxFault::Error), ..Faults::default() };
    let error = asking(Product::RtxPro6000, faults).await;
    assert!(matches!(error, Error::Mailbox { info } if info & 1 << 25 != 0), "{error:?}");
}

#[tokio::test]
async fn refusals_carry_their_code() {
    for product in [Product::H100, Product::B200] {
        for (number, meaning) in [
            (0x202, Code::Unexplained202),
            (0x9e, Code::InvalidState),
            (0xa1, Code::InvalidData),
            (5, Code::Other(5)),
        ] {
            let faults = Faults { every_error: Some(number), ..Faults::default() };
            let error = asking(product, faults).await;
            let Error::Refused { code, .. } = error else { panic!("{error:?}") };
            assert_eq!(code, meaning);
        }
        let faults = Faults { knob_errors: [(8, 0xa0)].into(), ..Faults::default() };
        let text = asking(product, faults).await.to_string();
        assert!(text.contains("CCM (confidential computing), knob 8: not supported (0xa0)"), "{text}");
    }
}

#[tokio::test]
async fn firmware_without_protected_pcie() {
    let rig = Rig::one(Product::H100);
    rig.only().set_faults(Faults { no_ppcie: true, ..Faults::default() });
    let mut gpu = rig.open(0).await.unwrap();
    let failure = gpu.plan(Mode::Ppcie).await.unwrap_err();
    assert!(matches!(failure.cause, Cause::Unsupported { mode: Mode::Ppcie, .. }), "{failure:?}");
    set::switch(vec![gpu], Mode::On).await.unwrap();
    let gpu = rig.open(0).await.unwrap();
    set::switch(vec![gpu], Mode::Off).await.unwrap();
    rig.assert_clean();
}

#[tokio::test]
async fn a_reply_that_somebody_left_behind_is_not_ours() {
    for product in GPUS {
        let rig = Rig::one(product);
        let mut gpu = rig.open(0).await.unwrap();
        // It says that the knob's value is 1.
        rig.only().with(Device::leave_stale_reply);
        assert!(gpu.plan(Mode::Off).await.unwrap().changes().is_empty());
        rig.assert_clean();
    }
}

#[tokio::test]
async fn a_late_reply_is_waited_for() {
    for product in GPUS {
        let rig = Rig::one(product);
        let gpu = rig.open(0).await.unwrap();
        rig.only().set_faults(reply(ReplyFault::Late(40)));
        gpu.verify(Mode::Off).await.unwrap();
        rig.assert_clean();
    }
}

#[tokio::test]
async fn a_reply_after_the_limit_is_not_taken_for_the_next() {
    for product in [Product::H100, Product::B200] {
        let rig = Rig::one(product);
        let mut gpu = rig.open(0).await.unwrap();
        rig.only().with(|device| device.set_knob(8, 1));
        rig.only().set_faults(reply(ReplyFault::Late(1_500)));
        tokio::time::pause();
        let failure = gpu.plan(Mode::Off).await.unwrap_err();
        assert!(matches!(failure.cause, Cause::Fsp(Error::NoReply { .. })), "{failure:?}");
        rig.only().set_faults(Faults::default());
        tokio::time::resume();
        tokio::time::sleep(std::time::Duration::from_millis(1_600)).await;
        let plan = gpu.plan(Mode::Off).await.unwrap();
        assert_eq!(plan.changes().iter().map(|(knob, value)| (knob.0, *value)).collect::<Vec<_>>(), [(8, 0)]);
        rig.assert_clean();
    }
}
