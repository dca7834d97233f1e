//! Register traces: the accesses of NVIDIA's tool, recorded from its unmodified release (2025.11.21)
//! against a register model. Where ours are fewer, the test says so.

use super::*;
use crate::registers::script::Script;

const CLEAN: &str = "R 8F2C10 808; R 8F2C14 808; R 8F2C90 800; R 8F2C94 800;";

async fn run(script: &str, family: Family, request: Request) -> Result<u16, Error> {
    let (mut script, mut waited) = (Script::new(script), Waited::default());
    let mut fsp = Fsp::open(&mut script, family, &mut waited).await?;
    let answer = match request {
        Request::Read(knob) => fsp.read_knob(knob).await,
        Request::Write(knob, value) => fsp.write_knob(knob, value).await.map(|()| 0),
    };
    script.finish();
    answer
}

#[tokio::test]
async fn hopper_writes_a_knob() {
    let script = format!(
        "{CLEAN}
        R 8F2C10 808; R 8F2C14 808
        W 8F2AD0 03000800; W 8F2AD4 C0000000; W 8F2AD4 1310DE7E; W 8F2AD4 000A020D; W 8F2AD4 00000002
        W 8F2C14 0000080C; W 8F2C10 00000800
        R 8F2C90 800; R 8F2C94 810
        W 8F2AD0 03000800
        R 8F2AD4 C0000000; R 8F2AD4 1510DE7E; R 8F2AD4 3; R 8F2AD4 13; R 8F2AD4 0
        W 8F2C94 800"
    );
    run(&script, Family::Hopper, Request::Write(Knob::BAR0_DECOUPLER, 2)).await.unwrap();
}

#[tokio::test]
async fn hopper_reads_a_knob_whose_upper_half_is_garbage_right_after_reset() {
    let script = "
        R 8F2C10 0; R 8F2C14 0; R 8F2C90 0; R 8F2C94 0
        R 8F2C10 0; R 8F2C14 0
        W 8F2AD0 03000800; W 8F2AD4 C0000000; W 8F2AD4 1310DE7E; W 8F2AD4 0008020C
        W 8F2C14 00000808; W 8F2C10 00000800
        R 8F2C90 0; R 8F2C94 0
        R 8F2C90 800; R 8F2C94 814
        W 8F2AD0 03000800
        R 8F2AD4 C0000000; R 8F2AD4 1510DE7E; R 8F2AD4 3; R 8F2AD4 13; R 8F2AD4 0; R 8F2AD4 BADF0001
        W 8F2C94 800";
    assert_eq!(run(script, Family::Hopper, Request::Read(Knob::CCM)).await.unwrap(), 1);
}

#[tokio::test]
async fn hopper_forgets_a_stale_reply() {
    let mut script = Script::new(
        "R 8F2C10 0; R 8F2C14 0; R 8F2C90 800; R 8F2C94 814
        W 8F2C14 800; W 8F2C10 800; W 8F2C94 800; W 8F2C90 800",
    );
    Fsp::open(&mut script, Family::NvSwitch, &mut Waited::default()).await.unwrap();
    script.finish();
}

#[tokio::test(start_paused = true)]
async fn hopper_without_a_reply_gives_up_and_says_what_the_queues_hold() {
    let script = format!(
        "{CLEAN}
        R 8F2C10 0; R 8F2C14 0
        W 8F2AD0 03000800; W 8F2AD4 C0000000; W 8F2AD4 1310DE7E; W 8F2AD4 0008020C
        W 8F2C14 00000808; W 8F2C10 00000800
        {}
        R 8F2C10 808; R 8F2C14 808; R 8F2C90 800; R 8F2C94 800
        {CLEAN}",
        "R 8F2C90 800; R 8F2C94 800\n".repeat(5001)
    );
    let error = run(&script, Family::Hopper, Request::Read(Knob::CCM)).await.unwrap_err();
    let Error::NoReply { state, .. } = &error else { panic!("{error:?}") };
    assert_eq!(state, "queue 0x808/0x808, messages 0x800/0x800");
}

