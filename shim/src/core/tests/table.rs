//! One container in each of its states, and what each call does there.

use std::sync::Arc;

use agent_client::proto::oci::{Box, Process as OciProcess};
use oci_spec::runtime::{BoxBuilder, Spec};

use super::super::{Call, Input, Pass, Reply, Step, Ticket};
use super::play::{Pending, World};
use super::{EPOCH, add, create, create_in, exec, id, init, kill, sandbox};
use crate::api::{Error, Exit, KillRequest, NewContainer, Status, StdioPaths, TerminalSize};

/// A world with container `b` in the state of this name.
fn in_state(state: &str) -> World {
    let mut world = World::new();
    if state == "absent" {
        return world;
    }
    world.call(create("b"));
    if state == "booting" {
        return world;
    }
    world.finish(0, true);
    if state == "making" {
        return world;
    }
    world.settle();
    if state == "created" {
        return world;
    }
    world.call(Call::Start(init("b")));
    if state == "starting" {
        return world;
    }
    world.settle();
    match state {
        "running" => {}
        "paused" => drop(world.done(Call::Freeze(id("b"), Step::Pause))),
        "stopped" => end_process(&mut world),
        "leaving" => {
            end_process(&mut world);
            world.call(Call::Delete(init("b")));
        }
        "vm ended" => world.die(),
        other => panic!("{other}"),
    }
    world
}

/// The process of `b` ends by itself.
fn end_process(world: &mut World) {
    let at = world.pending.iter().position(|pending| matches!(pending, Pending::Exit(_))).unwrap();
    world.finish(at, true);
}

const STATES: [&str; 10] = [
    "absent", "booting", "making", "created", "starting", "running", "paused", "stopped", "leaving",
    "vm ended",
];

fn row(call: &Call) -> String {
    let cells = STATES.map(|state| {
        let mut world = in_state(state);
        world.call(call.clone());
        world.said.retain(|word| !word.starts_with("Say"));
        let said = world.said.join("+").replace("already_exists", "exists").replace("not_found", "none");
        said.replace("failed_precondition", "no").replace("unavailable", "gone")
    });
    cells.join(" | ")
}

/// Whoever sent it here: `start`, by annotations, or somebody who has the socket.
#[test]
fn a_container_of_another_pod_is_refused_and_the_pod_goes_on() {
    let mut world = World::new();
    for own in [create_in("pod", "pod", "u1"), create_in("b", "pod", "u1")] {
        let ticket = world.done(own);
        assert!(matches!(world.answer(ticket), Some(Ok(Reply::Pid(_)))), "{:?}", world.answer(ticket));
    }
    for (stranger, whose) in [
        (create_in("victim", "victim", "u2"), "sandbox victim"),
        (create_in("c", "victim", "u1"), "sandbox victim"),
        (create_in("c", "pod", "u2"), "the pod with UID u2"),
    ] {
        let ticket = world.call(stranger);
        assert!(
            world.pending.iter().all(|pending| matches!(pending, Pending::Exit(_))),
            "something was begun"
        );
        let Some(Err(Error::OtherPod { of, .. })) = world.answer(ticket) else {
            panic!("{:?}", world.answer(ticket));
        };
        assert_eq!(of, whose);
    }
    // The name is not taken, and all is as it was.
    let ticket = world.done(create_in("c", "pod", "u1"));
    assert!(matches!(world.answer(ticket), Some(Ok(Reply::Pid(_)))), "{:?}", world.answer(ticket));
}

