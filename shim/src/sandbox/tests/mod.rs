//! The driver with a host, a machine and a guest that are played, in paused time.

mod fakes;
mod processes;
mod random;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_client::proto::oci;
use oci_spec::runtime::Spec;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use super::driver::{Asked, Driver, Outlets};
use crate::api::{
    ContainerId, CreateRequest, ExecId, Exit, KillRequest, NewContainer, ProcessId, Result, Rootfs,
    RuntimeOptions, StdioPaths, one_line,
};
use crate::core::{Call, Core, Event, Pass, Reply};
use fakes::{FakeHost, STAGES};

/// Longer than anything here may take.
const LONG: Duration = Duration::from_secs(3600);

fn init(name: &str) -> ProcessId {
    ProcessId::init(ContainerId::new(name).unwrap())
}

fn exec(name: &str, exec: &str) -> ProcessId {
    ProcessId { exec: Some(ExecId::new(exec).unwrap()), ..init(name) }
}

fn create(name: &str, stdout: &str) -> Call {
    let request = CreateRequest {
        id: ContainerId::new(name).unwrap(),
        bundle: PathBuf::from("/b"),
        rootfs: Rootfs::Mounts(Vec::new()),
        stdio: StdioPaths { stdout: stdout.to_owned(), ..StdioPaths::default() },
        options: RuntimeOptions::default(),
    };
    Call::Create(Arc::new(NewContainer { request, spec: Spec::default() }))
}

fn kill(process: ProcessId, signal: u32) -> Call {
    Call::Kill(KillRequest { process, signal, all: false })
}

/// A pod with its driver, and what came out of it.
struct Pod {
    calls: mpsc::UnboundedSender<Asked>,
    host: FakeHost,
    events: Arc<Mutex<Vec<String>>>,
    ended: watch::Receiver<bool>,
}

impl Pod {
    fn new() -> Self {
        let host = FakeHost::default();
        let (end, ended) = watch::channel(false);
        let events = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&events);
        let outlets = Outlets {
            events: Box::new(move |event| told.lock().unwrap().push(word(&event))),
            namespace: "k8s.io".to_owned(),
            log: slog::Logger::root(slog::Discard, slog::o!()),
            end,
        };
        let calls = Driver::start(Core::new(ContainerId::new("pod").unwrap()), host.clone(), outlets);
        Self { calls, host, events, ended }
    }

    fn begin(&self, call: Call) -> oneshot::Receiver<Result<Reply>> {
        let (caller, answer) = oneshot::channel();
        self.calls.send((call, caller)).unwrap();
        answer
    }

    async fn call(&self, call: Call) -> Result<Reply> {
        let shown = format!("{call:?}");
        timeout(LONG, self.begin(call)).await.unwrap_or_else(|_| panic!("no answer to {shown}")).unwrap()
    }

    async fn exit(&self, process: ProcessId) -> Exit {
        match self.call(Call::Wait(process)).await {
            Ok(Reply::Exit(exit)) => exit,
            other => panic!("{other:?}"),
        }
    }

    fn events(&self) -> Vec<String> {
        self.events.lock().unwrap().clone()
    }
}

fn word(event: &Event) -> String {
    let text = format!("{event:?}");
    format!("{} {}", text.split('(').next().unwrap_or_default(), event.container())
}

