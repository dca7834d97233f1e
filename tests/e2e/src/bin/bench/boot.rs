//! Time to agent ready, through Coffer and with bare QEMU: the same programs with the same arguments, in turn.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_client::{AGENT_PORT, Endpoint};
use command_fds::{CommandFdExt, FdMapping};
use e2e::{Artefacts, OrFail, Process, Victim, until, within};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::lone::Lone;
use crate::report::{Report, median};

/// How often each is booted.
const ROUNDS: usize = 9;
/// The same pause between tries to reach the agent as the shim's first.
const PAUSE: Duration = Duration::from_millis(10);
/// Where bare QEMU runs.
const DIRECTORY: &str = "/run/e2e/bare";

/// Measures, and reports the medians and their ratio.
pub async fn measure(artefacts: &Artefacts, report: &mut Report) {
    let bare = Bare::learn(artefacts).await;
    let (mut through, mut alone, mut init) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let boot = through_coffer(artefacts, &format!("boot-{round}")).await;
        through.push(boot.ready.as_secs_f64());
        init.push(boot.init.as_secs_f64() * 1e3);
        alone.push(bare.boot().await.as_secs_f64());
    }
    let (through, alone) = (median(through), median(alone));
    report.add("Create to agent ready through Coffer", through, "s");
    report.add("bare QEMU to agent ready", alone, "s");
    report.bounded("ratio of the two", through / alone, "", 1.05);
    report.bounded(
        "of it in PID 1, its checks included, until it starts the agent",
        median(init),
        "ms",
        150.0,
    );
}

/// What a boot takes.
#[derive(Debug)]
struct Boot {
    /// From Create until the agent answers.
    ready: Duration,
    /// From PID 1's first line to its last one before the agent.
    init: Duration,
}

async fn through_coffer(artefacts: &Artefacts, id: &str) -> Boot {
    let lone = Lone::new(artefacts, id).await;
    let begin = Instant::now();
    let words = ["coffer-init: mounting file systems", "coffer-init: starting the agent", "phase=agent"];
    let ([first, last, ready], ()) = tokio::join!(lone.logged(words), lone.create());
    lone.remove().await;
    Boot { ready: ready - begin, init: last - first }
}

/// The command lines of a pod's VM, to be run without Coffer.
#[derive(Debug)]
struct Bare {
    qemu: Vec<String>,
    /// None where the kernel has vhost-vsock, whose device QEMU opens itself.
    vsock_device: Option<Vec<String>>,
    endpoint: Endpoint,
}

impl Bare {
    /// Starts a pod and reads what Coffer started for it.
    async fn learn(artefacts: &Artefacts) -> Self {
        let lone = Lone::running(artefacts, "model").await;
        let one = |victim: Victim| victim.processes().into_iter().next();
        let mut qemu = command_line(&one(Victim::Qemu).or_fail("QEMU"));
        let vsock_device = one(Victim::VsockDevice).map(|process| command_line(&process));
        lone.remove().await;
        let endpoint = match &vsock_device {
            Some(line) => Endpoint::Hybrid {
                socket: Path::new(DIRECTORY).join(value_after(line, "--uds-path")),
                port: AGENT_PORT,
            },
            None => open_vhost_itself(&mut qemu),
        };
        Self { qemu, vsock_device, endpoint }
    }

    /// Boots, and waits until the agent answers.
    async fn boot(&self) -> Duration {
        fs::create_dir_all(DIRECTORY).or_fail(DIRECTORY);
        let begin = Instant::now();
        let mut children = Vec::new();
        if let Some(line) = &self.vsock_device {
            children.push(spawn(line, Vec::new()));
            let sockets =
                ["--socket", "--uds-path"].map(|flag| PathBuf::from(DIRECTORY).join(value_after(line, flag)));
            until("the vsock device's sockets", Duration::from_secs(10), async || {
                sockets.iter().all(|socket| socket.exists()).then_some(())
            })
            .await;
        }
        let (fds, init) = descriptors(&self.qemu);
        children.push(spawn(&self.qemu, fds));
        let took = within("bare QEMU's boot", Duration::from_secs(60), async {
            // As Coffer does: the vsock device must not be asked before the guest's driver has started.
            init.notified().await;
            while agent_client::connect(&self.endpoint).await.is_err() {
                sleep(PAUSE).await;
            }
            begin.elapsed()
        })
        .await;
        for child in &mut children {
            child.kill().await.or_fail("end a program");
        }
        fs::remove_dir_all(DIRECTORY).or_fail(DIRECTORY);
        took
    }
}

/// Both ends of what Coffer passes by number; ours are read, so that nothing fills up. Also tells when the guest's PID 1
/// has said its first word.
fn descriptors(qemu: &[String]) -> (Vec<FdMapping>, Arc<Notify>) {
    let init = Arc::new(Notify::new());
    let numbers = qemu.iter().filter_map(|argument| {
        let number = argument.split(',').find_map(|part| part.strip_prefix("fd="))?;
        Some((number, argument.contains(",set=")))
    });
    let fds = numbers
        .map(|(number, is_pipe)| {
            let theirs: OwnedFd = match is_pipe {
                true => {
                    let (ours, theirs) = io::pipe().or_fail("a pipe");
                    let ours = pipe::Receiver::from_owned_fd(ours.into()).or_fail("a pipe");
                    listen(ours, Arc::clone(&init));
                    theirs.into()
                }
                false => {
                    let (ours, theirs) = StdUnixStream::pair().or_fail("a socket pair");
                    ours.set_nonblocking(true).or_fail("a socket pair");
                    listen(UnixStream::from_std(ours).or_fail("a socket pair"), Arc::clone(&init));
                    theirs.into()
                }
            };
            FdMapping { parent_fd: theirs, child_fd: number.parse().or_fail("a descriptor's number") }
        })
        .collect();
    (fds, init)
}

/// Reads lines to the end; tells of PID 1's.
fn listen(stream: impl AsyncRead + Send + Unpin + 'static, init: Arc<Notify>) {
    let mut lines = BufReader::new(stream).split(b'\n');
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_segment().await {
            if String::from_utf8_lossy(&line).contains("coffer-init:") {
                init.notify_one();
            }
        }
    });
}

fn spawn(line: &[String], fds: Vec<FdMapping>) -> Child {
    let (program, arguments) = line.split_first().or_fail("a program");
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(DIRECTORY)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    command.fd_mappings(fds).or_fail("descriptors");
    command.spawn().or_fail(program)
}

fn command_line(process: &Process) -> Vec<String> {
    let path = format!("/proc/{}/cmdline", process.pid);
    let text = fs::read_to_string(&path).or_fail(path);
    text.trim_end_matches('\0').split('\0').map(str::to_owned).collect()
}

fn value_after<'a>(line: &'a [String], flag: &str) -> &'a str {
    line.iter().skip_while(|word| *word != flag).nth(1).or_fail(flag)
}

/// Takes Coffer's vhost descriptor out of the arguments; returns where the agent will be.
fn open_vhost_itself(qemu: &mut [String]) -> Endpoint {
    let device = qemu.iter_mut().find(|word| word.starts_with("vhost-vsock-pci")).or_fail("a vsock device");
    let parts: Vec<&str> = device.split(',').filter(|part| !part.starts_with("vhostfd=")).collect();
    let cid = parts.iter().find_map(|part| part.strip_prefix("guest-cid=")).or_fail("the context id");
    let endpoint = Endpoint::Vsock { cid: cid.parse().or_fail("the context id"), port: AGENT_PORT };
    *device = parts.join(",");
    endpoint
}
