//! Inputs in any order.

use proptest::prelude::*;

use super::super::{Call, Input, Pass, Step};
use super::play::{Pending, World};
use super::{add, create, exec, id, init, kill, sandbox};
use crate::api::TerminalSize;

/// One thing that happens.
#[derive(Debug, Clone)]
enum Move {
    Call(u8, u8),
    Finish(prop::sample::Index, bool),
    Die,
    Oom(u8),
}

const NAMES: [&str; 3] = ["pod", "b", "c"];

fn call(kind: u8, name: &str) -> Call {
    match kind {
        0 | 1 => create(name),
        2 | 3 => Call::Start(init(name)),
        4 => kill(init(name), 9),
        5 => kill(init(name), 15),
        6 => kill(exec(name, "x"), 9),
        7 | 8 => add(exec(name, "x")),
        9 => Call::Start(exec(name, "x")),
        10 => Call::Delete(exec(name, "x")),
        11 | 12 => Call::Delete(init(name)),
        13 => Call::Wait(init(name)),
        14 => Call::Wait(exec(name, "x")),
        15 => Call::Freeze(id(name), Step::Pause),
        16 => Call::Freeze(id(name), Step::Resume),
        17 => Call::Pass(Pass::Stats(id(name))),
        18 => Call::State(init(name)),
        19 => Call::Shutdown { now: false },
        20 => sandbox("pod"),
        21 => Call::StartSandbox(id("pod")),
        22 => Call::WaitSandbox(id("pod")),
        23 => Call::StopSandbox(id("pod")),
        24 => Call::SandboxStatus(id("pod"), true),
        25 => Call::Pids(id(name)),
        26 => kill(init(name), 10),
        27 => Call::Pass(Pass::Resize(exec(name, "x"), TerminalSize { width: 80, height: 24 })),
        _ => Call::Shutdown { now: true },
    }
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        // A pod that is ended at every third step would not go through much.
        300 => (0..28_u8, 0..3_u8).prop_map(|(kind, name)| Move::Call(kind, name)),
        2 => Just(Move::Call(28, 0)),
        300 => (any::<prop::sample::Index>(), prop::bool::weighted(0.8)).prop_map(|(at, well)| Move::Finish(at, well)),
        6 => Just(Move::Die),
        6 => (0..4_u8).prop_map(Move::Oom),
    ];
    prop::collection::vec(one, 0..120)
}

fn play(moves: Vec<Move>) -> World {
    let mut world = World::new();
    for one in moves {
        if world.ended {
            break;
        }
        match one {
            Move::Call(kind, name) => drop(world.call(call(kind, NAMES[usize::from(name)]))),
            Move::Finish(at, well) if !world.pending.is_empty() => {
                let at = at.index(world.pending.len());
                // A boot that was given up fails, but for one that was over already.
                let well = well || (matches!(world.pending[at], Pending::Boot) && !world.boot_is_cancelled());
                world.finish(at, well);
            }
            Move::Finish(..) => {}
            Move::Die => world.die(),
            Move::Oom(name) => {
                let name = NAMES.get(usize::from(name)).copied().unwrap_or("somebody/else");
                world.apply(Input::Oom(name.to_owned()));
            }
        }
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(800), ..ProptestConfig::default() })]

    /// However it went: told to end, the pod ends, with every caller answered, every end told, and nothing held.
    #[test]
    fn a_pod_that_is_told_to_end_ends_with_everybody_answered(moves in moves()) {
        let mut world = play(moves);
        if !world.ended {
            world.done(Call::Shutdown { now: true });
        }
        world.settle();
        prop_assert!(world.ended, "the shim does not end; under way: {:?}", world.pending);
        prop_assert_eq!(world.unanswered(), 0);
        prop_assert_eq!(world.open_processes(), 0);
        prop_assert!(!world.vm && world.holding.is_empty());
    }

    /// However it went: a shim that was told to end with its last container ends with that, also where one was given up while it
    /// was being made.
    #[test]
    fn a_shim_ends_with_the_last_container_that_anybody_knows(moves in moves()) {
        let mut world = play(moves);
        let delete = |world: &mut World| {
            for name in NAMES {
                world.call(Call::Delete(init(name)));
            }
        };
        if !world.ended {
            delete(&mut world);
            world.call(Call::Shutdown { now: false });
        }
        world.settle();
        while let Some(at) = world.pending.iter().position(|pending| matches!(pending, Pending::Exit(_))) {
            world.finish(at, true);
            world.settle();
        }
        if !world.ended {
            delete(&mut world);
            world.settle();
        }
        prop_assert!(world.ended || world.core.sandbox.is_some());
    }

    /// However it went: containers that end and are deleted leave a pod without sandbox with nothing, VM included.
    #[test]
    fn a_pods_vm_goes_with_its_last_container(moves in moves()) {
        let mut world = play(moves);
        world.settle();
        while let Some(at) = world.pending.iter().position(|pending| matches!(pending, Pending::Exit(_))) {
            world.finish(at, true);
            world.settle();
        }
        // All at once, so that each is the last to somebody.
        let tickets: Vec<_> = NAMES.iter().map(|name| world.call(Call::Delete(init(name)))).collect();
        world.settle();
        prop_assert!(tickets.iter().all(|ticket| world.answer(*ticket).is_some()));
        prop_assert!(world.holding.is_empty());
        if world.core.sandbox.is_none() {
            prop_assert!(!world.vm, "a VM without containers");
        }
    }
}
