//! The shim's memory, threads, CPU time and size, and the round trip of an exec.

use std::fs;
use std::time::{Duration, Instant};

use e2e::direct::{self, agent_of_the_vm};
use e2e::{Artefacts, BUSYBOX, Cri, OrFail, PodRequest, Process, Victim};
use tokio::time::sleep;

use crate::lone::{Lone, cpu};
use crate::report::{Report, median};

/// How many execs must leave no trace in the shim's memory.
const MANY_EXECS: usize = 1000;
/// How many of them alternate with the agent's own calls.
const PAIRS: usize = 50;

/// After how long without a call the shim is idle.
const IDLE: Duration = Duration::from_secs(2);

/// Measures, and reports.
pub async fn measure(artefacts: &Artefacts, report: &mut Report) {
    let size = fs::metadata(&artefacts.shim).or_fail("the shim").len();
    report.bounded("shim binary, stripped", count(size) / 1e6, "MB", 6.0);
    pod(report).await;
    many_execs(artefacts, report).await;
}

/// How many execs are counted.
const EXECS: u32 = 10;

/// Measures the shim's CPU time, and reports the medians.
pub async fn cpu_time(artefacts: &Artefacts, report: &mut Report) {
    let (mut running, mut execs, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    let mut starts = Vec::new();
    for round in 0..5 {
        let lone = Lone::running(artefacts, &format!("cpu-{round}")).await;
        let process = lone.process();
        // The last lines that the guest writes about the start are the start's.
        sleep(IDLE).await;
        let started = cpu(&process);
        running.push((lone.start_cpu + started).as_secs_f64() * 1e3);
        starts.push(lone.start_cpu.as_secs_f64() * 1e3);
        for exec in 0..EXECS {
            lone.exec(&format!("exec-{exec}"), &["true"]).await;
        }
        sleep(IDLE).await;
        execs.push((cpu(&process) - started).as_secs_f64() * 1e3);
        let begin = Instant::now();
        lone.remove().await;
        gone.push(begin.elapsed().as_secs_f64());
    }
    report.bounded("shim CPU time, start to running", median(running), "ms", 20.0);
    report.add("of it in `start`, which makes the server", median(starts), "ms");
    report.bounded("shim CPU time, ten execs", median(execs), "ms", 20.0);
    report.bounded("kill to all gone", median(gone), "s", 0.7);
}

async fn pod(report: &mut Report) {
    let mut pod = PodRequest::new(Cri::connect().await, "memory").start().await;
    memory(report, "idle pod", &one_shim()).await;
    for number in 1..=10 {
        pod.run(&format!("container-{number}"), BUSYBOX, &["sleep", "100000"], vec![]).await;
        if [1, 10].contains(&number) {
            memory(report, &format!("pod with {number} container(s)"), &one_shim()).await;
        }
    }
    pod.remove().await;
}

fn one_shim() -> Process {
    Victim::Shim.processes().into_iter().next().or_fail("the shim")
}

async fn many_execs(artefacts: &Artefacts, report: &mut Report) {
    let lone = Lone::running(artefacts, "execs").await;
    let process = lone.process();
    let direct = agent_of_the_vm().await;
    let (mut times, mut alone) = (Vec::new(), Vec::new());
    for number in 0..MANY_EXECS {
        let begin = Instant::now();
        lone.exec(&format!("exec-{number}"), &["true"]).await;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
        if let Some(agent) = direct.as_ref().filter(|_| number < PAIRS) {
            alone.push(direct::exec(agent, &lone.id, &["true"]).await.as_secs_f64() * 1e3);
        }
        // The first ones fill caches and the allocator's free lists.
        if number == 50 {
            memory(report, "after 50 execs", &process).await;
        }
    }
    memory(report, "after 1,000 execs", &process).await;
    if !alone.is_empty() {
        let ratios = times.iter().zip(&alone).map(|(shim, agent)| shim / agent).collect();
        report.add("the agent's own calls for an exec", median(alone), "ms");
        report.add("ratio of the exec through the shim to it", median(ratios), "");
    }
    report.add("exec round trip", median(times), "ms");
    lone.remove().await;
}

async fn memory(report: &mut Report, when: &str, process: &Process) {
    sleep(IDLE).await;
    let kib = |file, field| process.kib(file, field);
    report.bounded(
        format!("shim anonymous memory, {when}"),
        mib(kib("smaps_rollup", "Anonymous")),
        "MiB",
        2.0,
    );
    report.bounded(format!("shim PSS, {when}"), mib(kib("smaps_rollup", "Pss")), "MiB", 5.0);
    report.add(format!("shim threads, {when}"), count(kib("status", "Threads")), "");
}

fn mib(kib: u64) -> f64 {
    count(kib) / 1024.0
}

/// No figure here comes near the limit of an f64's whole numbers.
fn count(number: u64) -> f64 {
    u32::try_from(number).or_fail("a small number").into()
}
