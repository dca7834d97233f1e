//! The end of a process, whoever holds its streams then.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agent_client::proto::oci::Process as OciProcess;
use tokio::time::{Instant, sleep};

use super::fakes::Child;
use super::{Pod, create, exec, init, kill};
use crate::api::{KillRequest, Status, StdioPaths};
use crate::core::{Call, Reply};

/// A pod with container `b`, which runs, and whose output goes to the file.
async fn running(file: &str) -> Pod {
    let pod = Pod::new();
    pod.call(create("b", file)).await.unwrap();
    pod.call(Call::Start(init("b"))).await.unwrap();
    pod
}

/// And with exec `x` in it.
async fn with_exec(pod: &Pod) {
    let paths = StdioPaths::default();
    pod.call(Call::Exec(exec("b", "x"), paths, Arc::new(OciProcess::default()))).await.unwrap();
    pod.call(Call::Start(exec("b", "x"))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn all_output_of_a_process_is_there_before_its_exit() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("out");
    let pod = running(&format!("file://{}", file.display())).await;
    // As much as a pipe holds, with a child that goes on writing behind it.
    let lines: String = (0..9000).map(|number| format!("line {number}\n")).collect();
    assert!(lines.len() > 64 << 10);
    pod.host.guest().print(("b", "b"), &lines.as_bytes()[..64 << 10]);
    pod.host.guest().leaves(("b", "b"), Child::Chatty);
    pod.host.guest().end(("b", "b"), 0);
    pod.call(Call::Wait(init("b"))).await.unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.starts_with(&lines[..64 << 10]), "{} bytes came", text.len());
}

