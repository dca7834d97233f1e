use super::*;
use crate::registers::script::Script;

async fn run(script: &str, chip: Chip) -> Result<(), Cause> {
    let mut script = Script::new(script);
    let gpu = "0000:41:00.0".parse().unwrap();
    let done = wait(&mut script, gpu, chip, &Progress::silent()).await;
    if done.is_ok() {
        script.finish();
    }
    done.map_err(|failure| failure.cause)
}

#[tokio::test(start_paused = true)]
async fn hopper_boots() {
    run("R 0 180000A1; R 200BC 0; R 200BC 7; R 200BC FF; R 20120 0", Chip::Gh100).await.unwrap();
}

/// All-ones means that nothing answers yet, as long as configuration space answers and a boot may take.
#[tokio::test(start_paused = true)]
async fn all_ones_on_bar0_are_a_boot_that_is_not_over() {
    let yet = |at| format!("R {at} FFFFFFFF; R c0 233010DE;");
    let script =
        format!("{}R 0 180000A1; R 200BC 0; {}{}R 200BC FF; R 20120 0", yet("0"), yet("200BC"), yet("200BC"));
    run(&script, Chip::Gh100).await.unwrap();
    let script = format!("R 0 180000A1; {}", yet("200BC").repeat(501));
    let cause = run(&script, Chip::Gh100).await.unwrap_err();
    assert!(matches!(cause, Cause::Gone { at: At::Bar0(0x2_00bc) }), "{cause}");
    let cause = run(&yet("0").repeat(501), Chip::Gh100).await.unwrap_err();
    assert!(matches!(cause, Cause::Gone { at: BOOT_0 }), "{cause}");
}

#[tokio::test(start_paused = true)]
async fn rubin_has_the_firewall_of_one_blackwell_and_the_boot_register_of_the_other() {
    let script = "R c100 10023; R c104 10DE; R c108 0; R c108 100000; R c108 0
        R 0 1C0000A1; R AD00BC BADF1100; R AD00BC FF; R 8AA128 0";
    run(script, Chip::Rubin).await.unwrap();
    assert!(matches!(
        run("R c100 0; R 0 180000A1; R 0 180000A1", Chip::Rubin).await,
        Err(Cause::OtherChip { .. })
    ));
}

/// It has booted when it answers: no register of another chip's is asked.
#[tokio::test(start_paused = true)]
async fn of_a_chip_that_is_not_known_nothing_is_asked_but_whether_it_answers() {
    run("R 0 FFFFFFFF; R c0 20B010DE; R 0 170000A1", Chip::Other).await.unwrap();
    assert!(matches!(run("R 0 BADF0200; R c100 0", Chip::Other).await, Err(Cause::SecurityFault { .. })));
}

