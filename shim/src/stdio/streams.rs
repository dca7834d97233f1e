//! A process's streams in motion: output from the guest to the engine's fifos, input the other way.
//!
//! Two tasks serve each output stream, one that asks the guest for the next chunk and one that writes the last to the
//! fifo, with a short queue between them, so that neither waits for the other's turn. A reader that stops reading
//! holds up its own stream and nothing else.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_client::{AgentError, ProcessRef};
use slog::{Logger, debug, warn};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use super::logger::{self, Logger as LoggingProgram, NotReady};
use super::sink::{OpenError, Sink};
use crate::api::StdioPaths;
use crate::machine::{Guest, Output, PIPE};

/// How much is sent to the guest at once, in bytes. kata-agent shows each piece to its policy as a list of
/// numbers, and nobody else is answered meanwhile; a call has a cost of its own as well, so small pieces are slower
/// (`KATA_AGENT=/path tools/bench streams`).
const INPUT: usize = PIPE;
/// How many chunks wait for the engine while the next is fetched.
const QUEUED: usize = 4;

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
struct Remote<G> {
    guest: G,
    container: String,
    exec: String,
}

impl<G: Guest> Remote<G> {
    fn process(&self) -> ProcessRef<'_> {
        ProcessRef { container: &self.container, exec: &self.exec }
    }

    async fn read(&self, output: Output) -> Result<Vec<u8>, AgentError> {
        self.guest.read(self.process(), output, self.guest.read_size()).await
    }

    async fn close_stdin(&self, log: &Logger) {
        if let Err(error) = self.guest.close_stdin(self.process()).await {
            debug!(log, "stdin could not be closed"; "error" => %error);
        }
    }
}

/// How often each output stream was read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reads([u64; 2]);

/// One output stream: where it goes, and what is told of it.
#[derive(Debug)]
struct Flowing {
    output: Output,
    sink: Sink,
    flow: watch::Sender<Flow>,
    activity: watch::Sender<Reads>,
}

/// What [`Stdio::pump`] sets in motion.
#[derive(Debug)]
struct Ends {
    stdin: Option<pipe::Receiver>,
    outputs: Vec<Flowing>,
    close_stdin: oneshot::Receiver<()>,
    terminal: bool,
    program: Option<LoggingProgram>,
}

/// The streams of one process. Dropping it closes the engine's fifos once the output that is there is written.
#[derive(Debug)]
pub struct Stdio<G> {
    remote: Remote<G>,
    ends: Mutex<Option<Ends>>,
    flows: Vec<watch::Receiver<Flow>>,
    activity: watch::Receiver<Reads>,
    stdin_closer: Mutex<Option<oneshot::Sender<()>>>,
    log: Logger,
}

impl<G: Guest> Stdio<G> {
    /// Opens the engine's ends; nothing moves yet.
    ///
    /// # Errors
    /// A fifo is missing, or a kind of URI is not supported.
    pub fn open(
        paths: &StdioPaths,
        process: ProcessRef<'_>,
        namespace: &str,
        guest: G,
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
        let (program, stdout, stderr) = if logger::is_wanted(&paths.stdout) {
            // The same one for both, which is how engines ask for it.
            let (program, stdout, stderr) =
                LoggingProgram::start(&paths.stdout, namespace, process.container)?;
            (Some(program), stdout, Some(stderr))
        } else {
            (None, Sink::open(&paths.stdout)?, None)
        };
        let mut outputs = vec![(Output::Stdout, stdout)];
        if !paths.terminal {
            outputs.push((Output::Stderr, stderr.map_or_else(|| Sink::open(&paths.stderr), Ok)?));
        }
        let mut flows = Vec::new();
        let (active, activity) = watch::channel(Reads::default());
        let outputs = outputs
            .into_iter()
            .map(|(output, sink)| {
                let (flow, watched) = watch::channel(Flow::Moving);
                flows.push(watched);
                Flowing { output, sink, flow, activity: active.clone() }
            })
            .collect();
        let (closer, close_stdin) = oneshot::channel();
        let remote = Remote { guest, container: process.container.to_owned(), exec: process.exec.to_owned() };
        Ok(Self {
            remote,
            ends: Mutex::new(Some(Ends { stdin, outputs, close_stdin, terminal: paths.terminal, program })),
            flows,
            activity,
            stdin_closer: Mutex::new(Some(closer)),
            log: log.clone(),
        })
    }

