//! Who does it: the kernel, the driver's daemons, and the program that asks the driver. The one seam of [`super::bring_up`].

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode as Permissions, SFlag, makedev, mknod, umask};
use nix::unistd::Pid;
use shared_types::{GpuMode, PciAddress};

use super::installed::{Installed, MODULES};
use super::plan::Plan;
use super::{Opening, Seen};

/// The daemon that holds GPUs open, that which runs switches, and the program that asks the driver; below the root.
const PERSISTENCE: &str = "usr/bin/nvidia-persistenced";
const FABRIC: &str = "usr/bin/nv-fabricmanager";
const ASKER: &str = "usr/bin/coffer-gpu";
/// The fabric manager's settings and its log.
const FABRIC_CONFIG: &str = "run/coffer/fabricmanager.cfg";
const FABRIC_LOG: &str = "run/coffer/fabricmanager.log";
/// What its log says when GPUs may use the links (NVRC, `src/daemon.rs`).
const FABRIC_READY: &str = "FM starting NvLink Inband";
/// Where the agent looks for what containers get.
const CDI: &str = "var/run/cdi/nvidia.json";
/// Numbers of NVIDIA's nodes (open-gpu-kernel-modules, `nv-chardev-numbers.h`).
const MAJOR: u64 = 195;
const CONTROL: u64 = 255;
const UVM: &str = "nvidia-uvm";
/// How often it is said that GPUs are still being opened.
const STILL: Duration = Duration::from_secs(10);
/// How often is looked which GPUs are open.
const LOOK: Duration = Duration::from_millis(250);
/// Longest answer of the program that asks.
const ANSWER: u64 = 64 << 10;

