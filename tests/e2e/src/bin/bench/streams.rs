//! How fast output and input move through the shim, against the agent's own ReadStdout and WriteStdin loops, which are the
//! limit. In turn, several times: a machine's speed changes from one minute to the next by more than the shim costs.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use agent_client::proto::oci;
use agent_client::{AGENT_PORT, Agent, Endpoint, ProcessRef};
use e2e::{Artefacts, OrFail, Victim, within};
use tokio::task::spawn_blocking;

use crate::lone::{Lone, cpu, fifo};
use crate::report::{Report, median};

/// How often each is measured.
const ROUNDS: usize = 5;
/// What a container writes in a round, in MiB.
const OUTPUT: u32 = 256;
/// What a container reads in a round, in MiB.
const INPUT: u32 = 64;
/// What the shim asks the agent for at once, in bytes.
const READ: usize = 16 << 10;
/// What the shim sends the agent at once, in bytes.
const WRITE: usize = 64 << 10;
const LIMIT: Duration = Duration::from_secs(300);

/// Measures, and reports the medians.
pub async fn measure(artefacts: &Artefacts, report: &mut Report) {
    let lone = Lone::running(artefacts, "streams").await;
    let direct = agent_of_the_vm().await;
    if direct.is_none() {
        println!("the VM's agent cannot be reached beside its shim: no limit to compare with");
    }
    let (mut stdout, mut stdin) = (Pairs::default(), Pairs::default());
    let mut work = Vec::new();
    for _ in 0..ROUNDS {
        let before = cpu(&lone.process());
        stdout.shim.push(output(&lone).await);
        let spent = cpu(&lone.process()).saturating_sub(before);
        work.push(spent.as_secs_f64() * 1e3 / f64::from(OUTPUT));
        if let Some(agent) = &direct {
            stdout.agent.push(read_loop(agent, &lone.id).await);
        }
        stdin.shim.push(input(&lone).await);
        if let Some(agent) = &direct {
            stdin.agent.push(write_loop(agent, &lone.id).await);
        }
    }
    stdout.report(report, &format!("stdout, {ROUNDS} times {OUTPUT} MiB"), "ReadStdout");
    report.add("shim CPU time for 1 MiB of it", median(work), "ms");
    stdin.report(report, &format!("stdin, {ROUNDS} times {INPUT} MiB"), "WriteStdin");
    lone.remove().await;
}

/// Rates through the shim and without it, in MiB/s, round by round.
#[derive(Debug, Default)]
struct Pairs {
    shim: Vec<f64>,
    agent: Vec<f64>,
}

impl Pairs {
    fn report(self, report: &mut Report, name: &str, call: &str) {
        let Self { shim, agent } = self;
        report.add(name, median(shim.clone()), "MiB/s");
        if agent.is_empty() {
            return;
        }
        let ratios = shim.iter().zip(&agent).map(|(shim, agent)| shim / agent).collect();
        report.add(format!("the agent's {call} loop alone"), median(agent), "MiB/s");
        report.add("ratio of the two", median(ratios), "");
    }
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
    let reader = path.clone();
    let reading = spawn_blocking(move || {
        let mut file = File::open(reader).or_fail("the fifo");
        std::io::copy(&mut file, &mut std::io::sink()).or_fail("the fifo")
    });
    let begin = Instant::now();
    lone.task.start(&lone.id, "writer").await.or_fail("Start");
    let read = within("the output", LIMIT, reading).await.or_fail("the reader");
    let took = begin.elapsed();
    assert_eq!(read, u64::from(OUTPUT) << 20, "output is complete");
    lone.task.wait(&lone.id, "writer").await.or_fail("Wait");
    lone.task.delete(&lone.id, "writer").await.or_fail("Delete");
    fs::remove_file(path).or_fail("the fifo");
    rate(OUTPUT, took)
}

/// A second connection to the agent, where the transport is a socket that anybody may connect to.
async fn agent_of_the_vm() -> Option<Agent> {
    let device = Victim::VsockDevice.processes().into_iter().next()?;
    let directory = std::fs::read_link(format!("/proc/{}/cwd", device.pid)).ok()?;
    let words: Vec<&str> = device.command.split(' ').collect();
    let name = words.iter().skip_while(|word| **word != "--uds-path").nth(1)?;
    let socket = directory.join(name);
    agent_client::connect(&Endpoint::Hybrid { socket, port: AGENT_PORT }).await.ok()
}

/// The same exec, read by nothing but a loop.
async fn read_loop(agent: &Agent, container: &str) -> f64 {
    let exec = ProcessRef::exec(container, "direct");
    let begin = Instant::now();
    agent.exec_process(container, "direct", process(&zeros())).await.or_fail("ExecProcess");
    let mut read = 0;
    within("the direct output", LIMIT, async {
        loop {
            match agent.read_stdout(exec, READ).await {
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

/// What the agent is asked to run.
fn process(command: &[String]) -> oci::Process {
    oci::Process {
        Args: command.to_vec(),
        Cwd: "/".to_owned(),
        Env: vec!["PATH=/bin".to_owned()],
        User: protobuf::MessageField::some(oci::User::default()),
        Capabilities: protobuf::MessageField::some(oci::LinuxCapabilities::default()),
        ..oci::Process::default()
    }
}

/// Reads all of its input.
const SWALLOW: [&str; 3] = ["sh", "-c", "cat >/dev/null"];

/// An exec that reads all that the engine writes.
async fn input(lone: &Lone) -> f64 {
    let path = fifo(&lone.bundle.path, "bench-stdin");
    lone.task.exec_with(&lone.id, "reader", &SWALLOW, Some(&path), None).await.or_fail("Exec");
    let begin = Instant::now();
    lone.task.start(&lone.id, "reader").await.or_fail("Start");
    let writer = path.clone();
    let writing = spawn_blocking(move || {
        let mut file = File::options().write(true).open(writer).or_fail("the fifo");
        std::io::copy(&mut std::io::repeat(7).take(u64::from(INPUT) << 20), &mut file).or_fail("the fifo");
        file.flush().or_fail("the fifo");
    });
    within("the input", LIMIT, writing).await.or_fail("the writer");
    lone.task.close_stdin(&lone.id, "reader").await.or_fail("CloseIO");
    let exit = lone.task.wait(&lone.id, "reader").await.or_fail("Wait");
    let took = begin.elapsed();
    assert_eq!(exit.exit_status, 0, "the reader reads to the end");
    lone.task.delete(&lone.id, "reader").await.or_fail("Delete");
    fs::remove_file(path).or_fail("the fifo");
    rate(INPUT, took)
}

/// The same exec, written to by nothing but a loop.
async fn write_loop(agent: &Agent, container: &str) -> f64 {
    let exec = ProcessRef::exec(container, "direct");
    let begin = Instant::now();
    let command = SWALLOW.map(str::to_owned);
    agent.exec_process(container, "direct", process(&command)).await.or_fail("ExecProcess");
    within("the direct input", LIMIT, async {
        for _ in 0..(u64::from(INPUT) << 20) / WRITE as u64 {
            agent.write_stdin(exec, vec![7; WRITE]).await.or_fail("WriteStdin");
        }
        agent.close_stdin(exec).await.or_fail("CloseStdin");
    })
    .await;
    let status = agent.wait_process(exec).await.or_fail("WaitProcess");
    let took = begin.elapsed();
    assert_eq!(status, 0, "the reader reads to the end");
    rate(INPUT, took)
}
