//! The control socket: one JSON object a line, one answer a line.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::Builder;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use vfio_bindings::bindings::vfio::{VFIO_PCI_ERR_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX};

use crate::server::Shared;
use crate::{Faults, State, Timing};

/// What can be asked for. As in `{"op":"set-knob","knob":8,"value":1}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// [`State`].
    State,
    /// Replaces all faults.
    SetFaults {
        /// The new ones; empty for none.
        faults: Faults,
    },
    /// Changes a setting behind everybody's back.
    SetKnob {
        /// Its id.
        knob: u16,
        /// Its value.
        value: u16,
    },
    /// Changes how long things take, in milliseconds.
    #[serde(rename_all = "kebab-case")]
    SetTiming {
        /// [`Timing::boot`].
        boot: u64,
        /// [`Timing::firewall`].
        firewall: u64,
        /// [`Timing::reply`].
        reply: u64,
    },
    /// Somebody else's reset.
    Reset,
    /// Power off and on.
    PowerCycle,
    /// To D3hot.
    Sleep,
    /// Leaves a reply for the next user to find.
    StaleReply,
    /// DMA into the VM.
    DmaWrite {
        /// Bus address.
        address: u64,
        /// What to write.
        data: Vec<u8>,
    },
    /// DMA from the VM.
    DmaRead {
        /// Bus address.
        address: u64,
        /// Bytes, 4096 at most.
        length: usize,
    },
    /// DMA from the VM, in search of the lowest page that begins with this.
    DmaFind {
        /// What to look for.
        data: Vec<u8>,
    },
    /// Raises an MSI-X interrupt.
    Interrupt {
        /// Which.
        vector: u32,
    },
    /// Reports a fatal bus error to the VMM, as VFIO does for an uncorrectable AER event.
    BusError,
    /// Forgets requests and violations.
    ClearLog,
}

/// The answer. As in `{"ok":"done"}`, `{"ok":{"data":[0]}}`, `{"error":"..."}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// It was done.
    Ok(Value),
    /// It was not, and why.
    Error(String),
}

/// What an answer carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Value {
    /// Nothing.
    Done,
    /// Bytes.
    Data(Vec<u8>),
    /// An address, if there is one.
    Address(Option<u64>),
    /// The state.
    State(Box<State>),
}

const LONGEST_READ: usize = 4096;

pub(crate) fn serve(path: &Path, device: Shared) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    let serve = move || {
        for stream in listener.incoming().flatten() {
            if device.ended() {
                return;
            }
            let device = device.clone();
            let talk = move || {
                if let Err(error) = talk(stream, &device) {
                    eprintln!("emulated-gpu: control: {error}");
                }
            };
            if let Err(error) = Builder::new().name("control".to_owned()).spawn(talk) {
                eprintln!("emulated-gpu: control: {error}");
            }
        }
    };
    Builder::new().name("control".to_owned()).spawn(serve).map(drop)
}

fn talk(stream: UnixStream, device: &Shared) -> io::Result<()> {
    let mut writer = stream.try_clone()?;
    for line in BufReader::new(stream).lines() {
        let response = match serde_json::from_str(&line?) {
            Ok(request) => answer(device, request),
            Err(error) => Response::Error(error.to_string()),
        };
        let mut line = serde_json::to_vec(&response)?;
        line.push(b'\n');
        writer.write_all(&line)?;
    }
    Ok(())
}

fn answer(device: &Shared, request: Request) -> Response {
    let now = Instant::now();
    let mut device = device.lock();
    let done: Result<Value, String> = match request {
        Request::State => Ok(Value::State(Box::new(device.state(now)))),
        Request::SetFaults { faults } => {
            device.faults = faults;
            Ok(Value::Done)
        }
        Request::SetKnob { knob, value } => {
            device.set_knob(knob, value).then_some(Value::Done).ok_or_else(|| format!("no knob {knob}"))
        }
        Request::SetTiming { boot, firewall, reply } => {
            let [boot, firewall, reply] = [boot, firewall, reply].map(Duration::from_millis);
            device.set_timing(Timing { boot, firewall, reply });
            Ok(Value::Done)
        }
        Request::Reset => {
            device.reset(now);
            Ok(Value::Done)
        }
        Request::PowerCycle => {
            device.power_cycle(now);
            Ok(Value::Done)
        }
        Request::Sleep => {
            device.sleep();
            Ok(Value::Done)
        }
        Request::StaleReply => {
            device.leave_stale_reply();
            Ok(Value::Done)
        }
        Request::DmaWrite { address, data } => {
            device.dma_write(address, &data).map(|()| Value::Done).map_err(|e| e.to_string())
        }
        Request::DmaRead { address, length } => {
            let mut data = vec![0; length.min(LONGEST_READ)];
            device.dma_read(address, &mut data).map(|()| Value::Data(data)).map_err(|e| e.to_string())
        }
        Request::DmaFind { data } => device.dma_find(&data).map(Value::Address).map_err(|e| e.to_string()),
        Request::Interrupt { vector } => raised(device.interrupts.raise(VFIO_PCI_MSIX_IRQ_INDEX, vector)),
        Request::BusError => raised(device.interrupts.raise(VFIO_PCI_ERR_IRQ_INDEX, 0)),
        Request::ClearLog => {
            device.clear_log();
            Ok(Value::Done)
        }
    };
    done.map_or_else(Response::Error, Response::Ok)
}

fn raised(heard: io::Result<bool>) -> Result<Value, String> {
    match heard {
        Ok(true) => Ok(Value::Done),
        Ok(false) => Err("nobody listens for this interrupt".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// The other end, for tests: over the socket itself, or over whatever leads to it.
#[derive(Debug)]
pub struct Client<S = UnixStream>(BufReader<S>);

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Nobody serves the socket.
    pub fn connect(path: &Path) -> io::Result<Self> {
        Ok(Self::over(UnixStream::connect(path)?))
    }
}

impl<S: Read + Write> Client<S> {
    /// Talks over an open stream.
    pub fn over(stream: S) -> Self {
        Self(BufReader::new(stream))
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// The emulator is gone; what it refuses is an error, too.
    pub fn ask(&mut self, request: &Request) -> io::Result<Value> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.0.get_mut().write_all(&line)?;
        let mut answer = String::new();
        self.0.read_line(&mut answer)?;
        match serde_json::from_str(&answer)? {
            Response::Ok(value) => Ok(value),
            Response::Error(error) => Err(io::Error::other(error)),
        }
    }
}