/// A module of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Module {
    /// Its name.
    pub name: &'static str,
    /// Its parameters.
    pub parameters: &'static str,
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The kernel said no to something with a path.
    #[error("{}", path.display())]
    Path {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A module was not taken.
    #[error("the kernel does not take the module")]
    Module(#[source] Errno),
    /// A program ended in failure.
    #[error("{} {end}{said}", program.display())]
    Ended { program: PathBuf, end: String, said: String },
    /// A program said what is no answer.
    #[error("{} answered what is no description of a GPU: {line:?}", program.display())]
    Answer { program: PathBuf, line: String },
    /// The kernel has no number for a node.
    #[error("the kernel has no devices {0:?}: its module did not load")]
    NoMajor(&'static str),
    /// It took too long.
    #[error("not done within {} s", .0.as_secs())]
    Late(Duration),
}

/// Who can do the steps.
pub trait Driver {
    /// Loads a module.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    fn load(&mut self, module: &Module, limit: Duration) -> Result<(), Fault>;

    /// Makes the nodes of so many GPUs. Returns those that every GPU's user needs.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    fn nodes(&mut self, gpus: u16) -> Result<Vec<String>, Fault>;

    /// Has all GPUs opened and held open, and tells how far that is.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    fn open(&mut self, plan: &Plan, tell: &mut dyn FnMut(Opening)) -> Result<(), Fault>;

    /// Has the switches run.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    fn join(&mut self, limit: Duration) -> Result<(), Fault>;

    /// Asks what the driver has.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    fn ask(&mut self, limit: Duration) -> Result<Vec<Seen>, Fault>;

    /// Writes down what containers get.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    fn publish(&mut self, spec: &str) -> Result<(), Fault>;
}

/// The guest's own.
#[derive(Debug)]
pub struct Kernel {
    root: PathBuf,
    has_uvm: bool,
}

impl Kernel {
    /// For the driver of this image, below `root`.
    pub fn new(root: &Path, installed: &Installed) -> Self {
        Self { root: root.to_owned(), has_uvm: installed.has_module(UVM) }
    }

    fn node(&self, name: &str, major: u64, minor: u64) -> Result<(), Fault> {
        let path = self.root.join("dev").join(name);
        let made =
            mknod(&path, SFlag::S_IFCHR, Permissions::from_bits_truncate(0o666), makedev(major, minor));
        made.map_err(|errno| Fault::Path { path, source: errno.into() })
    }

    /// The number that the kernel chose for a module's devices.
    fn major(&self, name: &'static str) -> Result<u64, Fault> {
        let path = self.root.join("proc/devices");
        let text = fs::read_to_string(&path).map_err(|source| Fault::Path { path, source })?;
        let lines = text.lines().take_while(|line| *line != "Block devices:");
        let found =
            lines.filter_map(|line| line.trim_start().split_once(' ')).find(|(_, other)| *other == name);
        found.and_then(|(major, _)| major.parse().ok()).ok_or(Fault::NoMajor(name))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.root.join(program));
        command.env_clear().current_dir("/").stdin(Stdio::null());
        command
    }
}

impl Driver for Kernel {
    fn load(&mut self, module: &Module, limit: Duration) -> Result<(), Fault> {
        let path = self.root.join(MODULES).join(format!("{}.ko", module.name));
        let file = File::open(&path).map_err(|source| Fault::Path { path, source })?;
        let parameters = CString::new(module.parameters).unwrap_or_default();
        // Nobody can end a call to the kernel; a thread that waits for it for ever ends with the VM.
        let (sender, receiver) = channel();
        thread::spawn(move || {
            // Nobody listens any more: it was too late.
            let _ = sender.send(finit_module(&file, &parameters, ModuleInitFlags::empty()));
        });
        receiver.recv_timeout(limit).map_err(|_| Fault::Late(limit))?.map_err(Fault::Module)
    }

    fn nodes(&mut self, gpus: u16) -> Result<Vec<String>, Fault> {
        let usual = umask(Permissions::empty());
        let made = (|| {
            self.node("nvidiactl", MAJOR, CONTROL)?;
            for minor in 0..gpus {
                self.node(&format!("nvidia{minor}"), MAJOR, minor.into())?;
            }
            let mut common = vec!["/dev/nvidiactl".to_owned()];
            if self.has_uvm {
                let major = self.major(UVM)?;
                for (minor, name) in [UVM, "nvidia-uvm-tools"].into_iter().enumerate() {
                    self.node(name, major, minor as u64)?;
                    common.push(format!("/dev/{name}"));
                }
            }
            Ok(common)
        })();
        umask(usual);
        made
    }

    fn open(&mut self, plan: &Plan, tell: &mut dyn FnMut(Opening)) -> Result<(), Fault> {
        let begun = Instant::now();
        let mut command = self.command(PERSISTENCE);
        // Of a whole board the driver refuses it: links and unified memory need each other (its own help says so).
        command.args((plan.mode == GpuMode::On).then_some("--uvm-persistence-mode"));
        // It becomes a daemon when it holds every GPU; until then the process that was started here waits.
        let (program, child) = start(command, false)?;
        let mut open = Vec::new();
        let mut said = begun;
        let end = loop {
            match child.wait(LOOK) {
                Some(end) => break end?,
                None if begun.elapsed() >= plan.opening => {
                    child.kill();
                    return Err(Fault::Late(plan.opening));
                }
                None => {}
            }
            for slot in &plan.slots {
                if !open.contains(slot) && is_open(&self.root, *slot) {
                    open.push(*slot);
                    said = Instant::now();
                    tell(Opening::One { slot: *slot, after: begun.elapsed() });
                }
            }
            if said.elapsed() >= STILL {
                said = Instant::now();
                let (after, limit) = (begun.elapsed(), plan.opening);
                tell(Opening::Waiting { open: open.len(), of: plan.slots.len(), after, limit });
            }
        };
        succeeded(program, &end)
    }

    fn join(&mut self, limit: Duration) -> Result<(), Fault> {
        let begun = Instant::now();
        let (config, log) = (self.root.join(FABRIC_CONFIG), self.root.join(FABRIC_LOG));
        // The manager of one VM that has the whole board; its own defaults are for a host.
        let text = format!(
            "LOG_LEVEL=4\nLOG_FILE_NAME={}\nDAEMONIZE=1\nBIND_INTERFACE_IP=127.0.0.1\nFABRIC_MODE=0\n\
             STATE_FILE_NAME=/run/coffer/fabricmanager.state\nDATABASE_PATH=/usr/share/nvidia/nvswitch\n",
            log.display()
        );
        fs::create_dir_all(self.root.join("run/coffer"))
            .and_then(|()| fs::write(&config, text))
            .map_err(|source| Fault::Path { path: config.clone(), source })?;
        let mut command = self.command(FABRIC);
        command.arg("-c").arg(&config);
        let (program, child) = start(command, false)?;
        match child.wait(limit) {
            Some(end) => succeeded(program, &end?)?,
            None => {
                child.kill();
                return Err(Fault::Late(limit));
            }
        }
        let is_ready =
            || fs::read(&log).is_ok_and(|text| String::from_utf8_lossy(&text).contains(FABRIC_READY));
        while !is_ready() {
            if begun.elapsed() >= limit {
                return Err(Fault::Late(limit));
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "the log is a file, of which nothing tells; the boot waits for it"
            )]
            thread::sleep(LOOK);
        }
        Ok(())
    }

    fn ask(&mut self, limit: Duration) -> Result<Vec<Seen>, Fault> {
        let mut command = self.command(ASKER);
        command.arg("list");
        let (program, child) = start(command, true)?;
        let Some(end) = child.wait(limit) else {
            child.kill();
            return Err(Fault::Late(limit));
        };
        let end = end?;
        let text = end.said.clone();
        succeeded(program.clone(), &end)?;
        let answer = |line: &str| {
            Seen::parse(line).ok_or_else(|| Fault::Answer {
                program: program.clone(),
                line: line.chars().take(200).collect(),
            })
        };
        text.lines().map(answer).collect()
    }

    fn publish(&mut self, spec: &str) -> Result<(), Fault> {
        let path = self.root.join(CDI);
        let made = path.parent().map_or(Ok(()), fs::create_dir_all);
        made.and_then(|()| File::create_new(&path)?.write_all(spec.as_bytes()))
            .map_err(|source| Fault::Path { path, source })
    }
}

