//! The guest's agent, asked beside the shim: what its calls alone take is the limit of what goes through the shim.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::faults::Victim;
use crate::or_fail::OrFail;
use crate::wait::within;
use agent_client::proto::oci;
use agent_client::{AGENT_PORT, Agent, Endpoint, ProcessRef};

/// How long one measurement may take.
pub const LIMIT: Duration = Duration::from_secs(300);
/// What the processes are called that no shim knows.
const NAME: &str = "direct";

/// A second connection to the agent, where the transport is a socket that anybody may connect to.
pub async fn agent_of_the_vm() -> Option<Agent> {
    // The device is in a mount namespace of its own: its directory is reached by the link, not by the name that the link shows.
    let socket = Victim::VsockDevice.processes().into_iter().find_map(|device| {
        let words: Vec<&str> = device.command.split(' ').collect();
        let name = words.iter().skip_while(|word| **word != "--uds-path").nth(1)?;
        let socket = PathBuf::from(format!("/proc/{}/cwd/{name}", device.pid));
        socket.exists().then_some(socket)
    })?;
    let agent = agent_client::connect(&Endpoint::Hybrid { socket, port: AGENT_PORT }).await;
    Some(agent.or_fail("the VM's agent, asked beside its shim"))
}

/// A process from its begin to its end, with both of its streams: the calls that the shim makes for it.
pub async fn exec(agent: &Agent, container: &str, command: &[&str]) -> Duration {
    let begin = Instant::now();
    let exec = start(agent, container, command).await;
    let (_, _) = tokio::join!(agent.read_stdout(exec, 16 << 10), agent.read_stderr(exec, 16 << 10));
    agent.wait_process(exec).await.or_fail("WaitProcess");
    begin.elapsed()
}

/// Reads the output of a process that writes so many bytes, a piece a call.
pub async fn read_loop(
    agent: &Agent,
    container: &str,
    command: &[&str],
    bytes: u64,
    piece: usize,
) -> Duration {
    let begin = Instant::now();
    let exec = start(agent, container, command).await;
    let mut read = 0;
    within("the direct output", LIMIT, async {
        loop {
            match agent.read_stdout(exec, piece).await {
                Ok(chunk) if !chunk.is_empty() => read += chunk.len() as u64,
                // The agent says the end by an empty answer or by an error.
                _ => break,
            }
        }
    })
    .await;
    let took = begin.elapsed();
    assert_eq!(read, bytes, "output is complete");
    agent.wait_process(exec).await.or_fail("WaitProcess");
    took
}

/// Writes so many bytes to a process that reads them all, a piece a call.
pub async fn write_loop(
    agent: &Agent,
    container: &str,
    command: &[&str],
    bytes: u64,
    piece: usize,
) -> Duration {
    let begin = Instant::now();
    let exec = start(agent, container, command).await;
    within("the direct input", LIMIT, async {
        for _ in 0..bytes / piece as u64 {
            agent.write_stdin(exec, vec![7; piece]).await.or_fail("WriteStdin");
        }
        agent.close_stdin(exec).await.or_fail("CloseStdin");
    })
    .await;
    let status = agent.wait_process(exec).await.or_fail("WaitProcess");
    let took = begin.elapsed();
    assert_eq!(status, 0, "the reader reads to the end");
    took
}

/// Has the agent start a process that no shim knows.
async fn start<'a>(agent: &Agent, container: &'a str, command: &[&str]) -> ProcessRef<'a> {
    agent.exec_process(container, NAME, process(command)).await.or_fail("ExecProcess");
    ProcessRef::exec(container, NAME)
}

/// What the agent is asked to run.
fn process(command: &[&str]) -> oci::Process {
    oci::Process {
        Args: command.iter().map(|word| (*word).to_owned()).collect(),
        Cwd: "/".to_owned(),
        Env: vec!["PATH=/bin".to_owned()],
        User: protobuf::MessageField::some(oci::User::default()),
        Capabilities: protobuf::MessageField::some(oci::LinuxCapabilities::default()),
        ..oci::Process::default()
    }
}
