//! A QMP client: asynchronous, answers matched by id, events on a channel of their own.
//!
//! The client never decides how long to wait: a caller that must not hang wraps a call in the deadline of its
//! phase ([`crate::progress`]). When the monitor closes, every call in flight ends with [`QmpError::Closed`].

mod message;
mod pci;

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_client::sanitize;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};
use tokio::time::sleep;

use crate::progress::Activity;
pub use message::{ErrorBody, Event, Greeting, MAX_LINE, Message, VersionTriple, parse};
pub use pci::Misplaced;

/// Why a QMP call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The monitor ended: QEMU is gone or going.
    #[error("QEMU closed its monitor")]
    Closed,
    /// The monitor could not be read or written.
    #[error("QEMU's monitor failed")]
    Io(#[from] std::io::Error),
    /// The other side did not speak QMP.
    #[error("QEMU's monitor said something that is not QMP: {0}")]
    Protocol(String),
    /// QEMU refused the command.
    #[error("QEMU refused `{command}`: {desc}")]
    Refused {
        /// The command's name.
        command: String,
        /// QEMU's error class.
        class: String,
        /// QEMU's text.
        desc: String,
    },
}

/// Events that somebody acts on; the others are dropped as they come, since a guest causes some of them as often as it likes.
const HEARD: [&str; 3] = ["DEVICE_DELETED", "GUEST_PANICKED", "SHUTDOWN"];
/// How many of them wait for their reader. A VM has a handful in its life; whoever has taken QEMU over sends them without end,
/// and those beyond are dropped.
const MAX_EVENTS: usize = 64;
/// The longest event that is kept, in bytes.
const MAX_EVENT: usize = 8 << 10;

type Pending = HashMap<u64, oneshot::Sender<Result<Value, ErrorBody>>>;

struct Shared {
    /// `None` once the monitor has ended: later calls fail at once instead of waiting for an answer.
    pending: Mutex<Option<Pending>>,
    writer: AsyncMutex<Writer>,
}

struct Writer {
    next_id: u64,
    stream: Box<dyn AsyncWrite + Send + Unpin>,
    /// The same socket once more, for what goes with a descriptor. Without it none can be passed.
    descriptors: Option<StdUnixStream>,
}

/// How long to wait for room in the monitor's socket, which QEMU empties.
const ROOM: Duration = Duration::from_millis(5);