/// Whether the driver has talked to a GPU: only then it knows its name (`/proc/driver/nvidia/gpus/SLOT/information`).
fn is_open(root: &Path, slot: PciAddress) -> bool {
    let path = root.join("proc/driver/nvidia/gpus").join(slot.to_string()).join("information");
    let text = fs::read_to_string(path).unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("GPU UUID:"));
    name.is_some_and(|name| name.trim().starts_with("GPU-") && !name.contains('?'))
}

impl Seen {
    /// A line of the program that asks: slot, minor number, mode, name, product; tabs between them.
    pub fn parse(line: &str) -> Option<Self> {
        let mut fields = line.splitn(5, '\t');
        let slot = fields.next()?.parse().ok()?;
        let minor = fields.next()?.parse().ok()?;
        let mode = GpuMode::from_name(fields.next()?)?;
        let (uuid, product) = (fields.next()?.to_owned(), fields.next()?.to_owned());
        (!uuid.is_empty() && !product.is_empty()).then_some(Self { slot, minor, mode, uuid, product })
    }
}

/// How a program ended, and what it said.
struct End {
    status: ExitStatus,
    said: String,
}

/// A program that runs, and somebody who waits for it.
struct Running {
    pid: Pid,
    end: Receiver<io::Result<End>>,
    program: PathBuf,
}

impl Running {
    /// Its end, unless that takes longer.
    fn wait(&self, limit: Duration) -> Option<Result<End, Fault>> {
        let path = self.program.clone();
        match self.end.recv_timeout(limit) {
            Ok(end) => Some(end.map_err(|source| Fault::Path { path, source })),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                Some(Err(Fault::Path { path, source: io::ErrorKind::BrokenPipe.into() }))
            }
        }
    }

    fn kill(&self) {
        // It may have ended meanwhile; nobody else has its number before it was waited for.
        let _ = kill(self.pid, Signal::SIGKILL);
    }
}

/// Starts a program; `heard` if what it says is its answer, else that goes to the console.
fn start(mut command: Command, heard: bool) -> Result<(PathBuf, Running), Fault> {
    let program = PathBuf::from(command.get_program());
    if heard {
        command.stdout(Stdio::piped());
    }
    let failed = |source| Fault::Path { path: program.clone(), source };
    let child = command.spawn().map_err(failed)?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let (sender, end) = channel();
    thread::spawn(move || {
        // Nobody listens any more: it was too late.
        let _ = sender.send(finish(child));
    });
    Ok((program.clone(), Running { pid, end, program }))
}

fn finish(mut child: Child) -> io::Result<End> {
    let mut said = Vec::new();
    if let Some(output) = child.stdout.take() {
        output.take(ANSWER).read_to_end(&mut said)?;
    }
    let status = child.wait()?;
    Ok(End { status, said: String::from_utf8_lossy(&said).into_owned() })
}

fn succeeded(program: PathBuf, end: &End) -> Result<(), Fault> {
    if end.status.success() {
        return Ok(());
    }
    let how = match (end.status.code(), end.status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    };
    let said = end.said.lines().next().map(|line| format!(": {line}")).unwrap_or_default();
    Err(Fault::Ended { program, end: how, said })
}