#[tokio::test(start_paused = true)]
async fn a_container_lives_and_nothing_is_left_of_it() {
    let pod = Pod::new();
    pod.call(create("b", "")).await.unwrap();
    assert_eq!(pod.host.taken(), STAGES.len() + 1);
    pod.call(Call::Start(init("b"))).await.unwrap();
    pod.host.guest().end(("b", "b"), 3);
    assert_eq!(pod.exit(init("b")).await.status, 3);
    pod.call(Call::Delete(init("b"))).await.unwrap();
    assert_eq!(pod.host.taken(), 0);
    assert_eq!(pod.events(), ["Created b", "Started b", "Exited b", "Deleted b"]);
    pod.call(Call::Shutdown { now: false }).await.unwrap();
    pod.ended.clone().wait_for(|end| *end).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_boot_that_fails_at_any_stage_leaves_nothing_and_may_be_tried_again() {
    for (stage, name) in STAGES.iter().enumerate() {
        let pod = Pod::new();
        pod.host.fail_at(Some(stage));
        let error = pod.call(create("b", "")).await.unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!((pod.host.taken(), pod.events().len()), (0, 0));
        pod.host.fail_at(None);
        pod.call(create("b", "")).await.unwrap();
        pod.call(Call::Shutdown { now: true }).await.unwrap();
        pod.ended.clone().wait_for(|end| *end).await.unwrap();
        assert_eq!(pod.host.taken(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_boot_that_is_given_up_at_any_stage_leaves_nothing() {
    for (stage, name) in STAGES.iter().enumerate() {
        let pod = Pod::new();
        let creation = pod.begin(create("b", ""));
        pod.host.reached(stage).await;
        pod.call(Call::Shutdown { now: true }).await.unwrap();
        assert!(creation.await.unwrap().is_err());
        pod.ended.clone().wait_for(|end| *end).await.unwrap();
        assert_eq!(pod.host.taken(), 0, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn limits_beyond_the_vm_are_refused_and_change_nothing() {
    let pod = Pod::new();
    pod.call(create("b", "")).await.unwrap();
    pod.call(Call::Start(init("b"))).await.unwrap();
    let update = |limit: i64| {
        let memory = oci::LinuxMemory { Limit: limit, ..Default::default() };
        let limits = oci::LinuxResources { Memory: Some(memory).into(), ..Default::default() };
        pod.call(Call::Pass(Pass::Update(ContainerId::new("b").unwrap(), Box::new(limits))))
    };
    let error = update(1025).await.unwrap_err().to_string();
    assert!(error.contains("1025") && error.contains("1024"), "{error}");
    update(1024).await.unwrap();
    assert_eq!(pod.events(), ["Created b", "Started b"]);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_vm_is_told_long_before_its_gpus_are_clean() {
    let pod = Pod::new();
    pod.call(create("b", "")).await.unwrap();
    pod.call(Call::Start(init("b"))).await.unwrap();
    pod.host.release_takes(Duration::from_secs(90));
    let died = tokio::time::Instant::now();
    pod.host.die();
    assert_eq!(pod.exit(init("b")).await.status, Exit::KILLED);
    assert!(died.elapsed() < Duration::from_secs(1), "{:?}", died.elapsed());
    assert_ne!(pod.host.taken(), 0);
    pod.call(Call::Delete(init("b"))).await.unwrap();
    assert_eq!(pod.host.taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_cannot_be_made_takes_its_vm_with_it() {
    let pod = Pod::new();
    pod.host.refuse_containers(true);
    let error = pod.call(create("b", "")).await.unwrap_err();
    let text = one_line(&error);
    assert_eq!(text, "cannot create it: it is told to refuse");
    assert_eq!((pod.host.taken(), pod.events().len()), (0, 0));
}

/// A guest that says so without end is asked 50 times a second.
#[tokio::test(start_paused = true)]
async fn want_of_memory_is_heard_so_often_and_no_more() {
    let pod = Pod::new();
    pod.host.cry_for_memory();
    pod.call(create("b", "")).await.unwrap();
    let before = pod.host.cries();
    sleep(Duration::from_secs(10)).await;
    let heard = pod.host.cries() - before;
    assert!((490..=510).contains(&heard), "heard {heard} times in 10 s");
    pod.call(Call::Delete(init("b"))).await.unwrap();
    assert_eq!(pod.host.taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn streams_that_cannot_be_opened_are_an_error_of_the_start() {
    let pod = Pod::new();
    pod.call(create("b", "/no/such/fifo")).await.unwrap();
    let error = pod.call(Call::Start(init("b"))).await.unwrap_err();
    assert!(error.to_string().contains("open the streams of container b"), "{error}");
    pod.call(Call::Delete(init("b"))).await.unwrap();
    assert_eq!(pod.host.taken(), 0);
}