#[test]
fn every_call_in_every_state() {
    let rows = [
        ("create", create("b"), CREATE),
        ("create another", create("c"), CREATE_ANOTHER),
        ("start", Call::Start(init("b")), START),
        ("state", Call::State(init("b")), STATE),
        ("kill 9", kill(init("b"), 9), KILL),
        ("kill 0", kill(init("b"), 0), KILL_0),
        ("connect", Call::Connect(id("b")), CONNECT),
        ("connect to the sandbox", Call::Connect(id("pod")), CONNECT_SANDBOX),
        ("exec", add(exec("b", "x")), EXEC),
        ("pause", Call::Freeze(id("b"), Step::Pause), PAUSE),
        ("resume", Call::Freeze(id("b"), Step::Resume), RESUME),
        ("wait", Call::Wait(init("b")), WAIT),
        ("delete", Call::Delete(init("b")), DELETE),
        ("shutdown", Call::Shutdown { now: false }, SHUTDOWN),
        ("shutdown now", Call::Shutdown { now: true }, SHUTDOWN_NOW),
        ("wait for the sandbox", Call::WaitSandbox(id("pod")), WAIT_SANDBOX),
    ];
    let found: Vec<String> = rows.iter().map(|(name, call, _)| format!("{name}: {}", row(call))).collect();
    let expected: Vec<String> = rows.iter().map(|(name, _, row)| format!("{name}: {row}")).collect();
    assert_eq!(found, expected, "{found:#?}");
}

const CREATE: &str = "Boot | exists | exists | exists | exists | exists | exists | exists | exists | exists";
const CREATE_ANOTHER: &str = "Boot |  | Make | Make | Make | Make | Make | Make | gone | gone";
const START: &str = "none | none | none | Start | no | no | no | no | no | no";
const STATE: &str = "none | none | none | ok | ok | ok | ok | ok | ok | ok";
const KILL: &str = "none | none | none | Signal | Signal | Signal | Signal | none | none | none";
const KILL_0: &str = "none | none | none | ok | ok | ok | ok | none | none | none";
const CONNECT: &str = "none | ok | ok | ok | ok | ok | ok | ok | ok | ok";
const CONNECT_SANDBOX: &str = "ok | ok | ok | ok | ok | ok | ok | ok | ok | ok";
const EXEC: &str = "none | none | none | no | no | added!+ok | no | no | no | no";
const PAUSE: &str = "none | none | none | no | no | Freeze | no | no | no | no";
const RESUME: &str = "none | none | none | no | no | no | Freeze | no | no | no";
const WAIT: &str = "none | none | none |  |  |  |  | ok | ok | ok";
const DELETE: &str = "none | internal+CancelBoot+none | none | Stop | no | no | no | Stop |  | ";
const SHUTDOWN: &str = "ok+End | ok | ok | ok | ok | ok | ok | ok | ok | ok";
const SHUTDOWN_NOW: &str = "ok+End | CancelBoot | Stop | Stop | Stop | Stop | Stop | Stop |  | ";
const WAIT_SANDBOX: &str = "gone |  |  |  |  |  |  |  |  | ok";

/// What follows from each outcome; the world has one container, `b`, in the state that the effect came from.
#[test]
fn every_outcome_well_and_not() {
    let outcome = |state: &str, call: Option<Call>, well: bool| {
        let mut world = in_state(state);
        if let Some(call) = call {
            world.call(call);
        }
        let at = world.pending.iter().position(|pending| !matches!(pending, Pending::Exit(_))).unwrap();
        world.finish(at, well);
        world.said.retain(|word| !word.starts_with("Say"));
        world.said.join("+")
    };
    let cases = [
        ("booting", None, "Make", "internal"),
        ("making", None, "created!+ok", "Stop"),
        ("starting", None, "started!+Follow+Settle+ok", "CloseStreams+internal"),
        ("running", Some(Call::Freeze(id("b"), Step::Pause)), "paused!+ok", "internal"),
        ("paused", Some(Call::Freeze(id("b"), Step::Resume)), "resumed!+ok", "internal"),
        ("running", Some(kill(init("b"), 10)), "ok", "internal"),
        // A guest that does not kill its only container is stopped.
        ("running", Some(kill(init("b"), 9)), "ok", "Stop"),
        // The guest tells of no end before a start.
        ("created", Some(kill(init("b"), 9)), "exited!+CloseStreams+ok", "Stop"),
        ("leaving", None, "", ""),
        ("vm ended", None, "", ""),
    ];
    for (state, call, well, badly) in cases {
        let found = (outcome(state, call.clone(), true), outcome(state, call.clone(), false));
        assert_eq!(found, (well.to_owned(), badly.to_owned()), "{state}: {call:?}");
    }
}