impl Writer {
    /// Writes a line, and passes a descriptor with its first byte.
    async fn write(&mut self, line: &[u8], passed: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let Some(passed) = passed else { return self.stream.write_all(line).await };
        let Some(socket) = &self.descriptors else { return Err(io::ErrorKind::Unsupported.into()) };
        loop {
            let fds = [passed.as_raw_fd()];
            let control = [ControlMessage::ScmRights(&fds)];
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(line)], &control, flags, None) {
                Ok(sent) => return self.stream.write_all(line.get(sent..).unwrap_or_default()).await,
                Err(Errno::EAGAIN | Errno::EINTR) => sleep(ROOM).await,
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Option<Pending>> {
        // Only insert and remove happen under the lock: a panic cannot leave it half-changed.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handle on QEMU's monitor; clones share it.
#[derive(Clone)]
pub struct Qmp {
    shared: Arc<Shared>,
    version: VersionTriple,
}

impl std::fmt::Debug for Qmp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Qmp").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Qmp {
    /// Reads the greeting, negotiates, and starts the reader task. Every line from QEMU marks `activity`. `descriptors` is the
    /// writer's socket once more, where descriptors are to be passed. Events arrive on the returned channel; it ends when the
    /// monitor does.
    ///
    /// # Errors
    /// The peer hangs up or does not speak QMP.
    pub async fn connect<R, W>(
        reader: R,
        writer: W,
        descriptors: Option<StdUnixStream>,
        activity: Activity,
    ) -> Result<(Self, mpsc::Receiver<Event>), QmpError>
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let mut lines = BufReader::new(reader);
        let mut line = Vec::new();
        let greeting = match read_line(&mut lines, &mut line).await? {
            true => serde_json::from_slice::<Greeting>(&line)
                .map_err(|_| QmpError::Protocol(format!("greeting is `{}`", excerpt(&line))))?,
            false => return Err(QmpError::Closed),
        };
        activity.mark();
        let shared = Arc::new(Shared {
            pending: Mutex::new(Some(HashMap::new())),
            writer: AsyncMutex::new(Writer { next_id: 1, stream: Box::new(writer), descriptors }),
        });
        let (events, receiver) = mpsc::channel(MAX_EVENTS);
        tokio::spawn(read_messages(lines, Arc::clone(&shared), events, activity));
        let qmp = Self { shared, version: greeting.qmp.version.qemu };
        qmp.execute("qmp_capabilities", Value::Null).await?;
        Ok((qmp, receiver))
    }

    /// The version that QEMU said it has.
    pub fn version(&self) -> VersionTriple {
        self.version
    }

    /// Runs one command and returns its answer. `arguments` may be null.
    ///
    /// # Errors
    /// QEMU refuses the command, or the monitor ends first.
    pub async fn execute(&self, command: &str, arguments: impl Serialize) -> Result<Value, QmpError> {
        self.call(command, arguments, None).await
    }

    /// The same for a command that takes a descriptor: `add-fd`, `getfd`.
    ///
    /// # Errors
    /// As [`Self::execute`].
    pub(crate) async fn execute_with(
        &self,
        command: &str,
        arguments: impl Serialize,
        passed: BorrowedFd<'_>,
    ) -> Result<Value, QmpError> {
        self.call(command, arguments, Some(passed)).await
    }

    async fn call(
        &self,
        command: &str,
        arguments: impl Serialize,
        passed: Option<BorrowedFd<'_>>,
    ) -> Result<Value, QmpError> {
        let arguments = serde_json::to_value(arguments).map_err(|e| QmpError::Protocol(e.to_string()))?;
        let receiver = self.send(command, &arguments, passed).await?;
        match receiver.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(ErrorBody { class, desc })) => Err(QmpError::Refused {
                command: command.to_owned(),
                class: sanitize(&class),
                desc: sanitize(&desc),
            }),
            Err(_) => Err(QmpError::Closed),
        }
    }

    async fn send(
        &self,
        command: &str,
        arguments: &Value,
        passed: Option<BorrowedFd<'_>>,
    ) -> Result<oneshot::Receiver<Result<Value, ErrorBody>>, QmpError> {
        let mut writer = self.shared.writer.lock().await;
        let id = writer.next_id;
        writer.next_id += 1;
        let mut line = match arguments {
            Value::Null => serde_json::json!({ "execute": command, "id": id }),
            arguments => serde_json::json!({ "execute": command, "arguments": arguments, "id": id }),
        }
        .to_string();
        line.push('\n');
        let (sender, receiver) = oneshot::channel();
        match self.shared.pending().as_mut() {
            Some(pending) => pending.insert(id, sender),
            None => return Err(QmpError::Closed),
        };
        if let Err(error) = writer.write(line.as_bytes(), passed).await {
            if let Some(pending) = self.shared.pending().as_mut() {
                pending.remove(&id);
            }
            return Err(error.into());
        }
        Ok(receiver)
    }
}

/// The reader task: hands answers to their callers and events to the driver, until the monitor ends.
async fn read_messages<R: AsyncRead + Unpin>(
    mut lines: BufReader<R>,
    shared: Arc<Shared>,
    events: mpsc::Sender<Event>,
    activity: Activity,
) {
    let mut line = Vec::new();
    while let Ok(true) = read_line(&mut lines, &mut line).await {
        activity.mark();
        let (id, answer) = match parse(&line) {
            Ok(Message::Return { id, value }) => (id, Ok(value)),
            Ok(Message::Error { id: Some(id), error }) => (id, Err(error)),
            Ok(Message::Event(event)) => {
                if line.len() <= MAX_EVENT && HEARD.contains(&event.event.as_str()) {
                    let _ = events.try_send(event);
                }
                continue;
            }
            // An error without an id would mean that we sent something unreadable, and a line that does not parse
            // that the peer is not QEMU: nothing later can be trusted to match.
            Ok(Message::Error { id: None, .. }) | Err(_) => break,
        };
        let caller = shared.pending().as_mut().and_then(|pending| pending.remove(&id));
        if let Some(caller) = caller {
            let _ = caller.send(answer);
        }
    }
    // Dropping the senders ends every call in flight.
    shared.pending().take();
}

/// Reads one line into `line`, without its end. `false` at the end of the stream.
async fn read_line<R: AsyncRead + Unpin>(
    reader: &mut BufReader<R>,
    line: &mut Vec<u8>,
) -> Result<bool, QmpError> {
    line.clear();
    let limit = MAX_LINE as u64;
    let read = reader.take(limit).read_until(b'\n', line).await?;
    if line.last() == Some(&b'\n') {
        line.pop();
        return Ok(true);
    }
    match read {
        MAX_LINE => Err(QmpError::Protocol(format!("a line longer than {MAX_LINE} bytes"))),
        _ => Ok(false),
    }
}

fn excerpt(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).escape_debug().to_string()
}

#[cfg(test)]
mod tests;
