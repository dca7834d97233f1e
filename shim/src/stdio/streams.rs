//! A process's streams in motion: output from the guest to the engine's fifos, input the other way.
//!
//! Two tasks serve each output stream, one that asks the guest for the next chunk and one that writes the last to the
//! fifo, with a short queue between them, so that neither waits for the other's turn. A reader that stops reading
//! holds up its own stream and nothing else.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use agent::{Agent, AgentError, ProcessRef};
use slog::{Logger, debug, warn};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use super::StdioPaths;
use super::sink::{OpenError, Sink};

/// How much is asked of the guest at once, in bytes. A pipe in the guest holds four times as much, but vhost-device-vsock
/// 0.3.0 loses what the guest sends in one piece of more than about 32,400 bytes, and the connection with it.
const CHUNK: usize = 16 * 1024;
/// How much is sent to the guest at once, in bytes: all that the engine's fifo holds. What comes from the host may have any
/// size, and a call costs an emulated guest more than its bytes do.
const INPUT: usize = 64 * 1024;
/// How many chunks wait for the engine while the next is fetched.
const QUEUED: usize = 4;

/// An output stream.
#[derive(Debug, Clone, Copy)]
enum Output {
    Stdout,
    Stderr,
}

/// How an output stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// Data moves, or there is none.
    Moving,
    /// The engine does not take what is there.
    Stuck,
    /// Everything has been written.
    Ended,
}

/// The guest's side of a process: its names and the way to them.
#[derive(Debug, Clone)]
struct Guest {
    agent: Agent,
    container: String,
    exec: String,
}

impl Guest {
    fn process(&self) -> ProcessRef<'_> {
        ProcessRef { container: &self.container, exec: &self.exec }
    }

    async fn read(&self, output: Output) -> Result<Vec<u8>, AgentError> {
        match output {
            Output::Stdout => self.agent.read_stdout(self.process(), CHUNK).await,
            Output::Stderr => self.agent.read_stderr(self.process(), CHUNK).await,
        }
    }
}

/// What [`Stdio::pump`] sets in motion.
#[derive(Debug)]
struct Ends {
    stdin: Option<pipe::Receiver>,
    outputs: Vec<(Output, Sink, watch::Sender<Flow>)>,
    close_stdin: oneshot::Receiver<()>,
    terminal: bool,
}

/// The streams of one process. Dropping it closes the engine's fifos once the output that is there is written.
#[derive(Debug)]
pub struct Stdio {
    guest: Guest,
    ends: Mutex<Option<Ends>>,
    flows: Vec<watch::Receiver<Flow>>,
    stdin_closer: Mutex<Option<oneshot::Sender<()>>>,
    log: Logger,
}

impl Stdio {
    /// Opens the engine's ends; nothing moves yet.
    ///
    /// # Errors
    /// A fifo is missing, or a kind of URI is not supported.
    pub fn open(
        paths: &StdioPaths,
        process: ProcessRef<'_>,
        agent: Agent,
        log: &Logger,
    ) -> Result<Self, OpenError> {
        let stdin = match paths.stdin.as_str() {
            "" => None,
            path => {
                // Read and write: the end of the engine's writer is no end of the stream, CloseIO is.
                let opened = pipe::OpenOptions::new().read_write(true).open_receiver(path);
                Some(opened.map_err(|source| OpenError::Open { path: path.into(), source })?)
            }
        };
        let mut outputs = vec![(Output::Stdout, Sink::open(&paths.stdout)?)];
        if !paths.terminal {
            outputs.push((Output::Stderr, Sink::open(&paths.stderr)?));
        }
        let mut flows = Vec::new();
        let outputs = outputs
            .into_iter()
            .map(|(output, sink)| {
                let (flow, watched) = watch::channel(Flow::Moving);
                flows.push(watched);
                (output, sink, flow)
            })
            .collect();
        let (closer, close_stdin) = oneshot::channel();
        let guest = Guest { agent, container: process.container.to_owned(), exec: process.exec.to_owned() };
        Ok(Self {
            guest,
            ends: Mutex::new(Some(Ends { stdin, outputs, close_stdin, terminal: paths.terminal })),
            flows,
            stdin_closer: Mutex::new(Some(closer)),
            log: log.clone(),
        })
    }

    /// Sets the streams in motion; once the guest knows the process. A second call does nothing.
    pub fn pump(&self) {
        let Some(ends) = self.ends.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        for (output, sink, flow) in ends.outputs {
            tokio::spawn(pump_out(self.guest.clone(), output, sink, flow, self.log.clone()));
        }
        if let Some(stdin) = ends.stdin {
            let (guest, log) = (self.guest.clone(), self.log.clone());
            tokio::spawn(pump_in(guest, stdin, ends.close_stdin, ends.terminal, log));
        }
    }