/// Whether the answer is there, and is this one.
fn is_exit(world: &World, ticket: Ticket, status: u32) -> bool {
    matches!(world.answer(ticket), Some(Ok(Reply::Exit(exit))) if exit.status == status)
}

#[test]
fn the_end_is_told_before_anything_is_given_back() {
    let mut world = in_state("running");
    let waits = world.call(Call::Wait(init("b")));
    let watches = world.call(Call::WaitSandbox(id("pod")));
    world.die();
    assert!(world.vm, "given back already");
    assert!(is_exit(&world, waits, Exit::KILLED) && is_exit(&world, watches, Exit::KILLED));
    // The deletion is answered when nothing is left.
    let deletes = world.call(Call::Delete(init("b")));
    assert!(world.answer(deletes).is_none());
    world.settle();
    assert!(!world.vm && world.holding.is_empty());
    assert!(matches!(world.answer(deletes), Some(Ok(Reply::Deleted(_)))));
}

/// As containerd and CRI-O do with a creation that took them too long: they delete, shut down, and ask no more.
#[test]
fn a_creation_that_is_given_up_leaves_nothing() {
    for (state, well) in [("booting", true), ("booting", false), ("making", true), ("making", false)] {
        let mut world = in_state(state);
        let deletes = world.call(Call::Delete(init("b")));
        assert!(matches!(world.answer(deletes), Some(Err(Error::NoContainer(_)))));
        assert_eq!(world.boot_is_cancelled(), state == "booting", "who boots for nobody?");
        world.call(Call::Shutdown { now: false });
        world.finish(0, well);
        world.settle();
        assert!(world.ended && !world.vm && world.unanswered() == 0, "{state}, {well}");
    }
    // Among others it goes alone, and its name is free.
    let mut world = in_state("running");
    world.call(create("c"));
    world.call(Call::Delete(init("c")));
    world.settle();
    assert!(world.vm && !world.holding.contains(&id("c")));
    let again = world.done(create("c"));
    assert!(matches!(world.answer(again), Some(Ok(Reply::Pid(_)))));
    // Others who wait for the same boot have it.
    let mut world = in_state("booting");
    let other = world.call(create("c"));
    world.call(Call::Delete(init("b")));
    world.settle();
    assert!(matches!(world.answer(other), Some(Ok(Reply::Pid(_)))));
}

#[test]
fn of_two_deletions_at_once_one_is_the_last() {
    let mut world = in_state("running");
    world.done(create("c"));
    world.done(Call::Start(init("c")));
    for name in ["b", "c"] {
        world.done(kill(init(name), 9));
        let is_its = |pending: &Pending| matches!(pending, Pending::Exit(process) if *process == init(name));
        let at = world.pending.iter().position(is_its).unwrap();
        world.finish(at, false);
        world.settle();
    }
    let (one, two) = (world.call(Call::Delete(init("b"))), world.call(Call::Delete(init("c"))));
    let again = world.call(Call::Delete(init("b")));
    world.settle();
    for ticket in [one, two, again] {
        assert!(matches!(world.answer(ticket), Some(Ok(Reply::Deleted(_)))), "{ticket:?}");
    }
    assert!(!world.vm && world.holding.is_empty());
}

#[test]
fn a_deletion_that_became_the_last_is_answered_when_nothing_is_left() {
    let mut world = in_state("stopped");
    world.call(create("c"));
    let deletes = world.call(Call::Delete(init("b")));
    world.finish(0, false); // c cannot be made
    let at = world.pending.iter().position(|pending| matches!(pending, Pending::Remove(_))).unwrap();
    world.finish(at, true);
    assert!(world.vm && world.answer(deletes).is_none());
    world.settle();
    assert!(!world.vm && matches!(world.answer(deletes), Some(Ok(Reply::Deleted(_)))));
}

#[test]
fn an_exec_that_outlives_its_container_ends_before_the_deletion() {
    let mut world = in_state("running");
    world.done(create("c"));
    world.done(add(exec("b", "x")));
    world.done(Call::Start(exec("b", "x")));
    let waits = world.call(Call::Wait(exec("b", "x")));
    end_process(&mut world); // the first one that was started
    world.call(Call::Delete(init("b")));
    assert_eq!(world.said, ["exited!", "CloseStreams", "ok", "Say", "Remove"]);
    assert!(is_exit(&world, waits, Exit::KILLED));
}