/// Whom nobody gives an input finds its end, as in /dev/null.
#[tokio::test(start_paused = true)]
async fn an_input_that_nobody_gives_is_at_its_end() {
    let pod = running("").await;
    with_exec(&pod).await;
    let terminal = StdioPaths { terminal: true, ..StdioPaths::default() };
    pod.call(Call::Exec(exec("b", "t"), terminal, Arc::new(OciProcess::default()))).await.unwrap();
    pod.call(Call::Start(exec("b", "t"))).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    for (process, ended) in [("b", true), ("x", true), ("t", false)] {
        assert_eq!(pod.host.guest().input_ended(("b", process)), ended, "{process}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_is_told_whoever_holds_the_streams_and_whenever_it_comes() {
    for child in [Child::None, Child::Quiet, Child::Chatty] {
        // At once: the first reads come after the end. Later: they wait for it.
        for lived in [Duration::ZERO, Duration::from_secs(60)] {
            let pod = running("").await;
            with_exec(&pod).await;
            for (process, name) in [(exec("b", "x"), ("b", "x")), (init("b"), ("b", "b"))] {
                pod.host.guest().leaves(name, child);
                sleep(lived).await;
                let ended = Instant::now();
                pod.host.guest().end(name, 5);
                let exit = pod.exit(process.clone()).await;
                assert_eq!(exit.status, 5, "{process}: {child:?}");
                // The limits of the drain, and the longest pause between two questions.
                assert!(
                    ended.elapsed() < Duration::from_secs(9),
                    "{process}: {child:?}: {:?}",
                    ended.elapsed()
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_quiet_childs_parent_is_told_of_within_three_seconds() {
    let pod = running("").await;
    with_exec(&pod).await;
    pod.host.guest().leaves(("b", "x"), Child::Quiet);
    let ended = Instant::now();
    pod.host.guest().end(("b", "x"), 0);
    pod.exit(exec("b", "x")).await;
    assert!(ended.elapsed() < Duration::from_secs(3), "{:?}", ended.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_tells_of_no_life_is_believed_by_its_streams() {
    let pod = running("").await;
    pod.host.guest().is_dumb.store(true, Ordering::Relaxed);
    sleep(Duration::from_secs(60)).await;
    pod.host.guest().end(("b", "b"), 4);
    assert_eq!(pod.exit(init("b")).await.status, 4);
}

/// A guest that is busy for a while is not one that never tells.
#[tokio::test(start_paused = true)]
async fn a_late_answer_is_asked_for_again() {
    let pod = running("").await;
    with_exec(&pod).await;
    pod.host.guest().late.store(3, Ordering::Relaxed);
    // After the first probes, so that no read waits when it ends.
    sleep(Duration::from_secs(60)).await;
    pod.host.guest().leaves(("b", "x"), Child::Quiet);
    pod.host.guest().end(("b", "x"), 0);
    assert_eq!(pod.exit(exec("b", "x")).await.status, 0);

    let pod = running("").await;
    with_exec(&pod).await;
    pod.host.guest().late.store(2, Ordering::Relaxed);
    pod.host.guest().leaves(("b", "x"), Child::Quiet);
    let ended = Instant::now();
    pod.host.guest().end(("b", "x"), 0);
    pod.exit(exec("b", "x")).await;
    assert!(ended.elapsed() < Duration::from_secs(40), "{:?}", ended.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_silent_process_is_asked_after_only_so_often() {
    let pod = running("").await;
    sleep(Duration::from_secs(60)).await;
    let quiet = Instant::now();
    // Nothing is due: the clock stands at the next thing that happens, which is this sleep's end.
    sleep(Duration::from_secs(3600)).await;
    assert!(quiet.elapsed() >= Duration::from_secs(3600));
    let state = pod.call(Call::State(init("b"))).await;
    assert!(matches!(state, Ok(Reply::State(_))));
}

#[tokio::test(start_paused = true)]
async fn sigkill_ends_a_container_whose_child_holds_its_streams() {
    let pod = running("").await;
    pod.host.guest().leaves(("b", "b"), Child::Chatty);
    pod.call(kill(init("b"), 9)).await.unwrap();
    assert_eq!(pod.exit(init("b")).await.status, 137);
    pod.call(Call::Delete(init("b"))).await.unwrap();
    assert_eq!(pod.host.taken(), 0);
}

/// The entry points of Docker and kind do that in a container, and systemd.
#[tokio::test(start_paused = true)]
async fn sigkill_ends_a_container_whose_first_process_went_into_another_cgroup() {
    let pod = running("").await;
    with_exec(&pod).await;
    for name in [("b", "b"), ("b", "x")] {
        pod.host.guest().goes_below(name);
    }
    pod.call(kill(init("b"), 9)).await.unwrap();
    for process in [init("b"), exec("b", "x")] {
        assert_eq!(pod.exit(process).await.status, 137);
    }
}

/// containerd ends each exec so (`WithProcessKill`), also one that is cut off in the middle.
#[tokio::test(start_paused = true)]
async fn sigkill_to_all_of_an_exec_is_the_execs() {
    let pod = running("").await;
    with_exec(&pod).await;
    pod.call(Call::Kill(KillRequest { process: exec("b", "x"), signal: 9, all: true })).await.unwrap();
    assert_eq!(pod.exit(exec("b", "x")).await.status, 137);
    sleep(Duration::from_secs(60)).await;
    let Ok(Reply::State(state)) = pod.call(Call::State(init("b"))).await else { panic!("no state") };
    assert_eq!(state.status, Status::Running);
}

/// A probe whose program is missing, all day long.
#[tokio::test(start_paused = true)]
async fn an_exec_that_does_not_start_leaves_no_descriptors() {
    let directory = tempfile::tempdir().unwrap();
    let uri = format!("file://{}", directory.path().join("out").display());
    let pod = running("").await;
    pod.host.guest().refuses_execs.store(true, Ordering::Relaxed);
    let open = || {
        let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let targets = links.filter_map(|link| std::fs::read_link(link.path()).ok());
        // The other tests have descriptors as well.
        targets.filter(|target| target.starts_with(directory.path())).count()
    };
    for number in 0..100 {
        let process = exec("b", &format!("x{number}"));
        let paths = StdioPaths { stdout: uri.clone(), stderr: uri.clone(), ..StdioPaths::default() };
        pod.call(Call::Exec(process.clone(), paths, Arc::new(OciProcess::default()))).await.unwrap();
        pod.call(Call::Start(process.clone())).await.unwrap_err();
        pod.call(Call::Delete(process)).await.unwrap();
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(open(), 0);
}
