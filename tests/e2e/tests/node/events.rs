//! The events that containerd and its clients rely on: all of them, in order.

use e2e::{BUSYBOX, Event, Events, Run, e2e};

const FOREVER: [&str; 2] = ["sleep", "100000"];

#[test]
fn a_short_life_is_told_in_order() {
    e2e(async |_| {
        let events = Events::subscribe().await;
        let run = Run::new("short", BUSYBOX, &["sh", "-c", "exit 7"]).to_end().await;
        assert_eq!(run.code, 7, "{}", run.stderr);
        events.expect("short", "/tasks/delete").await;
        assert_eq!(events.topics("short"), ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
        assert_eq!(events.expect("short", "/tasks/exit").await.body["exit_status"], 7);
        assert_eq!(events.expect("short", "/tasks/delete").await.body["exit_status"], 7);
        events.close().await;
    });
}

#[test]
fn an_exec_is_told_between_start_and_exit() {
    e2e(async |_| {
        let events = Events::subscribe().await;
        let container = Run::new("worker", BUSYBOX, &FOREVER).start().await;
        container.exec_as("job", &["sh", "-c", "exit 3"]).await;
        let exec_exit = events.expect("worker", "/tasks/exit").await;
        assert_eq!((&exec_exit.body["id"], &exec_exit.body["exit_status"]), (&"job".into(), &3.into()));
        container.remove().await;
        events.expect("worker", "/tasks/delete").await;
        let topics = events.topics("worker");
        let expected = ["create", "start", "exec-added", "exec-started", "exit", "exit", "delete"];
        assert_eq!(topics, expected.map(|name| format!("/tasks/{name}")));
        events.close().await;
    });
}

#[test]
fn no_exec_of_many_is_lost_or_out_of_order() {
    e2e(async |_| {
        let events = Events::subscribe().await;
        let container = Run::new("busy", BUSYBOX, &FOREVER).start().await;
        for number in 0..12 {
            container.exec_as(&format!("job-{number}"), &["true"]).await.succeeded();
        }
        container.remove().await;
        events.expect("busy", "/tasks/delete").await;
        for number in 0..12 {
            let name = format!("job-{number}");
            let mine = |event: &Event| event.body["exec_id"] == *name || event.body["id"] == *name;
            let topics: Vec<String> =
                events.of("busy").into_iter().filter(mine).map(|event| event.topic).collect();
            assert_eq!(topics, ["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"], "{name}");
        }
        events.close().await;
    });
}

#[test]
fn pause_and_resume_are_told() {
    e2e(async |_| {
        let events = Events::subscribe().await;
        let container = Run::new("still", BUSYBOX, &FOREVER).start().await;
        container.task(&["pause"]).await.succeeded();
        container.task(&["resume"]).await.succeeded();
        container.remove().await;
        events.expect("still", "/tasks/delete").await;
        let expected = ["create", "start", "paused", "resumed", "exit", "delete"];
        assert_eq!(events.topics("still"), expected.map(|name| format!("/tasks/{name}")));
        events.close().await;
    });
}

#[test]
fn running_out_of_memory_is_told_before_the_exit() {
    e2e(async |_| {
        let events = Events::subscribe().await;
        // Files on a tmpfs count as the container's memory.
        let fill = ["dd", "if=/dev/zero", "of=/dev/shm/fill", "bs=1M", "count=48"];
        let run = Run::new("hungry", BUSYBOX, &fill).flag("--memory-limit=33554432");
        let run = run.to_end().await;
        assert_ne!(run.code, 0, "{}", run.stdout);
        events.expect("hungry", "/tasks/delete").await;
        let topics = events.topics("hungry");
        let position = |topic: &str| topics.iter().position(|name| name == topic);
        assert!(position("/tasks/oom").is_some(), "{topics:?}");
        assert!(position("/tasks/oom") < position("/tasks/exit"), "{topics:?}");
        events.close().await;
    });
}
