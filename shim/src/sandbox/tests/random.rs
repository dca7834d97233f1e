//! Calls at any time and in any order, with the driver between them and the fakes.

use std::sync::Arc;
use std::time::Duration;

use agent_client::proto::oci::Process as OciProcess;
use proptest::prelude::*;
use tokio::time::sleep;

use super::{Pod, create, exec, init, kill};
use crate::api::StdioPaths;
use crate::core::{Call, Step};

const NAMES: [&str; 3] = ["pod", "b", "c"];

fn call(kind: u8, name: &str) -> Call {
    let spec = || Arc::new(OciProcess::default());
    match kind {
        0 | 1 => create(name, ""),
        2 | 3 => Call::Start(init(name)),
        4 => kill(init(name), 9),
        5 => kill(init(name), 15),
        6 => Call::Exec(exec(name, "x"), StdioPaths::default(), spec()),
        7 => Call::Start(exec(name, "x")),
        8 => kill(exec(name, "x"), 9),
        9 => Call::Delete(exec(name, "x")),
        10 => Call::Wait(init(name)),
        11 => Call::Freeze(init(name).container, Step::Pause),
        12 => Call::Freeze(init(name).container, Step::Resume),
        _ => Call::Delete(init(name)),
    }
}

async fn play(moves: Vec<(u8, usize, u64)>) -> Pod {
    let pod = Pod::new();
    let mut answers = Vec::new();
    for (kind, name, pause) in moves {
        match kind {
            14 if pause > 38 => pod.host.die(),
            14 | 15 if pod.host.taken() > 5 => pod.host.guest().end((NAMES[name], NAMES[name]), 0),
            14 | 15 => {}
            kind => answers.push(pod.begin(call(kind, NAMES[name]))),
        }
        sleep(Duration::from_millis(pause)).await;
    }
    pod.call(Call::Shutdown { now: true }).await.unwrap();
    pod.ended.clone().wait_for(|end| *end).await.unwrap();
    for answer in answers {
        assert!(tokio::time::timeout(super::LONG, answer).await.unwrap().is_ok(), "an answer is lost");
    }
    pod
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_held_or_told_twice(moves in prop::collection::vec((0..16_u8, 0..3_usize, 0..40_u64), 0..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let pod = runtime.block_on(play(moves));
        prop_assert_eq!(pod.host.taken(), 0);
        for name in NAMES {
            let events = pod.events();
            let mine: Vec<&str> =
                events.iter().filter_map(|event| event.split_once(' ').filter(|(_, of)| *of == name)).map(|(kind, _)| kind).collect();
            let count = |kind: &str| mine.iter().filter(|found| **found == kind).count();
            prop_assert!(count("Started") <= count("Exited"), "{:?}", mine);
            prop_assert!(count("Deleted") <= count("Created"), "{:?}", mine);
        }
    }
}