    /// Waits until who takes the output is ready.
    ///
    /// # Errors
    /// A program that takes it is not in time.
    pub async fn ready(&self) -> Result<(), NotReady> {
        let program = self.ends().as_mut().and_then(|ends| ends.program.take());
        let Some(mut program) = program else { return Ok(()) };
        program.ready().await?;
        if let Some(ends) = self.ends().as_mut() {
            ends.program = Some(program);
        }
        Ok(())
    }

    fn ends(&self) -> MutexGuard<'_, Option<Ends>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the streams in motion; once the guest knows the process. A second call does nothing.
    pub fn pump(&self) {
        let Some(ends) = self.ends().take() else { return };
        if let Some(program) = ends.program {
            let flows = self.flows.clone();
            tokio::spawn(async move {
                all_ended(&flows).await;
                program.finish().await;
            });
        }
        for flowing in ends.outputs {
            tokio::spawn(pump_out(self.remote.clone(), flowing, self.log.clone()));
        }
        let (remote, log) = (self.remote.clone(), self.log.clone());
        match ends.stdin {
            Some(stdin) => drop(tokio::spawn(pump_in(remote, stdin, ends.close_stdin, ends.terminal, log))),
            // The agent gives every process a pipe: one that nobody writes to has its end at once, as /dev/null has.
            None if !ends.terminal => drop(tokio::spawn(async move { remote.close_stdin(&log).await })),
            None => {}
        }
    }

    /// Closes the process's stdin after what the engine has written until now.
    pub fn close_stdin(&self) {
        if let Some(closer) = self.stdin_closer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = closer.send(());
        }
    }

    /// Waits until all output is written, for as long as that takes.
    pub async fn ended(&self) {
        all_ended(&self.flows).await;
    }

    /// Changes with each piece of output; closes with the last stream.
    pub fn activity(&self) -> watch::Receiver<Reads> {
        self.activity.clone()
    }

    /// How often each stream was read by now.
    pub fn reads(&self) -> Reads {
        *self.activity.borrow()
    }

    /// Whether each stream has ended, was read so `often` since `start`, or not at all since `looked`.
    pub fn has_read(&self, start: Reads, often: u64, looked: Reads) -> bool {
        let now = self.reads();
        self.flows.iter().enumerate().all(|(stream, flow)| {
            let (start, looked, now) = (start.0[stream], looked.0[stream], now.0[stream]);
            *flow.borrow() == Flow::Ended || now - start >= often || now == looked
        })
    }

    /// Whether the engine leaves output lying.
    pub fn is_stuck(&self) -> bool {
        self.flows.iter().any(|flow| *flow.borrow() == Flow::Stuck)
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

async fn all_ended(flows: &[watch::Receiver<Flow>]) {
    for flow in flows {
        let _ = flow.clone().wait_for(|flow| *flow == Flow::Ended).await;
    }
}

/// Moves one output stream until the guest says it ended.
async fn pump_out<G: Guest>(guest: Remote<G>, flowing: Flowing, log: Logger) {
    let Flowing { output, sink, flow, activity } = flowing;
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
                activity.send_modify(|reads| reads.0[output as usize] += 1);
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
    drop((queue, activity));
    if let Ok(flow) = writing.await
        && withheld
    {
        drain(|| guest.read(output), flow.closed()).await;
    }
}

/// Goes on reading after an answer without data, until the process is `forgotten` here or in the guest.
///
/// That is how the stream's end looks, and so does output that the guest's policy withholds (kata-agent 4.1.0): the
/// process would stop at a full pipe if nobody read it. One piece every quarter of a second is taken of it.
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
async fn pump_in<G: Guest>(
    remote: Remote<G>,
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
            Ok(length) => remote.guest.write(remote.process(), buffer[..length].to_vec()).await,
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
    remote.close_stdin(&log).await;
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
