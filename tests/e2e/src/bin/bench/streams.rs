//! How fast output and input move through the shim, against the agent's own ReadStdout and WriteStdin loops, which are the
//! limit. In turn, several times: a machine's speed changes from one minute to the next by more than the shim costs.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use e2e::direct::{LIMIT, agent_of_the_vm, read_loop, write_loop};
use e2e::{Artefacts, OrFail, within};
use tokio::task::spawn_blocking;

use crate::lone::{Lone, cpu, fifo};
use crate::report::{Report, median};

/// How often each is measured.
const ROUNDS: usize = 5;
/// The most that a container writes in a round, in MiB.
const MOST_OUTPUT: u32 = 256;
/// The most that a container reads in a round, in MiB.
const MOST_INPUT: u32 = 64;
/// About how long a round should take: an emulated agent that asks its policy moves a hundredth of what another one moves.
const ROUND: Duration = Duration::from_secs(10);
/// What the shim asks the agent for at once over this transport, in bytes.
const READ: usize = 16 << 10;
/// What the shim sends the agent at once, in bytes.
const WRITE: usize = 64 << 10;
/// Other sizes of a piece of input.
const OTHER_WRITES: [usize; 2] = [4 << 10, 16 << 10];

/// Measures, and reports the medians.
pub async fn measure(artefacts: &Artefacts, report: &mut Report) {
    let lone = Lone::running(artefacts, "streams").await;
    let direct = agent_of_the_vm().await;
    let out = amount(MOST_OUTPUT, output(&lone, 1).await);
    let into = amount(MOST_INPUT, input(&lone, 1).await);
    let (mut stdout, mut stdin) = (Pairs::default(), Pairs::default());
    let mut work = Vec::new();
    for _ in 0..ROUNDS {
        let before = cpu(&lone.process());
        stdout.shim.push(rate(out, output(&lone, out).await));
        let spent = cpu(&lone.process()).saturating_sub(before);
        work.push(spent.as_secs_f64() * 1e3 / f64::from(out));
        if let Some(agent) = &direct {
            let command = zeros(out);
            let command: Vec<&str> = command.iter().map(String::as_str).collect();
            let took = read_loop(agent, &lone.id, &command, u64::from(out) << 20, READ).await;
            stdout.agent.push(rate(out, took));
        }
        stdin.shim.push(rate(into, input(&lone, into).await));
        if let Some(agent) = &direct {
            let took = write_loop(agent, &lone.id, &SWALLOW, u64::from(into) << 20, WRITE).await;
            stdin.agent.push(rate(into, took));
        }
    }
    stdout.report(report, &format!("stdout, {ROUNDS} times {out} MiB"), "ReadStdout", READ);
    report.add("shim CPU time for 1 MiB of it", median(work), "ms");
    stdin.report(report, &format!("stdin, {ROUNDS} times {into} MiB"), "WriteStdin", WRITE);
    if let Some(agent) = &direct {
        for piece in OTHER_WRITES {
            let took = write_loop(agent, &lone.id, &SWALLOW, u64::from(into) << 20, piece).await;
            report.add(alone("WriteStdin", piece), rate(into, took), "MiB/s");
        }
    }
    lone.remove().await;
}

/// How many MiB a round has, from what one took.
fn amount(most: u32, one: Duration) -> u32 {
    (1..=most).rev().find(|mib| mib.is_power_of_two() && one * *mib <= ROUND).unwrap_or(1)
}

/// Rates through the shim and without it, in MiB/s, round by round.
#[derive(Debug, Default)]
struct Pairs {
    shim: Vec<f64>,
    agent: Vec<f64>,
}

impl Pairs {
    fn report(self, report: &mut Report, name: &str, call: &str, piece: usize) {
        let Self { shim, agent } = self;
        report.add(name, median(shim.clone()), "MiB/s");
        if agent.is_empty() {
            return;
        }
        let ratios = shim.iter().zip(&agent).map(|(shim, agent)| shim / agent).collect();
        report.add(alone(call, piece), median(agent), "MiB/s");
        report.add("ratio of the two", median(ratios), "");
    }
}

/// The name of a figure without the shim.
fn alone(call: &str, piece: usize) -> String {
    format!("the agent's {call} loop alone, {} KiB a call", piece >> 10)
}

fn zeros(mib: u32) -> [String; 4] {
    ["dd".to_owned(), "if=/dev/zero".to_owned(), "bs=65536".to_owned(), format!("count={}", mib * 16)]
}

fn rate(mib: u32, took: Duration) -> f64 {
    f64::from(mib) / took.as_secs_f64()
}

/// An exec whose output goes through the shim to a fifo.
async fn output(lone: &Lone, mib: u32) -> Duration {
    let path = fifo(&lone.bundle.path, "bench-stdout");
    let command = zeros(mib);
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
    assert_eq!(read, u64::from(mib) << 20, "output is complete");
    lone.task.wait(&lone.id, "writer").await.or_fail("Wait");
    lone.task.delete(&lone.id, "writer").await.or_fail("Delete");
    fs::remove_file(path).or_fail("the fifo");
    took
}

/// Reads all of its input.
const SWALLOW: [&str; 3] = ["sh", "-c", "cat >/dev/null"];

/// An exec that reads all that the engine writes.
async fn input(lone: &Lone, mib: u32) -> Duration {
    let path = fifo(&lone.bundle.path, "bench-stdin");
    lone.task.exec_with(&lone.id, "reader", &SWALLOW, Some(&path), None).await.or_fail("Exec");
    let begin = Instant::now();
    lone.task.start(&lone.id, "reader").await.or_fail("Start");
    let writer = path.clone();
    let writing = spawn_blocking(move || {
        let mut file = File::options().write(true).open(writer).or_fail("the fifo");
        std::io::copy(&mut std::io::repeat(7).take(u64::from(mib) << 20), &mut file).or_fail("the fifo");
        file.flush().or_fail("the fifo");
    });
    within("the input", LIMIT, writing).await.or_fail("the writer");
    lone.task.close_stdin(&lone.id, "reader").await.or_fail("CloseIO");
    let exit = lone.task.wait(&lone.id, "reader").await.or_fail("Wait");
    let took = begin.elapsed();
    assert_eq!(exit.exit_status, 0, "the reader reads to the end");
    lone.task.delete(&lone.id, "reader").await.or_fail("Delete");
    fs::remove_file(path).or_fail("the fifo");
    took
}
