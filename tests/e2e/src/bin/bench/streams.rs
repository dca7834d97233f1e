//! How fast output and input move, against the agent's own ReadStdout loop, which is the limit.

use std::fs::File;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use agent::proto::oci;
use agent::{AGENT_PORT, Agent, Endpoint, ProcessRef};
use e2e::{Artefacts, OrFail, Victim, within};
use tokio::task::spawn_blocking;

use crate::lone::{Lone, fifo};
use crate::report::Report;

/// What a container writes, in MiB.
const OUTPUT: u32 = 1024;
/// What a container reads, in MiB.
const INPUT: u32 = 256;
/// What the shim asks the agent for at once, in bytes.
const CHUNK: usize = 16 << 10;
const LIMIT: Duration = Duration::from_secs(300);

/// Measures, and reports.
pub async fn measure(artefacts: &Artefacts, report: &mut Report) {
    let lone = Lone::running(artefacts, "streams").await;
    let output = output(&lone).await;
    report.add(format!("stdout, {OUTPUT} MiB"), output, "MiB/s");
    match agent_of_the_vm().await {
        Some(agent) => {
            let limit = read_loop(&agent, &lone.id).await;
            report.add("the agent's ReadStdout loop alone", limit, "MiB/s");
            report.add("ratio of the two", output / limit, "");
        }
        None => println!("the VM's agent cannot be reached beside its shim: no limit to compare with"),
    }
    report.add(format!("stdin, {INPUT} MiB"), input(&lone).await, "MiB/s");
    lone.remove().await;
}

fn zeros() -> [String; 4] {
    ["dd".to_owned(), "if=/dev/zero".to_owned(), "bs=65536".to_owned(), format!("count={}", OUTPUT * 16)]
}

fn rate(mib: u32, took: Duration) -> f64 {
    f64::from(mib) / took.as_secs_f64()
}

/// An exec whose output goes through the shim to a fifo.
async fn output(lone: &Lone) -> f64 {
    let path = fifo(&lone.bundle.path, "bench-stdout");
    let command = zeros();
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    lone.task.exec_with(&lone.id, "writer", &command, None, Some(&path)).await.or_fail("Exec");
    let reading = spawn_blocking(move || {
        let mut file = File::open(path).or_fail("the fifo");
        std::io::copy(&mut file, &mut std::io::sink()).or_fail("the fifo")
    });
    let begin = Instant::now();
    lone.task.start(&lone.id, "writer").await.or_fail("Start");
    let read = within("the output", LIMIT, reading).await.or_fail("the reader");
    let took = begin.elapsed();
    assert_eq!(read, u64::from(OUTPUT) << 20, "output is complete");
    lone.task.wait(&lone.id, "writer").await.or_fail("Wait");
    lone.task.delete(&lone.id, "writer").await.or_fail("Delete");
    rate(OUTPUT, took)
}

/// A second connection to the agent, where the transport is a socket that anybody may connect to.
async fn agent_of_the_vm() -> Option<Agent> {
    let device = Victim::VsockDevice.processes().into_iter().next()?;
    let directory = std::fs::read_link(format!("/proc/{}/cwd", device.pid)).ok()?;
    let words: Vec<&str> = device.command.split(' ').collect();
    let name = words.iter().skip_while(|word| **word != "--uds-path").nth(1)?;
    let socket = directory.join(name);
    agent::connect(&Endpoint::Hybrid { socket, port: AGENT_PORT }).await.ok()
}

/// The same exec, read by nothing but a loop.
async fn read_loop(agent: &Agent, container: &str) -> f64 {
    let process = oci::Process {
        Args: zeros().to_vec(),
        Cwd: "/".to_owned(),
        Env: vec!["PATH=/bin".to_owned()],
        User: protobuf::MessageField::some(oci::User::default()),
        Capabilities: protobuf::MessageField::some(oci::LinuxCapabilities::default()),
        ..oci::Process::default()
    };
    let exec = ProcessRef::exec(container, "direct");
    let begin = Instant::now();
    agent.exec_process(container, "direct", process).await.or_fail("ExecProcess");
    let mut read = 0;
    within("the direct output", LIMIT, async {
        loop {
            match agent.read_stdout(exec, CHUNK).await {
                Ok(chunk) if !chunk.is_empty() => read += chunk.len() as u64,
                // The agent says the end by an empty answer or by an error.
                _ => break,
            }
        }
    })
    .await;
    let took = begin.elapsed();
    assert_eq!(read, u64::from(OUTPUT) << 20, "output is complete");
    agent.wait_process(exec).await.or_fail("WaitProcess");
    rate(OUTPUT, took)
}

/// An exec that reads all that the engine writes.
async fn input(lone: &Lone) -> f64 {
    let path = fifo(&lone.bundle.path, "bench-stdin");
    let command = ["sh", "-c", "cat >/dev/null"];
    lone.task.exec_with(&lone.id, "reader", &command, Some(&path), None).await.or_fail("Exec");
    let begin = Instant::now();
    lone.task.start(&lone.id, "reader").await.or_fail("Start");
    let writing = spawn_blocking(move || {
        let mut file = File::options().write(true).open(path).or_fail("the fifo");
        std::io::copy(&mut std::io::repeat(7).take(u64::from(INPUT) << 20), &mut file).or_fail("the fifo");
        file.flush().or_fail("the fifo");
    });
    within("the input", LIMIT, writing).await.or_fail("the writer");
    lone.task.close_stdin(&lone.id, "reader").await.or_fail("CloseIO");
    let exit = lone.task.wait(&lone.id, "reader").await.or_fail("Wait");
    let took = begin.elapsed();
    assert_eq!(exit.exit_status, 0, "the reader reads to the end");
    lone.task.delete(&lone.id, "reader").await.or_fail("Delete");
    rate(INPUT, took)
}