/// After a reset both are 0; the firmware sets one after the other, and so do we read.
#[tokio::test(start_paused = true)]
async fn hopper_waits_for_a_head_and_tail_that_belong_together() {
    let script = format!(
        "{CLEAN}
        R 8F2C10 0; R 8F2C14 0
        W 8F2AD0 03000800; W 8F2AD4 C0000000; W 8F2AD4 1310DE7E; W 8F2AD4 0008020C
        W 8F2C14 00000808; W 8F2C10 00000800
        R 8F2C90 0; R 8F2C94 814
        R 8F2C90 800; R 8F2C94 0
        R 8F2C90 800; R 8F2C94 814
        W 8F2AD0 03000800
        R 8F2AD4 C0000000; R 8F2AD4 1510DE7E; R 8F2AD4 3; R 8F2AD4 13; R 8F2AD4 0; R 8F2AD4 1
        W 8F2C94 800"
    );
    assert_eq!(run(&script, Family::Hopper, Request::Read(Knob::CCM)).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn hopper_acknowledges_a_message_that_cannot_be() {
    let script = format!(
        "{CLEAN}
        R 8F2C10 0; R 8F2C14 0
        W 8F2AD0 03000800; W 8F2AD4 C0000000; W 8F2AD4 1310DE7E; W 8F2AD4 0008020C
        W 8F2C14 00000808; W 8F2C10 00000800
        {}
        R 8F2C10 808; R 8F2C14 808; R 8F2C90 800; R 8F2C94 2000
        W 8F2C94 800",
        "R 8F2C90 800; R 8F2C94 2000\n".repeat(5001)
    );
    let error = run(&script, Family::Hopper, Request::Read(Knob::CCM)).await.unwrap_err();
    assert!(matches!(error, Error::Announcement { .. }), "{error:?}");
}

#[tokio::test]
async fn blackwell_writes_a_knob() {
    // The tool reads the announcement twice.
    let script = "
        R 8F1F04 0
        R 8F1F84 05000000
        W 8F1F84 00100010
        R 8F1F84 05000010
        W 8F1F88 C0000000; W 8F1F88 1310DE7E; W 8F1F88 0008020D; W 8F1F88 00000001
        R 8F1F84 05000000
        R 8F1F04 01000014
        R 8F1F08 C0000000; R 8F1F08 1510DE7E; R 8F1F08 3; R 8F1F08 13; R 8F1F08 0
        R 8F1F04 00000000";
    run(script, Family::Blackwell1, Request::Write(Knob::CCM, 1)).await.unwrap();
}

#[tokio::test]
async fn blackwell_reads_a_knob_after_taking_a_stale_reply() {
    let script = "
        R 8F1F04 01000008; R 8F1F08 1; R 8F1F08 2; R 8F1F04 0
        R 8F1F84 01000000
        W 8F1F84 0010000C
        R 8F1F84 01000000; R 8F1F84 05000000
        W 8F1F88 C0000000; W 8F1F88 1310DE7E; W 8F1F88 0008020C
        R 8F1F84 05000000
        R 8F1F04 0; R 8F1F04 01000018
        R 8F1F08 C0000000; R 8F1F08 1510DE7E; R 8F1F08 3; R 8F1F08 13; R 8F1F08 0; R 8F1F08 FFFF0001
        R 8F1F04 0";
    // Ready without credit is enough to trigger, credit is asked for before the words.
    assert_eq!(run(script, Family::Blackwell2, Request::Read(Knob::CCM)).await.unwrap(), 1);
}

#[tokio::test]
async fn blackwell_reports_the_mailboxs_error_bit() {
    let script = "
        R 8F1F04 0
        R 8F1F84 05000000
        W 8F1F84 0010000C
        R 8F1F84 05000000
        W 8F1F88 C0000000; W 8F1F88 1310DE7E; W 8F1F88 0008020C
        R 8F1F84 07000000";
    let error = run(script, Family::Blackwell1, Request::Read(Knob::CCM)).await.unwrap_err();
    assert!(matches!(error, Error::Mailbox { info: 0x0700_0000 }), "{error:?}");
}

/// Each answer comes in time, and a pod would wait for minutes.
#[tokio::test(start_paused = true)]
async fn all_conversations_have_one_limit() {
    let slow = format!(
        "{CLEAN}
        R 8F2C10 0; R 8F2C14 0
        W 8F2AD0 03000800; W 8F2AD4 C0000000; W 8F2AD4 1310DE7E; W 8F2AD4 0008020C
        W 8F2C14 00000808; W 8F2C10 00000800
        {}
        R 8F2C90 800; R 8F2C94 814
        W 8F2AD0 03000800
        R 8F2AD4 C0000000; R 8F2AD4 1510DE7E; R 8F2AD4 3; R 8F2AD4 13; R 8F2AD4 0; R 8F2AD4 1
        W 8F2C94 800\n",
        "R 8F2C90 800; R 8F2C94 800\n".repeat(4_900)
    );
    let mut script = Script::new(&format!("{}{CLEAN}", slow.repeat(5)));
    let (begun, mut waited) = (Instant::now(), Waited::default());
    for _ in 0..5 {
        let mut fsp = Fsp::open(&mut script, Family::Hopper, &mut waited).await.unwrap();
        fsp.read_knob(Knob::CCM).await.unwrap();
    }
    assert!(begun.elapsed() < CONVERSATION + Duration::from_secs(6), "{:?}", begun.elapsed());
    // Time in which the firmware was not asked is not the firmware's.
    tokio::time::advance(Duration::from_secs(3_600)).await;
    let mut fsp = Fsp::open(&mut script, Family::Hopper, &mut waited).await.unwrap();
    let error = fsp.read_knob(Knob::CCM).await.unwrap_err();
    assert!(matches!(error, Error::TooSlow { request: Request::Read(Knob::CCM), .. }), "{error:?}");
    script.finish();
}

#[tokio::test(start_paused = true)]
async fn a_firmware_that_is_not_asked_is_not_waited_for() {
    let answered = "
        R 8F1F84 05000000
        W 8F1F84 0010000C
        R 8F1F84 05000000
        W 8F1F88 C0000000; W 8F1F88 1310DE7E; W 8F1F88 0008020C
        R 8F1F84 05000000
        R 8F1F04 01000018
        R 8F1F08 C0000000; R 8F1F08 1510DE7E; R 8F1F08 3; R 8F1F08 13; R 8F1F08 0; R 8F1F08 1
        R 8F1F04 0";
    let mut script = Script::new(&format!("R 8F1F04 0 {answered} {answered}"));
    let mut waited = Waited::default();
    let mut fsp = Fsp::open(&mut script, Family::Blackwell1, &mut waited).await.unwrap();
    fsp.read_knob(Knob::CCM).await.unwrap();
    // The other GPUs of the set are waited for.
    tokio::time::advance(CONVERSATION).await;
    fsp.read_knob(Knob::CCM).await.unwrap();
    script.finish();
}