    /// Closes the process's stdin after what the engine has written until now.
    pub fn close_stdin(&self) {
        if let Some(closer) = self.stdin_closer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = closer.send(());
        }
    }

    /// Waits until all output is written. Gives up when the engine has not taken any for `patience`.
    pub async fn drained(&self, patience: Duration) {
        for flow in &self.flows {
            let mut flow = flow.clone();
            loop {
                if flow.wait_for(|flow| *flow != Flow::Moving).await.map_or(true, |flow| *flow == Flow::Ended)
                {
                    break;
                }
                let moved = flow.wait_for(|flow| *flow != Flow::Stuck);
                if timeout(patience, moved).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Moves one output stream until the guest says it ended.
async fn pump_out(guest: Guest, output: Output, sink: Sink, flow: watch::Sender<Flow>, log: Logger) {
    let (queue, chunks) = mpsc::channel(QUEUED);
    let writing = tokio::spawn(write_all(sink, chunks, flow, log.clone()));
    let mut answer = guest.read(output).await;
    let mut withheld = false;
    loop {
        match answer {
            Ok(chunk) if chunk.is_empty() => {
                withheld = true; // or the end
                break;
            }
            Ok(chunk) => {
                // In this order, so that the guest works on the next chunk while this one is written.
                let (next, sent) = tokio::join!(biased; guest.read(output), queue.send(chunk));
                if sent.is_err() {
                    break; // the engine's end is broken; the log says so
                }
                answer = next;
            }
            // The process, or its VM, is gone: that is the end, too.
            Err(error) => {
                debug!(log, "output ended"; "stream" => ?output, "error" => %error);
                break;
            }
        }
    }
    drop(queue);
    if let Ok(flow) = writing.await
        && withheld
    {
        drain(|| guest.read(output), flow.closed()).await;
    }
}

/// Goes on reading after an answer without data, until the process is `forgotten` here or in the guest.
///
/// That is how the stream's end looks, and so does output that the guest's policy withholds (kata-agent 4.1.0): the
/// process would stop at a full pipe if nobody read it. [`CHUNK`] every quarter of a second is taken of it.
async fn drain<E, R: Future<Output = Result<Vec<u8>, E>>>(
    mut read: impl FnMut() -> R,
    forgotten: impl Future<Output = ()>,
) {
    const LONGEST: Duration = Duration::from_millis(250);

    tokio::pin!(forgotten);
    let mut pause = LONGEST / 4;
    loop {
        let next = async {
            sleep(pause).await;
            read().await
        };
        tokio::select! {
            biased;
            () = &mut forgotten => return,
            answer = next => if answer.is_err() {
                return;
            },
        }
        pause = (pause * 2).min(LONGEST);
    }
}

/// Writes what comes through the queue; says when the engine does not take it.
async fn write_all(
    mut sink: Sink,
    mut chunks: mpsc::Receiver<Vec<u8>>,
    flow: watch::Sender<Flow>,
    log: Logger,
) -> watch::Sender<Flow> {
    /// A write that takes longer waits for somebody who is not reading.
    const PROMPT: Duration = Duration::from_millis(200);

    let mut broken = false;
    while let Some(chunk) = chunks.recv().await {
        if broken {
            continue; // read and dropped, so that the process is not held up
        }
        let writing = sink.write_all(&chunk);
        tokio::pin!(writing);
        let written = match timeout(PROMPT, &mut writing).await {
            Ok(written) => written,
            Err(_) => {
                flow.send_replace(Flow::Stuck);
                let written = writing.await;
                flow.send_replace(Flow::Moving);
                written
            }
        };
        if let Err(error) = written {
            warn!(log, "output is lost: the engine's end cannot be written"; "error" => %error);
            broken = true;
        }
    }
    drop(sink);
    flow.send_replace(Flow::Ended);
    flow
}

/// Moves stdin until it is closed, or the process no longer takes it.
async fn pump_in(
    guest: Guest,
    mut stdin: pipe::Receiver,
    mut close: oneshot::Receiver<()>,
    terminal: bool,
    log: Logger,
) {
    let mut buffer = vec![0; INPUT];
    loop {
        let read = tokio::select! {
            biased;
            read = stdin.read(&mut buffer) => read,
            closed = &mut close => match closed {
                Ok(()) => break,
                Err(_) => return, // the process is gone
            },
        };
        let sent = match read {
            Ok(length) => guest.agent.write_stdin(guest.process(), buffer[..length].to_vec()).await,
            Err(error) => return warn!(log, "input is lost: its fifo cannot be read"; "error" => %error),
        };
        if let Err(error) = sent {
            return debug!(log, "input ended"; "error" => %error);
        }
    }
    if terminal {
        return; // closing a terminal's input closes its output, too
    }
    // What was written before CloseIO was read first: the select prefers it.
    if let Err(error) = guest.agent.close_stdin(guest.process()).await {
        debug!(log, "stdin could not be closed"; "error" => %error);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn withheld_output_is_read_until_the_guest_forgets_the_process() {
        let reads = Cell::new(0);
        let read = async || {
            reads.set(reads.get() + 1);
            if reads.get() < 100 { Ok(Vec::new()) } else { Err("no such process") }
        };
        drain(read, pending()).await;
        assert_eq!(reads.get(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn an_ended_process_is_not_read_again() {
        let read = async || -> Result<Vec<u8>, ()> { panic!("read again") };
        drain(read, sleep(Duration::from_millis(10))).await;
    }
}