#[test]
fn the_sandbox_containers_end_is_told_before_its_vm_is_stopped() {
    let mut world = World::new();
    world.done(create("pod"));
    world.done(Call::Start(init("pod")));
    let killed = world.call(kill(init("pod"), 15));
    assert_eq!(world.said, ["exited!", "CloseStreams", "Say", "Say", "Stop"]);
    assert!(world.answer(killed).is_none());
    world.settle();
    assert!(matches!(world.answer(killed), Some(Ok(Reply::Done))));
    let stopped = world.call(Call::State(init("pod")));
    let Some(Ok(Reply::State(state))) = world.answer(stopped) else { panic!() };
    assert_eq!(state.status, Status::Stopped(Exit { status: 143, at: EPOCH }));
}

/// Whoever reads the log looks for a fault where a process is said to have ended with its VM.
#[test]
fn a_process_ends_with_its_vm_only_where_the_vm_ended_by_itself() {
    let mut world = in_state("running");
    world.done(Call::StopSandbox(id("pod")));
    assert!(!world.vm, "stopped");
    assert_eq!(world.ends_with_vm, 0);
    let mut world = in_state("running");
    world.die();
    assert!(world.said.contains(&"Say EndsWithVm".to_owned()), "{:?}", world.said);
    world.settle();
    assert_eq!(world.ends_with_vm, 1);
}