#[tokio::test(start_paused = true)]
async fn blackwell_boots_behind_its_firewall() {
    // A chain of capabilities with the wanted one third; the unit of the boot register comes up late.
    let script = "R c100 25410001; R c254 AF010023; R c258 108086; R cAF0 10023; R cAF4 01C010DE; R cAF8 0
        R cAF8 100000; R cAF8 100000; R cAF8 0
        R 0 1A0000A1; R 200BC BADF1100; R 200BC 0; R 200BC FF; R 8AA128 1";
    run(script, Chip::Gb100).await.unwrap();
    let script = "R c100 0001000B; R c104 00010001; R c114 01000000; R c114 0
        R 0 1B2000A1; R AD00BC FF; R 8AA128 0";
    run(script, Chip::Gb202).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_firewall_that_stays_up_is_waited_for_15_seconds() {
    let mut script = "R c100 10023; R c104 10DE; R c108 0;".to_owned();
    script.push_str("15001*R c108 100000;");
    let cause = run(&script, Chip::Gb100).await.unwrap_err();
    assert!(matches!(cause, Cause::FirewallUp { limit } if limit.as_secs() == 15), "{cause}");
}

#[tokio::test(start_paused = true)]
async fn a_hidden_firewall_is_guessed_from_bar0() {
    run("R c100 0; R 0 FFFFFFFF; R 0 1A0000A1; R 0 1A0000A1; R 200BC FF; R 8AA128 0", Chip::Gb100)
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn states_that_do_not_go_away() {
    let cause = async |script| run(script, Chip::Gh100).await.unwrap_err();
    let gone = cause("R 0 FFFFFFFF; R c0 233010DE; R 0 FFFFFFFF; R c0 FFFFFFFF").await;
    assert!(matches!(gone, Cause::Gone { at: At::Config(0) }));
    let gone = cause("R 0 180000A1; R 200BC FFFFFFFF; R c0 FFFFFFFF").await;
    assert!(matches!(gone, Cause::Gone { at: At::Config(0) }));
    assert!(matches!(cause("R 0 0").await, Cause::Recovery { .. }));
    assert!(matches!(cause("R 0 BADF1234").await, Cause::Unreadable { .. }));
    assert!(matches!(cause("R 0 1A0000A1").await, Cause::OtherChip { boot0: 0x1a00_00a1, .. }));
    assert!(matches!(cause("R 0 180000A1; R 200BC BADF1100").await, Cause::Unreadable { .. }));
    let recovery = cause("R 0 180000A1; R 200BC FF; R 20120 40000000").await;
    assert!(matches!(recovery, Cause::Recovery { .. }));
    let locked = cause("R 0 BADF0200; R c100 0001000B; R c104 00010001; R c110 42").await;
    assert!(matches!(locked, Cause::SecurityFault { reason: Some(0x42), .. }), "{locked}");
}

#[tokio::test(start_paused = true)]
async fn a_boot_that_never_ends_is_reported_with_what_the_firmware_left() {
    let mut script = "R 0 180000A1; 501*R 200BC 0; R 20120 0;".to_owned();
    script.push_str("R 8F0320 9F; R 8F0324 0; R 8F0328 0; R 8F032C 5;");
    script.push_str("R 8F0330 0; R 8F0334 BADF5108; R 8F0338 0; R 8F033C 0");
    let cause = run(&script, Chip::Gh100).await.unwrap_err();
    assert!(matches!(cause, Cause::NotBooted { limit, .. } if limit.as_secs() == 5), "{cause}");
    assert!(cause.to_string().contains("FSP scratch 9f 0 0 5 0 badf5108 0 0"), "{cause}");
}

async fn wakes(script: &str) -> Result<(), Cause> {
    let mut script = Script::new(script);
    let gpu = "0000:41:00.0".parse().unwrap();
    let mut span = Progress::silent().begin(gpu, Phase::Open);
    let done = wake(&mut script, &mut span).await;
    if done.is_ok() {
        script.finish();
    }
    done
}

#[tokio::test(start_paused = true)]
async fn a_sleeping_function_is_woken_and_answers_on_its_bars() {
    // Capabilities: MSI-X, then power management, which has seen an event.
    let script = "R c0 233010DE; R c4 00100000; R c34 C8; R cC8 4011; R c40 00036001; R c44 8003
        W c44 0; R c44 3; R c44 0
        R c4 F0100400; W c4 00000402";
    wakes(script).await.unwrap();
    // Awake already, nothing to do.
    wakes("R c0 233010DE; R c4 00100000; R c34 40; R c40 00036001; R c44 8; R c4 00100006").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_that_stays_asleep_or_is_gone_is_named() {
    let cause = wakes("R c0 FFFFFFFF").await.unwrap_err();
    assert!(matches!(cause, Cause::Gone { .. }));
    let script = "R c0 233010DE; R c4 00100000; R c34 40; R c40 00036001; R c44 3; W c44 0; 52*R c44 3";
    let cause = wakes(script).await.unwrap_err();
    assert!(matches!(cause, Cause::Asleep { state: 3 }), "{cause}");
}

#[tokio::test(start_paused = true)]
async fn lists_of_capabilities_that_go_round_are_left() {
    // Each points at itself. Without the capability BAR0 tells, and a function without power management is
    // awake.
    let script = "96*R c100 10010003; R 0 1A0000A1; R 0 1A0000A1; R 200BC FF; R 8AA128 0";
    run(script, Chip::Gb100).await.unwrap();
    wakes("R c0 290110DE; R c4 00100002; R c34 40; 96*R c40 4005; R c4 00100002").await.unwrap();
}