/// Of a container that could not be created the engine hears first what failed, and then that its VM is gone.
#[test]
fn a_creation_that_the_vms_end_cut_off_begins_with_what_failed() {
    let mut world = in_state("running");
    let making = world.call(create("c"));
    world.die();
    let at = world.pending.iter().position(|pending| matches!(pending, Pending::Make(_))).unwrap();
    world.finish(at, false);
    let Some(Err(error)) = world.answer(making) else { panic!("no error") };
    assert!(matches!(error, Error::CutOff { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with("cannot do it: it went wrong; ") && text.contains("QEMU ended"), "{text}");
    assert!(!text.contains("is not running"), "{text}");
}

#[test]
fn that_the_guest_has_forgotten_an_end_is_said_where_nobody_knows_it() {
    let lost = || Input::ExitLost(init("b"), "no such process".to_owned());
    let mut world = in_state("running");
    world.apply(lost());
    assert_eq!(world.said, ["Say"]);
    let mut world = in_state("stopped");
    world.apply(lost());
    assert_eq!(world.said, Vec::<String>::new());
}

#[test]
fn a_vm_that_is_being_stopped_takes_no_container_and_is_asked_to_remove_none() {
    let mut world = in_state("running");
    world.done(create("c"));
    world.call(Call::StopSandbox(id("pod")));
    let late = world.call(create("d"));
    assert!(matches!(world.answer(late), Some(Err(Error::VmGone(_)))));
    let deletes = world.call(Call::Delete(init("c")));
    assert!(!world.said.contains(&"Remove".to_owned()) && world.answer(deletes).is_none());
    world.settle();
    assert!(matches!(world.answer(deletes), Some(Ok(Reply::Deleted(_)))));
}

#[test]
fn who_waits_for_an_exec_that_never_started_is_told_by_its_deletion() {
    let mut world = in_state("running");
    world.done(add(exec("b", "x")));
    let waits = world.call(Call::Wait(exec("b", "x")));
    world.call(Call::Delete(exec("b", "x")));
    assert!(is_exit(&world, waits, Exit::KILLED));
}

#[test]
fn a_shutdown_for_later_leaves_containers_and_who_comes_meanwhile() {
    let mut world = in_state("running");
    world.done(Call::Shutdown { now: false });
    let comes = world.call(create("c"));
    world.settle();
    assert!(matches!(world.answer(comes), Some(Ok(Reply::Pid(_)))));
    assert!(world.vm && !world.ended);
}

#[test]
fn sigkill_of_a_first_process_reaches_all_and_other_signals_one() {
    let mut world = in_state("running");
    world.done(add(exec("b", "x")));
    world.done(Call::Start(exec("b", "x")));
    for (process, signal, expected) in
        [(init("b"), 9, true), (init("b"), 10, false), (exec("b", "x"), 9, false)]
    {
        world.call(kill(process, signal));
        let Some(Pending::Signal(_, request)) = world.pending.last() else { panic!() };
        assert_eq!(request.all, expected, "signal {signal}");
    }
}

#[test]
fn what_shares_a_pid_namespace_is_killed_with_the_first_process() {
    for (name, expected) in [("c", true), ("b", false)] {
        let mut world = World::new();
        world.done(create(name));
        world.done(Call::Start(init(name)));
        end_process(&mut world);
        world.settle();
        assert_eq!(world.said.contains(&"KillRest".to_owned()), expected, "{name}");
    }
}

#[test]
fn a_size_that_comes_before_the_start_is_set_with_it() {
    let size = TerminalSize { width: 80, height: 24 };
    let resize = |process| Call::Pass(Pass::Resize(process, size));
    let mut world = in_state("running");
    world.done(add(exec("b", "x")));
    world.call(resize(exec("b", "x")));
    assert_eq!(world.said, ["ok"]);
    world.call(Call::Start(exec("b", "x")));
    world.call(resize(exec("b", "x")));
    assert_eq!(world.said, ["ok"], "the guest does not know it yet");
    world.settle();
    assert_eq!(world.said, ["started!", "Say", "Follow", "Resize", "ok"]);
    world.call(resize(exec("b", "x")));
    assert_eq!(world.said, ["Pass"]);
    world.settle();
    end_process(&mut world);
    world.call(resize(init("b")));
    assert_eq!(world.said, ["failed_precondition"]);
}

/// CRI-O takes no events, and finds a file.
#[test]
fn that_memory_ran_out_is_noted_for_crio_before_the_end_is_told() {
    let mut world = World::new();
    for own in [create_in("pod", "pod", "u1"), create_in("b", "pod", "u1")] {
        world.done(own);
    }
    let mut oom = || {
        world.apply(Input::Oom("b".to_owned()));
        world.said.clone()
    };
    assert_eq!((oom(), oom()), (words(&["NoteOom", "Say", "oom!"]), words(&["Say", "oom!"])));
    let mut world = in_state("running");
    world.apply(Input::Oom("b".to_owned()));
    assert_eq!(world.said, ["Say", "oom!"]);
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn last_words_are_there_when_the_end_is_told() {
    let begin = || {
        let mut world = in_state("running");
        world.done(create("c"));
        world.done(Call::Start(init("c")));
        let of_c = |pending: &Pending| matches!(pending, Pending::Exit(process) if *process == init("c"));
        let at = world.pending.iter().position(of_c).unwrap();
        world.finish(at, true);
        assert_eq!(world.said, ["LastWords"]);
        let waits = world.call(Call::Wait(init("c")));
        assert!(world.answer(waits).is_none());
        // It is gone, and a signal that comes too late finds nothing.
        world.call(kill(init("c"), 15));
        assert_eq!(world.said, ["not_found"]);
        (world, waits)
    };
    let (mut world, waits) = begin();
    world.settle();
    assert!(is_exit(&world, waits, 0));
    // How it ended stays, whatever comes between.
    let (mut world, waits) = begin();
    world.die();
    assert!(is_exit(&world, waits, 0));
    world.settle();
    // Nobody is asked for them who is gone.
    world.apply(Input::Exited(init("c"), Exit { status: 0, at: EPOCH }));
    assert!(world.pending.iter().all(|one| !matches!(one, Pending::LastWords(..))));
}

#[test]
fn want_of_memory_is_told_before_the_end_that_it_is_the_reason_of() {
    let mut world = in_state("running");
    let at = world.pending.iter().position(|pending| matches!(pending, Pending::Exit(_))).unwrap();
    world.finish(at, false); // killed, and not by us
    assert_eq!(world.said, ["Wake"]);
    world.apply(Input::Oom("b".to_owned()));
    assert_eq!(world.said, ["Say", "oom!"]);
    world.settle();
    assert_eq!(world.said, ["exited!", "CloseStreams", "Say"]);
}

#[test]
fn a_guest_that_cries_for_memory_without_end_is_told_of_so_often() {
    let mut world = in_state("running");
    for name in ["b", "nobody", "../b"] {
        let mut told = 0;
        for _ in 0..1000 {
            world.apply(Input::Oom(name.to_owned()));
            told += world.said.len();
        }
        assert!(told <= 200, "{name}: {told}");
    }
}

#[test]
fn a_boot_that_fails_is_tried_again_for_the_next_who_waits() {
    let mut world = World::new();
    let (one, two) = (world.call(create("b")), world.call(create("c")));
    world.finish(0, false);
    assert!(matches!(world.answer(one), Some(Err(_))) && world.answer(two).is_none());
    world.settle();
    assert!(matches!(world.answer(two), Some(Ok(Reply::Pid(7)))));
}

#[test]
fn a_boot_that_is_given_up_leaves_nobody_waiting() {
    for well in [true, false] {
        let mut world = World::new();
        world.call(sandbox("pod"));
        let tickets = [
            world.call(Call::StartSandbox(id("pod"))),
            world.call(create("b")),
            world.call(Call::WaitSandbox(id("pod"))),
        ];
        let ends = world.call(Call::Shutdown { now: true });
        world.finish(0, well);
        world.settle();
        for ticket in tickets {
            assert!(world.answer(ticket).is_some(), "{ticket:?}");
        }
        assert!(matches!(world.answer(ends), Some(Ok(Reply::Done))) && world.ended && !world.vm);
    }
}

#[test]
fn a_process_that_was_started_as_its_vm_ended_is_not_told_of() {
    let mut world = in_state("starting");
    world.die();
    let at = world.pending.iter().position(|pending| matches!(pending, Pending::Start(..))).unwrap();
    world.finish(at, true);
    assert_eq!(world.said, ["CloseStreams", "unavailable"]);
    assert_eq!(world.open_processes(), 0);
}

#[test]
fn a_signal_to_all_is_for_a_containers_first_process_only() {
    let cases = [
        (init("b"), 9, false, true),
        (init("b"), 9, true, true),
        (init("b"), 15, false, false),
        (init("b"), 15, true, true),
        (exec("b", "x"), 9, false, false),
        (exec("b", "x"), 9, true, false),
        (exec("b", "x"), 15, true, false),
    ];
    for (process, signal, all, reaches_all) in cases {
        let mut world = in_state("running");
        world.done(add(exec("b", "x")));
        world.done(Call::Start(exec("b", "x")));
        let request = KillRequest { process, signal, all };
        world.call(Call::Kill(request.clone()));
        let sent = world.pending.iter().find_map(|pending| match pending {
            Pending::Signal(_, sent) => Some(sent.clone()),
            _ => None,
        });
        assert_eq!(sent, Some(KillRequest { all: reaches_all, ..request }));
    }
}

#[test]
fn a_terminal_begins_with_the_size_of_its_specification() {
    let process = |terminal, height, width| OciProcess {
        Terminal: terminal,
        ConsoleSize: Some(Box { Height: height, Width: width, ..Default::default() }).into(),
        ..Default::default()
    };
    let cases = [(true, 24, 80, true), (false, 24, 80, false), (true, 0, 80, false), (true, 24, 0, false)];
    for (terminal, height, width, resized) in cases {
        let mut world = in_state("running");
        let spec = Arc::new(process(terminal, height, width));
        world.done(Call::Exec(exec("b", "x"), StdioPaths::default(), spec));
        world.call(Call::Start(exec("b", "x")));
        world.settle();
        assert_eq!(world.said.contains(&"Resize".to_owned()), resized, "{terminal} {height} {width}");
    }

    let mut spec = Spec::default();
    let size = BoxBuilder::default().height(24_u64).width(80_u64).build().unwrap();
    spec.process_mut().as_mut().unwrap().set_terminal(Some(true)).set_console_size(Some(size));
    let Call::Create(new) = create("b") else { unreachable!() };
    let mut world = World::new();
    world.done(Call::Create(Arc::new(NewContainer { request: new.request.clone(), spec })));
    world.done(Call::Start(init("b")));
    assert!(world.said.contains(&"Resize".to_owned()), "{:?}", world.said);
}
